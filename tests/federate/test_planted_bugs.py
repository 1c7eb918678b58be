"""Bugs that would break a record's differential privacy, planted one by one: the checks below find every one of them.

The checks are of properties, not of code: how large the noise is and whether it is fresh, how far one record moves a
step, who is drawn, what is charged, and what the ledger holds in the end. Ten seeds of the code as it is raise none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.federate.conftest import Federation

from smallhold.errors import FederationError
from smallhold.federate import record_privacy
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import LocalChoice, RecordPrivacyChoice
from smallhold.federate.local_model import Rows
from smallhold.federate.logistic import Logistic
from smallhold.federate.record_privacy import RecordBudget, RecordGuard
from smallhold.federate.round_budget import LEDGER, RoundBudget
from smallhold.federate.spending import read_spending
from smallhold.privacy.ledger_file import Ledger
from smallhold.privacy.randomness import UnsafeSeededRandom

pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")

CLIP, NOISE, ROWS, BATCH, EPOCHS, ROUNDS = 0.5, 3.0, 400, 40, 2.0, 3
CHOICE = RecordPrivacyChoice(clip_norm=CLIP, noise_multiplier=NOISE, epsilon=3.0, delta=1e-5)
LOCAL = LocalChoice(epochs=EPOCHS, batch_size=BATCH, learning_rate=0.5)


def alarms(folder: Path, seed: int) -> set[str]:
    """Names of what is wrong."""
    guard = RecordGuard(CHOICE, LOCAL, ROWS, UnsafeSeededRandom(seed))
    checks = {
        "noise": _noise_is_right(guard),
        "influence": _influence_is_bounded(seed),
        "sampling": _sampling_is_poisson(guard),
        "charge": _charge_is_right(guard),
        "ledger": _ledger_adds_up(folder),
    }
    return {name for name, is_right in checks.items() if not is_right}


def _noise_is_right(guard: RecordGuard) -> bool:
    """As large as is charged, Gaussian in its tails, and another one each time."""
    first, second = (guard.release(np.zeros(20_000)) * BATCH / (NOISE * CLIP) for _ in range(2))
    is_large_enough = 0.97 < first.std() < 1.03 and 0.97 < second.std() < 1.03
    is_gaussian = 0.04 < np.mean(np.abs(first) > 2) < 0.052  # 4.55 % lie beyond two standard deviations
    is_fresh = abs(np.mean(first * second) - first.mean() * second.mean()) < 0.05
    return bool(is_large_enough and is_gaussian and is_fresh and abs(first.mean()) < 0.05)


class _Everybody(RecordGuard):
    """Draws all and adds nothing: what is left is the gradient."""

    def draw(self) -> np.ndarray:
        return np.arange(self._num_rows)

    def release(self, total: np.ndarray) -> np.ndarray:
        return np.asarray(total / BATCH, dtype=np.float64)


def _influence_is_bounded(seed: int) -> bool:
    """A record more moves one step by the clip norm at most, however loud it is and whoever is beside it."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    features[:, 0] = 3.0  # all pull one way: what is clipped as a whole is full without the last one
    label = np.ones(60, np.int64)
    features[0] *= 1e4
    model, local = Logistic(5, ridge=0.0), replace(LOCAL, learning_rate=1.0)
    moved = []
    for kept in (slice(0, 60), slice(1, 60), slice(0, 59)):
        rows = Rows({"features": features[kept]}, label[kept], tuple(map(str, range(len(label[kept])))))
        guard = _Everybody(CHOICE, local, len(rows))
        guard.steps = 1
        moved.append(model.train(model.initial(0), rows, local, 0, guard).model.astype(np.float64))
    bound = CLIP / BATCH * 1.0001  # models are float32
    # Each record of these is louder than the clip norm, so that leaving one out is seen: a step of nothing is none.
    return all(0.2 * bound < np.linalg.norm(moved[0] - other) <= bound for other in moved[1:])


def _sampling_is_poisson(guard: RecordGuard) -> bool:
    """Every record with the same chance, independently, in every step anew."""
    drawn = np.zeros((600, ROWS), dtype=bool)
    for step in drawn:
        step[guard.draw()] = True
    rate, sizes = BATCH / ROWS, drawn.sum(1)
    is_at_rate = abs(sizes.mean() - BATCH) < 1.5 and np.abs(drawn.mean(0) - rate).max() < 0.07
    is_independent = 0.75 < sizes.var() / (ROWS * rate * (1 - rate)) < 1.3
    overlap = np.mean(drawn[1:] & drawn[:-1])  # of two steps: rate squared
    return bool(is_at_rate and is_independent and abs(overlap - rate**2) < 0.002)


