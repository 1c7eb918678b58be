"""The server's side of a job: what a round asks, which updates count, and what becomes of them.

A state machine over a folder; engines call it and move bytes, nothing else. Everything that counts is in the round
journal before it counts, so that a server that was killed goes on in the round it was in::

    rounds.journal          what happened
    models/ROUND.safetensors   the global model that round ROUND begins from, with the optimizer's moments
    updates/ROUND/SITE.safetensors   accepted updates, as they came
    secure/ROUND-ATTEMPT/TURN/SITE.safetensors   accepted messages of secure rounds, instead of updates
    receipts/ROUND.dsse.json   how the model that came out of round ROUND came about, signed
    privacy.ledger          what the noise of each round has cost, where the server adds it

Refused by name: `malformed` (not a message of ours, wrong sizes, numbers that are not finite, or no counts where the
job counts), `empty` (no example, or a delta of nothing but zeros: the site did not train), `foreign` (another job),
`unknown_site`, `stale` (an earlier round, or another model than the round's), `replayed` (the site has answered this
round).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from smallhold.device.durable_file import remove_leftovers, write_durably
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import BudgetExceeded, FederationError, JournalError, QuorumError, UpdateRefused
from smallhold.federate.aggregate import Adam, krum, trimmed_mean, weighted_mean
from smallhold.federate.cell_counts import check_layout
from smallhold.federate.filters import decode_delta
from smallhold.federate.job import FederatedJob, draw_cohort
from smallhold.federate.journal import RoundJournal
from smallhold.federate.layout import Layout, Vector
from smallhold.federate.members import Members
from smallhold.federate.messages import SecureAnswer, TrainRequest, Update
from smallhold.federate.person_privacy import check_person_cost, person_budget
from smallhold.federate.receipt import FOLDER as RECEIPTS
from smallhold.federate.receipt import write_receipt
from smallhold.federate.round_budget import RoundBudget
from smallhold.federate.secure_rounds import SecureRounds
from smallhold.federate.stored_rows import StoredRows
from smallhold.privacy.accountant import Charge
from smallhold.privacy.ledger import Budget
from smallhold.privacy.noise import add_gaussian_noise, discrete_gaussian, grid_sensitivity
from smallhold.privacy.randomness import Random
from smallhold.records import sha256_hex

JOURNAL = "rounds.journal"
_NAMED = 20  # sites in a message


class RoundServer:
    """One job, from its first round to its last."""

    def __init__(
        self,
        job: FederatedJob,
        layout: Layout,
        initial: Vector,
        folder: Path,
        *,
        clock_ms: Callable[[], int] = wall_ms,
        random: Random | None = None,
        members: Members | None = None,
    ) -> None:
        """Begin a job, or go on with the one that the folder holds.

        Args:
            job: What is carried out.
            layout: Of the global model.
            initial: (P,) where the job begins; not read when the folder holds later rounds.
            folder: Of the job's state; created when absent.
            clock_ms: Wall clock for the journal.
            random: Of the noise; a cryptographically secure source when None.
            members: Keys, where the job takes secure sums; without them its rounds can only be read.

        Raises:
            JournalError: another server has the job open, or its journal or a file was altered.
            FederationError: the folder holds another job.
            BudgetExceeded: the job's rounds would cost more than its budget.
            RecipeError: the job counts and the layout is of a model.
        """
        check_layout(job, layout)
        self.job, self.layout, self._folder, self._random = job, layout, folder, random
        self._journal = RoundJournal(folder / JOURNAL, clock_ms=clock_ms)
        self._secure: SecureRounds | None = None
        if job.upload.is_hidden:
            self._secure = SecureRounds(job, layout.size, folder, self._journal, members)
        try:
            self._resume(initial)
        except BaseException:
            self._journal.close()
            raise

    def _resume(self, initial: Vector) -> None:
        self.model, self._adam = initial, Adam.start(self.layout.size)
        self.base = self.layout.digest_of(initial)
        self._sites = frozenset(self.job.sites)
        self._begin_round(0)
        begun = {"job": self.job.digest, "layout": self.layout.digest, "base": self.base}
        if not self._journal.entries:
            self._check_budget()
            self._save(0, self.model, self._adam)
            self._journal.append("job", **begun, name=self.job.name, sites=list(self.job.sites))
            self._begin_secure()
            return
        first = self._journal.entries[0]
        if first.kind != "job" or any(first.body.get(name) != value for name, value in begun.items()):
            raise FederationError(f"{self._folder}: holds another job", hint="choose another folder")
        for entry in self._journal.entries:
            if entry.kind == "update":
                self.accepted[entry.body["site"]] = entry.body["digest"]
            elif entry.kind == "round_closed":
                self.base, digest = entry.body["model"], entry.body["file"]
                self._begin_round(entry.body["round"] + 1)
            elif entry.kind == "refused":
                self._refused.add((entry.body["site"], entry.body["reason"]))
        if self.round:
            self._load(digest)
        self._begin_secure()
        remove_leftovers(self._update_file(self.round, "").parent)
        self._write_receipts()

    def _begin_round(self, number: int) -> None:
        self.round, self.accepted = number, dict[str, str]()
        self._refused: set[tuple[str | None, str]] = set()
        self.cohort = draw_cohort(self.job, number)
        self._expected = frozenset(self.cohort)

    def _begin_secure(self) -> None:
        if self._secure is not None and not self.is_finished:
            self._secure.begin(self.round, self.base, self._journal.entries)

    def _write_receipts(self) -> None:
        """Of every round that is closed; after a kill the last one may be missing."""
        missing = [n for n in range(self.round) if not (self._folder / RECEIPTS / f"{n}.dsse.json").exists()]
        if not missing:
            return
        ledger = None
        if budget := self._budget():
            with budget.open_ledger(self._folder) as held:
                ledger = held.state
        for number in missing:
            write_receipt(self._folder, self.job, self.layout, self._journal.entries, number, ledger)

    def _budget(self) -> RoundBudget | None:
        """What a round's model costs whom, where this server adds the noise."""
        privacy, job = self.job.privacy, self.job
        if job.is_counting and job.statistics.stddev and not job.upload.secure:
            return person_budget(job)
        if not privacy.noise_multiplier:
            return None
        # What rounding to the noise's grid adds to the sensitivity counts as a little less noise.
        stddev = privacy.noise_multiplier * privacy.clip_norm
        sensitivity = privacy.clip_norm + grid_sensitivity(self.layout.size, stddev)
        charge = Charge(noise_multiplier=stddev / sensitivity)
        return RoundBudget("site", Budget(privacy.epsilon, privacy.delta), charge)

    def _check_budget(self) -> None:
        """Refuse before anybody is asked what a ledger would refuse later."""
        if self.job.statistics.stddev:  # whoever adds the noise
            check_person_cost(self.job, person_budget(self.job))
            return
        privacy, budget = self.job.privacy, self._budget()
        if budget is not None and (cost := budget.cost(self.job.rounds)) > privacy.epsilon:
            raise BudgetExceeded(
                f"job {self.job.name}: {self.job.rounds} rounds at noise_multiplier {privacy.noise_multiplier:g} cost "
                f"epsilon {cost:.2f} of {privacy.epsilon:g} at delta {privacy.delta:g}",
                hint="fewer rounds, or more noise",
            )

    @property
    def is_finished(self) -> bool:
        """Whether all rounds are closed."""
        return self.round >= self.job.rounds

    @property
    def turn(self) -> str:
        """What is being collected: a name that changes whenever `close_round` has closed something."""
        return str(self.round) if self._secure is None or self.is_finished else self._secure.turn

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Sites of the cohort that have not answered; in a secure round, in its turn."""
        if self._secure is not None:
            return self._secure.waiting_for
        return tuple(site for site in self.cohort if site not in self.accepted)

    def request(self) -> bytes:
        """What the round asks, the same for every site of the cohort.

        Raises:
            FederationError: the job is finished.
        """
        if self.is_finished:
            raise FederationError(f"job {self.job.name}: all {self.job.rounds} rounds are closed")
        if self._secure is not None:
            return self._secure.request(self.model)
        arrays = {"model": self.model}
        return TrainRequest(job=self.job.digest, round=self.round, base=self.base, arrays=arrays).to_bytes()

    def receive(self, blob: bytes, *, sender: str | None = None) -> Update | SecureAnswer:
        """Count an update; it is on the disk and in the journal when this returns.

        Args:
            blob: As it came.
            sender: Whom the engine has authenticated, where it does; a blob that names somebody else is refused.

        Raises:
            UpdateRefused: see the module; the round goes on without it.
        """
        try:
            if self._secure is not None:
                answer = SecureAnswer.from_bytes(blob)
                self._check_origin(answer, sender)
                self._secure.receive(answer, blob)
                return answer
            update = Update.from_bytes(blob)
            self._check(update, sender)
        except UpdateRefused as refusal:
            what = (sender if sender in self._sites else None, refusal.reason)
            if what not in self._refused:  # once a round: a flood must not fill the disk
                self._journal.append("refused", round=self.round, site=what[0], reason=what[1])
                self._refused.add(what)
            raise
        path = self._update_file(self.round, update.site)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [blob], mode=0o600, removes_leftovers=False)
        digest = sha256_hex(blob)
        self._journal.append(
            "update",
            round=self.round,
            site=update.site,
            digest=digest,
            num_examples=update.num_examples,
            withdrawn=update.withdrawn,
            encoding=list(update.encoding),
            bytes=len(blob),
        )
        self.accepted[update.site] = digest
        return update

    def close_round(self) -> Vector:
        """Aggregate what was accepted into the next global model (P,).

        A secure round has turns: all but the last leave round and model as they are, and ask for the next answer.

        Raises:
            QuorumError: too few updates.
            JournalError: an accepted update is no longer what it was.
        """
        if self._secure is not None:
            if not self._secure.close_turn():
                return self.model
        elif len(self.accepted) < self.job.least:
            waiting = self.waiting_for
            more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
            raise QuorumError(
                f"job {self.job.name}, round {self.round}: expected at least {self.job.least} updates, got "
                f"{len(self.accepted)}; waiting for {', '.join(waiting[:_NAMED])}{more}",
                hint="start the missing sites and run the same command again: accepted updates are kept",
            )
        # Nothing of this object changes before the new model is on the disk and in the journal: a full disk can be
        # mended.
        aggregate, adam = self._aggregate(), self._adam
        choice = self.job.aggregation
        if choice.optimizer == "adam":
            adam, step = adam.step(aggregate, learning_rate=choice.learning_rate)
        else:
            step = (choice.learning_rate * aggregate).astype(np.float32)
        model = self.model + step
        base = self.layout.digest_of(model)
        digest = self._save(self.round + 1, model, adam)
        sites, secure = sorted(self.accepted), dict[str, int]()
        if self._secure is not None:
            sites, secure = list(self._secure.survivors), {"attempt": self._secure.attempt}
            secure["num_examples"] = self._secure.aggregate()[1]
        self._journal.append("round_closed", round=self.round, sites=sites, model=base, file=digest, **secure)
        self.model, self.base, self._adam = model, base, adam
        self._begin_round(self.round + 1)
        self._begin_secure()
        if self.is_finished:
            self._journal.append("finished", rounds=self.round, model=base)
        self._write_receipts()
        return model

    def close(self) -> None:
        """Let another process go on with the job."""
        self._journal.close()

    def _check_origin(self, update: Update | SecureAnswer, sender: str | None) -> None:
        if update.job != self.job.digest:
            raise UpdateRefused("foreign", "it answers another job")
        if update.site not in self._sites or (sender is not None and sender != update.site):
            came_from = f" from {sender!r}" if sender else ""
            raise UpdateRefused("unknown_site", f"{update.site!r} is not expected{came_from}")
        if update.round != self.round or update.base != self.base:
            ours, theirs = f"round {self.round} from {self.base[:12]}", f"round {update.round} from {update.base[:12]}"
            raise UpdateRefused("stale", f"expected {ours}, got {theirs}")
        if update.site not in self._expected:
            raise UpdateRefused("unknown_site", f"{update.site} is not in the cohort of round {self.round}")

    def _check(self, update: Update, sender: str | None) -> None:
        self._check_origin(update, sender)
        if update.site in self.accepted:
            raise UpdateRefused("replayed", f"{update.site} has answered round {self.round}")
        delta = decode_delta(update, self.job, self.layout.size)
        # A site may have nobody in any cell.
        if update.num_examples == 0 or not (delta.any() or self.job.is_counting):
            raise UpdateRefused("empty", f"{update.site} did not train: {update.num_examples} examples")

    def _aggregate(self) -> Vector:
        choice, privacy = self.job.aggregation, self.job.privacy
        if self._secure is not None:
            return self._secure.aggregate()[0]
        deltas = ((update, decode_delta(update, self.job, self.layout.size)) for update in self._updates())
        if choice.method == "sum":
            return self._add_counts(delta for _, delta in deltas)
        if privacy.noise_multiplier:
            # Every site counts alike, over a fixed number: how many rows it has would be a leak of its own.
            total = sum((delta.astype(np.float64) for _, delta in deltas), start=np.zeros(self.layout.size))
            self._spend()
            noisy = add_gaussian_noise(total, stddev=privacy.noise_multiplier * privacy.clip_norm, random=self._random)
            return (noisy / self.job.cohort_size).astype(np.float32)
        if choice.method == "mean":
            most = choice.max_examples or sys.maxsize
            return weighted_mean((delta, float(min(update.num_examples, most))) for update, delta in deltas)
        # These two look at all updates at once, which lie on the disk and not in memory.
        with StoredRows(self._folder, self.layout.size) as rows:
            for _, delta in deltas:
                rows.append(delta)
            if choice.method == "trimmed_mean":
                return trimmed_mean(rows, trim=choice.trim)
            place = krum(rows, byzantine=choice.byzantine)
            chosen: Vector = rows[place : place + 1][0]
            return chosen

    def _add_counts(self, counts: Iterable[Vector]) -> Vector:
        """The sum of the sites' counts (P,), with this server's noise where there is any."""
        total = sum((part.astype(np.int64) for part in counts), start=np.zeros(self.layout.size, np.int64))
        if stddev := self.job.statistics.stddev:
            self._spend()
            total += discrete_gaussian(total.size, stddev=stddev, random=self._random)
        return total.astype(np.float32)

    def _spend(self) -> None:
        """Pay for this round's model before it is made; a round that was killed half way is paid for again.

        Raises:
            BudgetExceeded: the budget does not reach; no model is made.
        """
        if budget := self._budget():
            budget.pay(self._folder, self.job, self.round)

    def _updates(self) -> Iterator[Update]:
        """Accepted updates by the names of their sites, one at a time."""
        for site in sorted(self.accepted):
            path = self._update_file(self.round, site)
            try:
                blob = path.read_bytes()
            except OSError as error:
                raise JournalError(f"{path}: an accepted update cannot be read: {error}") from error
            if sha256_hex(blob) != self.accepted[site]:
                raise JournalError(f"{path}: the update was altered after it was accepted")
            yield Update.from_bytes(blob)

    def _update_file(self, number: int, site: str) -> Path:
        return self._folder / "updates" / str(number) / f"{site}.safetensors"

    def _save(self, number: int, model: Vector, adam: Adam) -> str:
        """Write the state that a round begins from; returns the file's digest."""
        arrays = {"model": model, "first": adam.first, "second": adam.second}
        data = save({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()})
        path = self._folder / "models" / f"{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [data], mode=0o600)
        return sha256_hex(data)

    def _load(self, digest: str) -> None:
        path = self._folder / "models" / f"{self.round}.safetensors"
        try:
            data = path.read_bytes()
            if sha256_hex(data) != digest:
                raise JournalError(f"{path}: is not the model that the journal speaks of")
            arrays = load(data)
            self.model, self._adam = arrays["model"], Adam(arrays["first"], arrays["second"])
        except (OSError, SafetensorError, KeyError) as error:
            raise JournalError(f"{path}: cannot be read: {error}") from error
