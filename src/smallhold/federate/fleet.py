"""A fleet of simulated sites before the real server: what thousands of sites, some of them faulty, ask of it.

Simulated are the sites' rows and their faults. The sites' training, what is sent, the server, its journal, aggregation
and receipts are those of every job. One site is in memory at a time, so that the process shows what the server needs.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smallhold.device.durable_file import write_durably
from smallhold.errors import RecipeError, UpdateRefused
from smallhold.evaluate.metrics import auroc
from smallhold.federate.filters import decode_delta, encode_delta
from smallhold.federate.job import FederatedJob
from smallhold.federate.local_model import LocalModel, Rows
from smallhold.federate.messages import Update
from smallhold.federate.server import JOURNAL, RoundServer
from smallhold.federate.site import Site

Fault = Literal["lag", "drop", "lie", "replay", "malform", "poison"]
_FAULTS: tuple[Fault, ...] = ("lag", "drop", "lie", "replay", "malform", "poison")
#: (round, rounds in all, sites heard, sites in the round).
Progress = Callable[[int, int, int, int], None]
_CLAIM = 10**6  # how many times its examples a site that lies claims to have
_ROWS_AT_ONCE = 256  # of a prediction
_EVERY = 100  # sites between two words of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Shares of the sites that are faulty, in every round of a job; a site has one fault.

    Attributes:
        lag: Their update of a round arrives in the next.
        drop: They never answer.
        lie: They say that they have a million times the examples they have.
        replay: They answer once, and send that answer again ever after; in the same round as well.
        malform: What they send is cut short, of another length, or not finite, in turn.
        poison: Their update is turned round and made `poison_scale` times as long.
        poison_scale: See there.
    """

    lag: float = 0.0
    drop: float = 0.0
    lie: float = 0.0
    replay: float = 0.0
    malform: float = 0.0
    poison: float = 0.0
    poison_scale: float = 10.0

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in _FAULTS:
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name}: expected a share of the sites in [0, 1], got {getattr(self, name)}")
        if sum(getattr(self, name) for name in _FAULTS) > 1:
            raise RecipeError(f"faults: expected shares of at most 1 together, got {self}: a site has one fault")
        if not 0 < self.poison_scale < 1e6:
            raise RecipeError(f"poison_scale: expected a number above 0 and below 1e6, got {self.poison_scale}")

    def drawn(self, sites: tuple[str, ...], seed: int) -> dict[str, Fault]:
        """Which sites are faulty, and how."""
        order = np.random.default_rng([seed, 41]).permutation(len(sites))
        found: dict[str, Fault] = {}
        at = 0
        for name in _FAULTS:
            count = round(getattr(self, name) * len(sites))
            found |= dict.fromkeys((sites[place] for place in order[at : at + count]), name)
            at += count
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What a round was like for the server.

    Attributes:
        round: 0 for the first.
        asked: Sites of the cohort.
        accepted: Updates that count.
        refused: Reason -> updates.
        capped: Accepted updates of more examples than the job lets a site count as.
        bytes: Of accepted updates, as they came.
        server_cpu_s: CPU seconds of the server: receiving and closing.
        server_cpu_ms_per_site: The same, in milliseconds, for each site of the cohort.
        wall_s: Of the round, the simulated sites' training included.
        peak_rss_bytes: Largest memory of the process so far, the simulated sites included.
        auroc: On held-out simulated rows, of the model that came out.
        log_loss: There as well.
    """

    round: int
    asked: int
    accepted: int
    refused: dict[str, int]
    capped: int
    bytes: int
    server_cpu_s: float
    server_cpu_ms_per_site: float
    wall_s: float
    peak_rss_bytes: int
    auroc: float
    log_loss: float


class Fleet:
    """Simulated sites, one in memory at a time.

    Args:
        job: What is carried out; its sites are simulated.
        model: What is trained.
        rows_of: Site -> its simulated rows.
        faults: Of the sites.
        folder: Of the sites' state.
    """

    def __init__(
        self, job: FederatedJob, model: LocalModel, rows_of: Callable[[str], Rows], faults: Faults, folder: Path
    ) -> None:
        self._job, self._model, self._rows_of, self._faults, self._folder = job, model, rows_of, faults, folder
        self._kind = faults.drawn(job.sites, job.seed)
        self._kept.mkdir(parents=True, exist_ok=True)

    @property
    def _kept(self) -> Path:
        return self._folder / "kept-by-faulty-sites"

    def answers(self, site: str, number: int, request: bytes) -> Iterator[bytes]:
        """What a site sends in a round before it is closed: one blob, two, or none."""
        fault = self._kind.get(site)
        old = self._kept / site
        if fault == "drop":
            return
        if fault == "replay" and old.exists():
            yield old.read_bytes()
            return
        blob = self._honest(site, request)
        match fault:
            case "lag":
                write_durably(old, [blob], removes_leftovers=False)
            case "replay":
                write_durably(old, [blob], removes_leftovers=False)
                yield blob
                yield blob
            case "lie":
                update = Update.from_bytes(blob)
                yield replace(update, num_examples=max(1, update.num_examples) * _CLAIM).to_bytes()
            case "malform":
                yield self._malformed(blob, number)
            case "poison":
                yield self._poisoned(blob)
            case _:
                yield blob

    def late_answers(self, cohort: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
        """What arrives after a round was closed."""
        for site in cohort:
            late = self._kept / site
            if self._kind.get(site) == "lag" and late.exists():
                yield site, late.read_bytes()
                late.unlink()

    def _honest(self, site: str, request: bytes) -> bytes:
        return Site(site, self._job, self._model, self._rows_of(site), self._folder / site).respond(request)

    def _malformed(self, blob: bytes, number: int) -> bytes:
        update = Update.from_bytes(blob)
        size = self._model.layout.size
        match number % 3:
            case 0:
                return blob[: len(blob) // 2]
            case 1:
                arrays = {"delta": np.ones(size + 1, np.float32)}
            case _:
                arrays = {"delta": np.full(size, np.nan, np.float32)}
        return replace(update, encoding=(), arrays=arrays).to_bytes()

    def _poisoned(self, blob: bytes) -> bytes:
        update = Update.from_bytes(blob)
        delta = decode_delta(update, self._job, self._model.layout.size) * np.float32(-self._faults.poison_scale)
        encoding, arrays, _ = encode_delta(delta, self._job, 0)
        return replace(update, encoding=encoding, arrays=arrays).to_bytes()


def fleet_job(job: FederatedJob, sites: tuple[str, ...], faults: Faults) -> FederatedJob:
    """A job's rules for simulated sites; its quorum allows for those that will not count.

    Raises:
        RecipeError: the rules do not allow for so many faulty sites.
    """
    if job.upload.is_hidden:
        raise RecipeError(
            f"{job.upload.hidden_by}: faults of simulated sites are in single updates, which a secure sum hides"
        )
    if job.is_counting:
        raise RecipeError("statistics: simulated sites train; expected a job without this table")
    cohort = min(job.cohort, len(sites))
    missing = sum(round(share * len(sites)) for share in (faults.lag, faults.drop, faults.replay, faults.malform))
    quorum = max(1, (cohort or len(sites)) - missing)
    return replace(job, task="simulated", sites=sites, cohort=cohort, quorum=quorum)


def simulate(
    job: FederatedJob,
    model: LocalModel,
    rows_of: Callable[[str], Rows],
    held_out: Rows,
    faults: Faults,
    folder: Path,
    *,
    progress: Progress = lambda *_: None,
) -> list[RoundReport]:
    """Carry a job out with simulated sites.

    Args:
        job: See `fleet_job`.
        model: What is trained.
        rows_of: Site -> its simulated rows.
        held_out: Simulated rows that no site has.
        faults: Of the sites.
        folder: New; holds `server/` as of every job, and `sites/`.
        progress: Called every hundred sites.

    Raises:
        RecipeError: the folder holds a job already.
        QuorumError: too few updates counted.
    """
    if (folder / "server" / JOURNAL).exists():
        raise RecipeError(f"{folder}: holds a job already", hint="choose another folder, or remove it")
    fleet = Fleet(job, model, rows_of, faults, folder / "sites")
    server = RoundServer(job, model.layout, model.initial(job.seed), folder / "server")
    try:
        reports = []
        late: Iterator[tuple[str, bytes]] = iter(())
        while not server.is_finished:
            cohort = server.cohort
            reports.append(_round(server, fleet, late, held_out, model, progress))
            late = fleet.late_answers(cohort)
        return reports
    finally:
        server.close()


def _round(
    server: RoundServer,
    fleet: Fleet,
    late: Iterator[tuple[str, bytes]],
    held_out: Rows,
    model: LocalModel,
    progress: Progress,
) -> RoundReport:
    number, cohort, most = server.round, server.cohort, server.job.aggregation.max_examples
    began, cpu = time.monotonic(), 0.0
    refused: Counter[str] = Counter()
    accepted = capped = size = 0

    def deliver(site: str, blob: bytes) -> None:
        nonlocal cpu, accepted, capped, size
        begun = time.process_time()
        try:
            update = server.receive(blob, sender=site)
            accepted, size = accepted + 1, size + len(blob)
            capped += isinstance(update, Update) and 0 < most < update.num_examples
        except UpdateRefused as refusal:
            refused[refusal.reason] += 1
        cpu += time.process_time() - begun

    for site, blob in late:
        deliver(site, blob)
    request = server.request()
    for place, site in enumerate(cohort):
        for blob in fleet.answers(site, number, request):
            deliver(site, blob)
        if place % _EVERY == 0:
            progress(number, server.job.rounds, place, len(cohort))
    begun = time.process_time()
    vector = server.close_round()
    cpu += time.process_time() - begun
    peak = peak_rss_bytes()  # measuring the quality is nothing that a server does
    odds = np.concatenate(
        [model.predict(vector, held_out.take(list(part))) for part in _parts(len(held_out), _ROWS_AT_ONCE)]
    )
    return RoundReport(
        round=number,
        asked=len(cohort),
        accepted=accepted,
        refused=dict(sorted(refused.items())),
        capped=capped,
        bytes=size,
        server_cpu_s=round(cpu, 3),
        server_cpu_ms_per_site=round(1000 * cpu / len(cohort), 3),
        wall_s=round(time.monotonic() - began, 2),
        peak_rss_bytes=peak,
        auroc=round(auroc(held_out.label, odds), 4),
        log_loss=round(float(np.logaddexp(0, np.where(held_out.label == 1, -odds, odds)).mean()), 4),
    )


def _parts(count: int, most: int) -> list[range]:
    return [range(start, min(start + most, count)) for start in range(0, count, most)]


def peak_rss_bytes() -> int:
    """Largest memory of this process so far."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else 1024 * found  # getrusage(2): kilobytes, and bytes on macOS


def format_reports(reports: list[RoundReport], honest: list[RoundReport] | None) -> str:
    """A table for a terminal: a line a round, the job without faulty sites beside it."""
    lines = [
        f"{'round':>5}{'asked':>8}{'counted':>9}{'capped':>8}{'MB':>9}{'CPU ms/site':>13}{'peak MB':>9}{'AUROC':>8}"
        f"{'log loss':>10}{'without faults':>18}  refused"
    ]
    for place, report in enumerate(reports):
        beside = f"{honest[place].auroc:.4f} {honest[place].log_loss:.4f}" if honest else ""
        refused = ", ".join(f"{count} {reason}" for reason, count in report.refused.items()) or "none"
        lines.append(
            f"{report.round:>5}{report.asked:>8}{report.accepted:>9}{report.capped:>8}{report.bytes / 1e6:>9.1f}"
            f"{report.server_cpu_ms_per_site:>13.2f}{report.peak_rss_bytes / 1e6:>9.0f}{report.auroc:>8.4f}"
            f"{report.log_loss:>10.4f}{beside:>18}  {refused}"
        )
    return "\n".join(lines)


def to_json(reports: list[RoundReport]) -> list[dict[str, Any]]:
    """Ready for JSON."""
    return [asdict(report) for report in reports]