def _charge_is_right(guard: RecordGuard) -> bool:
    charge = guard.charge(6)
    steps = math.ceil(EPOCHS * ROWS / BATCH)
    is_near = 0.999 * NOISE < charge.noise_multiplier <= NOISE  # a little less for the noise's grid
    return is_near and charge.sampling_rate == BATCH / ROWS and charge.steps == steps


def _ledger_adds_up(folder: Path) -> bool:
    """After three rounds it holds three payments, and what they cost by the Gaussian's own formula; more is refused."""
    # Every record in every step: then epsilon can be computed without an accountant.
    whole = LocalChoice(epochs=EPOCHS, batch_size=1000)
    federation = Federation(folder, rounds=ROUNDS, local=whole, record_privacy=CHOICE)
    try:
        server, sites = federation.server(), federation.sites()
    except FederationError:  # it costs more than its budget, and should not
        return False
    run_in_process(server, sites, progress=lambda *_: None)
    server.close()
    paid = [folder / "sites" / name / LEDGER for name in sites]
    if not all(path.exists() for path in paid):
        return False
    spent = [read_spending(path) for path in paid]
    steps = ROUNDS * max(1, math.ceil(EPOCHS * 40 / 1000))
    expected = _gaussian_epsilon(NOISE / math.sqrt(steps), CHOICE.delta)
    return all(
        len(one["releases"]) == ROUNDS and expected <= one["budgets"]["record"]["spent"] < expected * 1.05
        for one in spent
    )


def _gaussian_epsilon(noise: float, delta: float) -> float:
    """Balle, Wang 2018, arXiv:1805.06530, theorem 8: the least epsilon of a Gaussian of sensitivity 1."""

    def delta_at(epsilon: float) -> float:
        def normal(x: float) -> float:
            return 0.5 * math.erfc(-x / math.sqrt(2))

        return normal(0.5 / noise - epsilon * noise) - math.exp(epsilon) * normal(-0.5 / noise - epsilon * noise)

    low, high = 0.0, 50.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


Plant = Callable[[pytest.MonkeyPatch], None]


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(record_privacy, "add_gaussian_noise", lambda total, **_: np.asarray(total, np.float64))


def half_the_noise(patch: pytest.MonkeyPatch) -> None:
    real = record_privacy.add_gaussian_noise
    patch.setattr(
        record_privacy, "add_gaussian_noise", lambda x, *, stddev, random: real(x, stddev=stddev / 2, random=random)
    )


def the_same_noise_again(patch: pytest.MonkeyPatch) -> None:
    real = record_privacy.add_gaussian_noise

    def add(x: np.ndarray, *, stddev: float, random: object) -> np.ndarray:
        return real(x, stddev=stddev, random=UnsafeSeededRandom(1))

    patch.setattr(record_privacy, "add_gaussian_noise", add)


