"""What a record is promised: its gradient clipped, the sum noisy, the ledger paid before, the budget kept."""

from dataclasses import replace

import numpy as np
import pytest
from tests.federate.conftest import Federation

from smallhold.errors import BudgetExceeded, FederationError, InputError, RecipeError
from smallhold.federate.answer import ANSWER, read_answer
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import LocalChoice, RecordPrivacyChoice
from smallhold.federate.local_model import Rows
from smallhold.federate.logistic import Logistic
from smallhold.federate.messages import Update
from smallhold.federate.record_privacy import RecordBudget, RecordGuard, fit_record_noise
from smallhold.federate.round_budget import LEDGER
from smallhold.privacy.randomness import UnsafeSeededRandom

pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")

CHOICE = RecordPrivacyChoice(clip_norm=1.0, noise_multiplier=2.0, epsilon=8.0)


def rows(n: int = 200, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return Rows({"features": x}, (x[:, 0] > 0).astype(np.int64), tuple(map(str, range(n))))


class Quiet(RecordGuard):
    """A guard that draws everybody and adds no noise: what is left is clipping."""

    def draw(self):
        return np.arange(self._num_rows)

    def release(self, total):
        return total / self._num_rows


def test_one_record_moves_a_step_by_the_clip_norm_at_most():
    model, local = Logistic(3, ridge=0.0), LocalChoice(epochs=0.1, batch_size=20, learning_rate=1.0)
    choice = replace(CHOICE, clip_norm=0.01)
    with_it = rows()
    with_it.inputs["features"][0] *= 1e6  # an outlier that wants the model for itself
    start = np.zeros(4, np.float32)
    both = []
    for part in (with_it, with_it.take(list(range(1, 200)))):
        guard = Quiet(choice, local, 200)
        guard._num_rows = len(part)
        guard.release = lambda total: total / 200
        guard.steps = 1
        both.append(model.train(start, part, local, 0, guard).model)
    assert 0 < np.linalg.norm(both[0] - both[1]) <= 0.01 / 200 + 1e-9


def test_sampling_is_poisson_at_the_rate_that_is_paid_for():
    guard = RecordGuard(CHOICE, LocalChoice(epochs=2.0, batch_size=50), 1000, UnsafeSeededRandom(0))
    assert (guard.sampling_rate, guard.steps) == (0.05, 40)
    sizes = np.array([len(guard.draw()) for _ in range(400)])
    assert sizes.mean() == pytest.approx(50, abs=1.5)
    assert sizes.var() == pytest.approx(47.5, rel=0.2)  # a fixed batch size would have none
    charge = guard.charge(4)
    assert (charge.sampling_rate, charge.steps) == (0.05, 40)
    assert charge.noise_multiplier == pytest.approx(2.0, abs=1e-6) and charge.noise_multiplier < 2.0


def test_noise_has_the_size_that_is_paid_for():
    guard = RecordGuard(replace(CHOICE, clip_norm=0.5), LocalChoice(batch_size=10), 100, UnsafeSeededRandom(1))
    released = guard.release(np.zeros(20_000))
    assert released.std() == pytest.approx(2.0 * 0.5 / 10, rel=0.03)


def test_a_job_under_dp_learns_pays_and_tells_nothing_of_numbers(tmp_path):
    federation = Federation(
        tmp_path, rounds=3, local=LocalChoice(epochs=2.0, batch_size=16, learning_rate=0.5), record_privacy=CHOICE
    )
    server, sites = federation.server(), federation.sites()
    run_in_process(server, sites, progress=lambda *_: None)
    assert server.is_finished
    for name in sites:
        assert len((tmp_path / "sites" / name / LEDGER).read_text().splitlines()) == 1 + 3
    update = Update.from_bytes(read_answer(tmp_path / "sites" / "east" / ANSWER).blob)
    assert update.num_examples == 1 and update.metrics == {}
    model = federation.model
    everyone = Rows.together(list(federation.rows.values()))
    odds = model.predict(server.model, everyone)
    assert ((odds > 0) == (everyone.label == 1)).mean() > 0.7
    server.close()


def test_a_job_that_costs_too_much_is_refused_before_anything_is_trained(tmp_path):
    federation = Federation(tmp_path, rounds=500, record_privacy=replace(CHOICE, epsilon=0.5))
    with pytest.raises(FederationError, match="500 rounds on 40 records at noise_multiplier 2 cost epsilon"):
        federation.site("east")


def test_the_round_that_would_exceed_the_budget_is_refused(tmp_path):
    federation = Federation(tmp_path, rounds=1, record_privacy=replace(CHOICE, epsilon=3.0))
    budget = RecordBudget(federation.job, tmp_path, num_rows=100, num_parameters=4)
    with pytest.raises(BudgetExceeded):
        for number in range(1000):
            budget.begin_round(number, 100)
    lines = len((tmp_path / LEDGER).read_text().splitlines())
    again = RecordBudget(federation.job, tmp_path, num_rows=100, num_parameters=4)
    with pytest.raises(BudgetExceeded):  # a restart forgets nothing
        again.begin_round(5, 100)
    assert len((tmp_path / LEDGER).read_text().splitlines()) == lines


def test_the_fitted_noise_is_enough_for_every_site_and_hardly_less_would_be(tmp_path):
    # Every record in every step: plain Gaussian noise, whose accounting is quick.
    federation = Federation(tmp_path, rounds=2, local=LocalChoice(batch_size=200), record_privacy=CHOICE)
    job = fit_record_noise(federation.job, [200, 40], num_parameters=4)
    for num_rows in (200, 40):
        RecordBudget(job, tmp_path, num_rows=num_rows, num_parameters=4)
    privacy = job.record_privacy
    less = replace(job, record_privacy=replace(privacy, noise_multiplier=privacy.noise_multiplier * 0.97))
    with pytest.raises(FederationError, match="cost epsilon"):
        RecordBudget(less, tmp_path, num_rows=40, num_parameters=4)


def test_noise_for_no_site_or_an_empty_one_is_refused(make_federation):
    job = make_federation(record_privacy=CHOICE).job
    for num_rows in ([], [40, 0]):
        with pytest.raises(InputError, match="num_rows: expected one or more records"):
            fit_record_noise(job, num_rows, num_parameters=4)


def test_half_a_promise_is_refused():
    with pytest.raises(RecipeError, match="belong together"):
        RecordPrivacyChoice(clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(RecipeError, match="delta: expected a number above 0"):
        RecordPrivacyChoice(delta=0.0)
