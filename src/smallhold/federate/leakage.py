"""How much a finished job gave away of its records, measured on what its server saw.

Membership is known: which rows are trained on is a hash of their group's name (`sectors.splits`), and a hash is as good
as a coin. Rows of the training part are kept with the chance that makes the coin fair, so that the one-run audit of
Steinke et al. (`privacy.audit`) holds for those that are left. The attack is the server's: how far the update that a
site sent moves a row of that site towards its label, all rounds together, in log-odds, which a sure model does not
flatten as it does its loss (Carlini et al. 2022, arXiv:2112.03570, section VI-A).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from smallhold.errors import FederationError, InputError, LedgerError
from smallhold.federate.consent import ConsentList
from smallhold.federate.filters import decode_delta
from smallhold.federate.job import FederatedJob
from smallhold.federate.journal import read_journal
from smallhold.federate.local_model import LocalModel, Rows, odds_of_label
from smallhold.federate.messages import Update
from smallhold.federate.round_budget import LEDGER
from smallhold.federate.server import JOURNAL
from smallhold.federate.spending import read_spending
from smallhold.federate.verify import verify_run
from smallhold.privacy.audit import AuditResult, MembershipInference, audit_one_run, measure_membership
from smallhold.privacy.checks import check_positive

# Of ten tenths, seven are trained on; calibration and validation are the two that are held out here.
_TRAINED, _HELD_OUT = 7, 2
_SHARE_OF_GUESSES = 4
_LEAST = 20


@dataclass(frozen=True, slots=True)
class Leakage:
    """What an audit found.

    Attributes:
        bound: Lower bound on epsilon, and the claim that it is held against.
        membership: How well the same scores tell members from others.
        claimed_by: Where the claim comes from.
        members: How many of the records were trained on.
    """

    bound: AuditResult
    membership: MembershipInference
    claimed_by: str
    members: int


def audit_run(
    job: FederatedJob,
    model: LocalModel,
    folder: Path,
    training: Mapping[str, Rows],
    held_out: Mapping[str, Rows],
    *,
    claim: float | None = None,
    delta: float | None = None,
    guesses: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Leakage:
    """Audit a finished job.

    Args:
        job: As it was carried out.
        model: Of the job.
        folder: Of the run, with `server/` and, for consent and ledgers, `sites/`.
        training: Site -> the rows that it trained on.
        held_out: Site -> rows of the calibration and validation parts.
        claim: Record-level epsilon; None takes what the sites' ledgers say, or the job's budget where they are not
            here, or nothing.
        delta: Of the claim; None takes the job's.
        guesses: How many records the attack speaks of, fixed beforehand; None takes a quarter.
        confidence: Of the bound.
        seed: Of which members are kept.

    Raises:
        FederationError: another job, not finished, or its folder is not what its journal says.
        InputError: the job counts, too few records, or an argument is out of range.
    """
    if job.is_counting:
        raise InputError(f"job {job.name}: counts are no model whose updates could be audited")
    if claim is not None:
        check_positive(claim, "claim")
    _check_whole(job, folder)
    if missing := sorted(set(job.sites) - set(training)):
        raise InputError(f"job {job.name}: no rows of {', '.join(missing)}; the data have {', '.join(training)}")
    scores, is_member = _scores(job, model, folder, training, held_out, np.random.default_rng([seed, 23]))
    if min(int(is_member.sum()), int((~is_member).sum())) < _LEAST:
        raise InputError(
            f"job {job.name}: {len(scores)} records are left, {int(is_member.sum())} of them members; expected at "
            f"least {_LEAST} of either: fewer show nothing"
        )
    stated, by = (claim, "--claim") if claim is not None else _claim(job, folder)
    bound = audit_one_run(
        scores,
        is_member,
        guesses=guesses if guesses is not None else max(2, len(scores) // _SHARE_OF_GUESSES // 2 * 2),
        delta=job.record_privacy.delta if delta is None else delta,
        confidence=confidence,
        claimed=stated,
    )
    return Leakage(bound, measure_membership(scores, is_member), by, int(is_member.sum()))


def _check_whole(job: FederatedJob, folder: Path) -> None:
    report = verify_run(folder / "server")
    if report["problems"]:
        raise FederationError(
            f"{folder}: {report['problems'][0]}", hint=f"smallhold federate verify {folder} says all of it"
        )
    first = read_journal(folder / "server" / JOURNAL)[0]
    if first.body["job"] != job.digest:
        raise FederationError(f"{folder}: holds another job than {job.name}, or another version of it")
    if not report["summary"]["is_finished"]:
        raise FederationError(f"job {job.name}: not finished", hint="an audit is of what was released in all")


def _scores(
    job: FederatedJob,
    model: LocalModel,
    folder: Path,
    training: Mapping[str, Rows],
    held_out: Mapping[str, Rows],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(m,) scores of records of all sites, and (m,) whether they were trained on."""
    scores, flags = [], []
    for site in sorted(job.sites):
        members = _kept(training[site], ConsentList(folder / "sites" / site / "withdrawals.jsonl"), rng)
        others = _alone(held_out[site]) if site in held_out else members.take([])
        rows = Rows.together([members, others])
        scores.append(_gains(job, model, folder, site, rows))
        flags.append(np.arange(len(rows)) < len(members))
    return np.concatenate(scores), np.concatenate(flags)


def _gains(job: FederatedJob, model: LocalModel, folder: Path, site: str, rows: Rows) -> NDArray[np.float64]:
    """(N,) by how much a site's updates raise the log-odds of each row's label, all rounds together."""
    total = np.zeros(len(rows))
    for number in range(job.rounds):
        path = folder / "server" / "updates" / str(number) / f"{site}.safetensors"
        if not len(rows) or not path.exists():  # it was not asked, or left out
            continue
        before = load((folder / "server" / "models" / f"{number}.safetensors").read_bytes())["model"]
        delta = decode_delta(Update.from_bytes(path.read_bytes()), job, model.layout.size)
        after = (before + delta).astype(np.float32)
        moved = [odds_of_label(model.predict(vector, rows), rows.label) for vector in (before, after)]
        total += moved[1] - moved[0]
    return total


def _kept(rows: Rows, consent: ConsentList, rng: np.random.Generator) -> Rows:
    """Members with a fair coin: each is kept with the chance that makes as many of them as of the others."""
    allowed = _alone(rows.take(consent.allowed(rows.group)))
    return allowed.take(np.flatnonzero(rng.random(len(allowed)) < _HELD_OUT / _TRAINED))


def _alone(rows: Rows) -> Rows:
    """Rows whose group has no other: two rows of a group share one coin."""
    count = Counter(rows.group)
    return rows.take([index for index, group in enumerate(rows.group) if count[group] == 1])


def _claim(job: FederatedJob, folder: Path) -> tuple[float | None, str]:
    """The record-level epsilon that is stated, and where."""
    if not job.record_privacy.epsilon:
        return None, "nobody: the job promises nothing to a record"
    ledgers = [folder / "sites" / site / LEDGER for site in job.sites]
    if not all(path.exists() for path in ledgers):
        return job.record_privacy.epsilon, "the job's budget: the sites' ledgers are not here"
    spent = [read_spending(path)["budgets"] for path in ledgers]
    try:
        return max(budgets["record"]["spent"] for budgets in spent), "the sites' ledgers"
    except KeyError as error:
        raise LedgerError(f"{folder}/sites: a ledger grants nothing to a record") from error