def uniform_noise(patch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def add(x: np.ndarray, *, stddev: float, random: object) -> np.ndarray:
        return np.asarray(x + rng.uniform(-1, 1, x.shape) * stddev * 3**0.5)

    patch.setattr(record_privacy, "add_gaussian_noise", add)


def _after_init(patch: pytest.MonkeyPatch, change: Callable[[RecordGuard], None]) -> None:
    real = RecordGuard.__init__

    def init(self: RecordGuard, *arguments: object, **named: object) -> None:
        real(self, *arguments, **named)  # type: ignore[arg-type]
        change(self)

    patch.setattr(RecordGuard, "__init__", init)


def no_clipping(patch: pytest.MonkeyPatch) -> None:
    _after_init(patch, lambda guard: setattr(guard, "clip_norm", 1e9))


def twice_the_clip_norm(patch: pytest.MonkeyPatch) -> None:
    _after_init(patch, lambda guard: setattr(guard, "clip_norm", 2 * CLIP))


def the_sum_clipped_and_not_the_records(patch: pytest.MonkeyPatch) -> None:
    def train(self: Logistic, model: np.ndarray, rows: Rows, choice: LocalChoice, guard: RecordGuard) -> object:
        from smallhold.federate.local_model import Trained

        wide = np.column_stack([np.ones(len(rows)), rows.inputs["features"].astype(np.float64)])
        at = model.astype(np.float64)
        for _ in range(guard.steps):
            batch = guard.draw()
            total = wide[batch].T @ (1 / (1 + np.exp(-(wide[batch] @ at))) - rows.label[batch])
            total *= min(1.0, len(batch) * guard.clip_norm / max(float(np.linalg.norm(total)), 1e-30))
            at = at - choice.learning_rate * guard.release(total)
        return Trained(at.astype(np.float32), 0.0)

    patch.setattr(Logistic, "_train_guarded", train)


def twice_the_sampling_rate(patch: pytest.MonkeyPatch) -> None:
    def draw(self: RecordGuard) -> np.ndarray:
        return np.flatnonzero(self._random.words(self._num_rows) / 2.0**64 < 2 * self.sampling_rate)

    patch.setattr(RecordGuard, "draw", draw)


def batches_of_a_fixed_size(patch: pytest.MonkeyPatch) -> None:
    def draw(self: RecordGuard) -> np.ndarray:
        return np.argsort(self._random.words(self._num_rows))[: round(self.sampling_rate * self._num_rows)]

    patch.setattr(RecordGuard, "draw", draw)


def the_same_batch_again(patch: pytest.MonkeyPatch) -> None:
    real = RecordGuard.draw

    def draw(self: RecordGuard) -> np.ndarray:
        self._first = getattr(self, "_first", None)
        self._first = real(self) if self._first is None else self._first
        return self._first

    patch.setattr(RecordGuard, "draw", draw)


def _charge(patch: pytest.MonkeyPatch, **wrong: float) -> None:
    real = RecordGuard.charge
    patch.setattr(RecordGuard, "charge", lambda self, size: replace(real(self, size), **wrong))


def half_the_sampling_rate_charged(patch: pytest.MonkeyPatch) -> None:
    _charge(patch, sampling_rate=BATCH / ROWS / 2)


def one_step_charged(patch: pytest.MonkeyPatch) -> None:
    _charge(patch, steps=1)


def more_noise_charged_than_added(patch: pytest.MonkeyPatch) -> None:
    _charge(patch, noise_multiplier=2 * NOISE)


def a_ledger_that_begins_anew(patch: pytest.MonkeyPatch) -> None:
    real = RoundBudget.open_ledger

    def open_ledger(self: RoundBudget, folder: Path) -> Ledger:
        (folder / LEDGER).unlink(missing_ok=True)
        return real(self, folder)

    patch.setattr(RoundBudget, "open_ledger", open_ledger)


def a_round_that_is_not_paid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RoundBudget, "pay", lambda *_: None)


def a_site_that_pays_once(patch: pytest.MonkeyPatch) -> None:
    real = RecordBudget.begin_round

    def begin_round(self: RecordBudget, number: int, *arguments: object) -> RecordGuard:
        if number == 0:
            return real(self, number, *arguments)  # type: ignore[arg-type]
        return RecordGuard(self._job.record_privacy, self._job.local, int(arguments[0]))  # type: ignore[call-overload]

    patch.setattr(RecordBudget, "begin_round", begin_round)


BUGS: dict[Plant, set[str]] = {
    no_noise: {"noise"},
    half_the_noise: {"noise"},
    the_same_noise_again: {"noise"},
    uniform_noise: {"noise"},
    no_clipping: {"influence"},
    twice_the_clip_norm: {"influence"},
    the_sum_clipped_and_not_the_records: {"influence"},
    twice_the_sampling_rate: {"sampling"},
    batches_of_a_fixed_size: {"sampling"},
    the_same_batch_again: {"sampling"},
    half_the_sampling_rate_charged: {"charge"},
    one_step_charged: {"charge"},
    more_noise_charged_than_added: {"charge"},
    a_ledger_that_begins_anew: {"ledger"},
    a_round_that_is_not_paid: {"ledger"},
    a_site_that_pays_once: {"ledger"},
}


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert BUGS[plant] <= alarms(tmp_path, 0)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / str(seed) for seed in range(10))


def test_ten_seeds_of_the_code_as_it_is_raise_no_alarm(folders: Iterator[Path]) -> None:
    assert [alarms(folder, seed) for seed, folder in enumerate(folders)] == [set()] * 10
