"""The server's side of a job: what a round asks, which updates count, and what becomes of them.

A state machine over a folder; engines call it and move bytes, nothing else. Everything that counts is in the round
journal before it counts, so that a server that was killed goes on in the round it was in::

    rounds.journal          what happened
    models/ROUND.safetensors   the global model that round ROUND begins from, with the optimizer's moments
    updates/ROUND/SITE.safetensors   accepted updates, as they came
    privacy.ledger          what the noise of each round has cost, where the job promises privacy

Refused by name: `malformed` (not a message of ours, wrong sizes, numbers that are not finite), `empty` (no example or a
delta of nothing but zeros: the site did not train), `foreign` (another job), `unknown_site`, `stale` (an earlier round,
or another model than the round's), `replayed` (the site has answered this round).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from smallhold.device.durable_file import write_durably
from smallhold.device.trust import generate_private_key, load_private_key, save_private_key
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import BudgetExceeded, FederationError, JournalError, QuorumError, UpdateRefused
from smallhold.federate.aggregate import Adam, krum, trimmed_mean, weighted_mean
from smallhold.federate.filters import decode_delta
from smallhold.federate.job import FederatedJob
from smallhold.federate.journal import RoundJournal
from smallhold.federate.layout import Layout, Vector
from smallhold.federate.messages import TrainRequest, Update
from smallhold.privacy.accountant import Charge, compose_epsilon
from smallhold.privacy.ledger import Budget
from smallhold.privacy.ledger_file import Ledger
from smallhold.privacy.noise import add_gaussian_noise, grid_sensitivity
from smallhold.privacy.randomness import Random
from smallhold.records import sha256_hex

JOURNAL = "rounds.journal"
LEDGER = "privacy.ledger"


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
    ) -> None:
        """Begin a job, or go on with the one that the folder holds.

        Args:
            job: What is carried out.
            layout: Of the global model.
            initial: (P,) where the job begins; not read when the folder holds later rounds.
            folder: Of the job's state; created when absent.
            clock_ms: Wall clock for the journal.
            random: Of the noise; a cryptographically secure source when None.

        Raises:
            JournalError: another server has the job open, or its journal or a file was altered.
            FederationError: the folder holds another job.
            BudgetExceeded: the job's rounds would cost more than its budget.
        """
        self.job, self.layout, self._folder, self._random = job, layout, folder, random
        self._journal = RoundJournal(folder / JOURNAL, clock_ms=clock_ms)
        try:
            self._resume(initial)
        except BaseException:
            self._journal.close()
            raise

    def _resume(self, initial: Vector) -> None:
        self.round, self.model, self._adam = 0, initial, Adam.start(self.layout.size)
        self.base = self.layout.digest_of(initial)
        self.accepted: dict[str, str] = {}
        begun = {"job": self.job.digest, "layout": self.layout.digest, "base": self.base}
        if not self._journal.entries:
            self._check_budget()
            self._save(0, self.model, self._adam)
            self._journal.append("job", **begun, name=self.job.name, sites=list(self.job.sites))
            return
        first = self._journal.entries[0]
        if first.kind != "job" or any(first.body.get(name) != value for name, value in begun.items()):
            raise FederationError(f"{self._folder}: holds another job", hint="choose another folder")
        for entry in self._journal.entries:
            if entry.kind == "update":
                self.accepted[entry.body["site"]] = entry.body["digest"]
            elif entry.kind == "round_closed":
                self.round, self.base, self.accepted = entry.body["round"] + 1, entry.body["model"], {}
                digest = entry.body["file"]
        if self.round:
            self._load(digest)

    def _check_budget(self) -> None:
        """Refuse before anybody is asked what the ledger would refuse in a later round."""
        privacy = self.job.privacy
        if not privacy.noise_multiplier:
            return
        cost = compose_epsilon(
            [Charge(noise_multiplier=privacy.noise_multiplier, steps=self.job.rounds)], delta=privacy.delta
        )
        if cost > privacy.epsilon:
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
    def cohort(self) -> tuple[str, ...]:
        """Sites that the round asks, by name; drawn anew for every round by the job's seed."""
        if self.job.cohort_size == len(self.job.sites):
            return tuple(sorted(self.job.sites))
        rng = np.random.default_rng([self.job.seed, 11, self.round])
        return tuple(sorted(rng.choice(sorted(self.job.sites), self.job.cohort_size, replace=False).tolist()))

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Sites of the cohort that have not answered."""
        return tuple(site for site in self.cohort if site not in self.accepted)

    def request(self) -> bytes:
        """What the round asks, the same for every site of the cohort.

        Raises:
            FederationError: the job is finished.
        """
        if self.is_finished:
            raise FederationError(f"job {self.job.name}: all {self.job.rounds} rounds are closed")
        arrays = {"model": self.model}
        return TrainRequest(job=self.job.digest, round=self.round, base=self.base, arrays=arrays).to_bytes()

    def receive(self, blob: bytes, *, sender: str | None = None) -> Update:
        """Count an update; it is on the disk and in the journal when this returns.

        Args:
            blob: As it came.
            sender: Whom the engine has authenticated, where it does; a blob that names somebody else is refused.

        Raises:
            UpdateRefused: see the module; the round goes on without it.
        """
        try:
            update = Update.from_bytes(blob)
            self._check(update, sender)
        except UpdateRefused as refusal:
            known = sender if sender in self.job.sites else None
            what = {"round": self.round, "site": known, "reason": refusal.reason}
            if what not in (entry.body for entry in self._journal.entries if entry.kind == "refused"):
                self._journal.append("refused", **what)  # once a round: a flood must not fill the disk
            raise
        path = self._update_file(self.round, update.site)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [blob], mode=0o600)
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

        Raises:
            QuorumError: too few updates.
            JournalError: an accepted update is no longer what it was.
        """
        if len(self.accepted) < self.job.least:
            raise QuorumError(
                f"job {self.job.name}, round {self.round}: expected at least {self.job.least} updates, got "
                f"{len(self.accepted)}; waiting for {', '.join(self.waiting_for)}",
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
        sites = sorted(self.accepted)
        self._journal.append("round_closed", round=self.round, sites=sites, model=base, file=digest)
        self.model, self.base, self._adam = model, base, adam
        self.round, self.accepted = self.round + 1, {}
        if self.is_finished:
            self._journal.append("finished", rounds=self.round, model=base)
        return model

    def close(self) -> None:
        """Let another process go on with the job."""
        self._journal.close()

    def _check(self, update: Update, sender: str | None) -> None:
        if update.job != self.job.digest:
            raise UpdateRefused("foreign", "it answers another job")
        if update.site not in self.job.sites or (sender is not None and sender != update.site):
            came_from = f" from {sender!r}" if sender else ""
            raise UpdateRefused("unknown_site", f"{update.site!r} is not expected{came_from}")
        if update.round != self.round or update.base != self.base:
            ours, theirs = f"round {self.round} from {self.base[:12]}", f"round {update.round} from {update.base[:12]}"
            raise UpdateRefused("stale", f"expected {ours}, got {theirs}")
        if update.site not in self.cohort:
            raise UpdateRefused("unknown_site", f"{update.site} is not in the cohort of round {self.round}")
        if update.site in self.accepted:
            raise UpdateRefused("replayed", f"{update.site} has answered round {self.round}")
        delta = decode_delta(update, self.job, self.layout.size)
        if update.num_examples == 0 or not delta.any():
            raise UpdateRefused("empty", f"{update.site} did not train: {update.num_examples} examples")

    def _aggregate(self) -> Vector:
        choice, privacy = self.job.aggregation, self.job.privacy
        deltas = ((update, decode_delta(update, self.job, self.layout.size)) for update in self._updates())
        if privacy.noise_multiplier:
            # Every site counts alike, over a fixed number: how many rows it has would be a leak of its own.
            total = sum((delta.astype(np.float64) for _, delta in deltas), start=np.zeros(self.layout.size))
            self._spend()
            noisy = add_gaussian_noise(total, stddev=privacy.noise_multiplier * privacy.clip_norm, random=self._random)
            return (noisy / self.job.cohort_size).astype(np.float32)
        if choice.method == "mean":
            return weighted_mean((delta, float(update.num_examples)) for update, delta in deltas)
        matrix = np.stack([delta for _, delta in deltas])
        if choice.method == "trimmed_mean":
            return trimmed_mean(matrix, trim=choice.trim)
        chosen: Vector = matrix[krum(matrix, byzantine=choice.byzantine)]
        return chosen

    def _spend(self) -> None:
        """Pay for this round's model before it is made; a round that was killed half way is paid for again.

        Raises:
            BudgetExceeded: the budget does not reach; no model is made.
        """
        privacy = self.job.privacy
        # What rounding to the noise's grid adds to the sensitivity counts as a little less noise.
        stddev = privacy.noise_multiplier * privacy.clip_norm
        sensitivity = privacy.clip_norm + grid_sensitivity(self.layout.size, stddev)
        charge = Charge(noise_multiplier=stddev / sensitivity)
        with self._open_ledger() as ledger:
            attempt = 0
            while ledger.find(release := f"{self.job.digest}/{self.round}/{attempt}") is not None:
                attempt += 1
            ledger.spend(release, {"site": charge})

    def _open_ledger(self) -> Ledger:
        key = self._folder / "ledger.key"
        if not key.exists():
            save_private_key(generate_private_key(), key)
        budgets = {"site": Budget(self.job.privacy.epsilon, self.job.privacy.delta)}
        return Ledger(self._folder / LEDGER, key=load_private_key(key), budgets=budgets)

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
