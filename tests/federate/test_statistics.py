"""Counts that sites add up: exact without noise, as noisy as is paid for with it, bounded for every person."""

from dataclasses import replace

import numpy as np
import pytest
from tests.federate.counting import (
    BURN_DIED,
    DIMENSIONS,
    NUM_CELLS,
    SITES,
    Counting,
    counting_job,
    persons_in,
    rows_of_site,
)

from smallhold.cli.main import main
from smallhold.errors import BudgetExceeded, FederationError, InputError, RecipeError, UpdateRefused
from smallhold.federate.cell_counts import CellCounts
from smallhold.federate.compare import compare
from smallhold.federate.fleet import Faults, fleet_job
from smallhold.federate.job import AggregationChoice, PrivacyChoice, UploadChoice, read_job
from smallhold.federate.leakage import audit_run
from smallhold.federate.local_model import Rows
from smallhold.federate.logistic import Logistic
from smallhold.federate.messages import Update
from smallhold.federate.person_privacy import person_budget
from smallhold.federate.receipt import PUBLIC_KEY, read_receipt
from smallhold.federate.server import RoundServer
from smallhold.federate.site import Site
from smallhold.federate.spending import read_spending
from smallhold.federate.statistics import cells_of, check_answers, count_persons
from smallhold.federate.verify import verify_run
from smallhold.privacy.randomness import UnsafeSeededRandom

ALL_CELLS = {"max_cells": NUM_CELLS}
NOISY = {"max_cells": 4, "noise_multiplier": 3.0, "epsilon": 2.0}


def pooled(rows: dict[str, Rows]) -> np.ndarray:
    return persons_in(Rows.together(list(rows.values())))


@pytest.mark.parametrize("is_secure", [False, True])
def test_without_noise_the_sum_is_that_of_all_rows_in_one_place(tmp_path, is_secure):
    world = Counting(tmp_path, counting_job(is_secure=is_secure, **ALL_CELLS))
    assert world.run().tolist() == pooled(world.rows).tolist()
    assert verify_run(tmp_path / "server")["problems"] == []


def test_a_site_that_stays_away_is_not_in_the_sum(tmp_path):
    world = Counting(tmp_path, counting_job(**ALL_CELLS))
    server = world.server()
    for name in SITES[:3]:
        server.receive(world.site(name).respond(server.request()))
    assert server.close_round().tolist() == pooled({name: world.rows[name] for name in SITES[:3]}).tolist()


@pytest.mark.parametrize("max_cells", [1, 2, 3, 5])
def test_a_person_changes_no_more_cells_than_is_paid_for(max_cells):
    rows = rows_of_site("east")
    settings = {"num_cells": NUM_CELLS, "max_cells": max_cells, "max_count": 100, "seed": 7}
    counts = count_persons(rows.label, rows.group, **settings)
    for person in set(rows.group):
        others = rows.take([place for place, group in enumerate(rows.group) if group != person])
        change = counts - count_persons(others.label, others.group, **settings)
        own = {cell for cell, group in zip(rows.label.tolist(), rows.group, strict=True) if group == person}
        assert set(change.tolist()) <= {0, 1} and change.sum() == min(max_cells, len(own))


def test_of_a_person_in_too_many_cells_all_are_drawn_alike():
    cells, persons = np.tile(np.arange(4), 2000), [str(person) for person in range(2000) for _ in range(4)]
    counts = count_persons(cells, persons, num_cells=4, max_cells=1, max_count=2000, seed=0)
    # Binomial(2000, 1/4): a standard deviation of 19.4; five of them are exceeded once in 1.7 million cells.
    assert counts.sum() == 2000 and np.abs(counts - 500).max() < 97


def test_a_count_beyond_the_largest_is_told_as_the_largest():
    counts = count_persons(np.zeros(50, int), map(str, range(50)), num_cells=2, max_cells=1, max_count=20, seed=0)
    assert counts.tolist() == [20, 0]


def test_whose_consent_is_withdrawn_is_not_counted(tmp_path):
    world = Counting(tmp_path, counting_job(**ALL_CELLS))
    gone = sorted(set(world.rows["north"].group))[:10]
    for person in gone:
        world.site("north").consent.withdraw(person)
    stay = [place for place, person in enumerate(world.rows["north"].group) if person not in gone]
    assert world.run().tolist() == pooled(world.rows | {"north": world.rows["north"].take(stay)}).tolist()


def test_an_update_says_neither_rows_nor_losses(tmp_path):
    world = Counting(tmp_path, counting_job())
    update = Update.from_bytes(world.site("east").respond(world.server().request()))
    assert (update.num_examples, update.metrics, update.encoding) == (1, {}, ())


def test_a_site_with_nobody_in_the_table_takes_part(tmp_path):
    world = Counting(tmp_path, counting_job(**ALL_CELLS))
    server = world.server()
    update = Update.from_bytes(world.site("east").respond(server.request()))
    nobody = replace(update, arrays={"delta": np.zeros(NUM_CELLS, np.float32)})
    server.receive(nobody.to_bytes())
    assert "east" in server.accepted


@pytest.mark.parametrize("delta", [[0.5, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0], [70_000, 0, 0, 0, 0, 0]])
def test_what_is_no_count_is_refused(tmp_path, delta):
    world = Counting(tmp_path, counting_job())
    server = world.server()
    update = Update.from_bytes(world.site("east").respond(server.request()))
    forged = replace(update, arrays={"delta": np.array(delta, np.float32)})
    with pytest.raises(UpdateRefused, match="expected whole counts up to 65536"):
        server.receive(forged.to_bytes())


def released(tmp_path, *, is_secure: bool, survivors: int) -> tuple[np.ndarray, float]:
    """What the noise of 2,000 cells was, and its standard deviation as a pack would state it."""
    wide = tuple(replace(DIMENSIONS[0], name=f"d{n}", categories=tuple("abcdefghij")) for n in range(3))
    job = counting_job(is_secure=is_secure)
    choice = replace(job.statistics, dimensions=(*wide, DIMENSIONS[1]), **NOISY)
    job = replace(job, statistics=choice)
    world = Counting(tmp_path, job)
    server = world.server(random=UnsafeSeededRandom(5))
    sites = {name: world.site(name, UnsafeSeededRandom(name)) for name in SITES[:survivors]}
    while not server.is_finished:
        request = server.request()
        for name in set(server.waiting_for) & set(sites):
            server.receive(sites[name].respond(request))
        server.close_round()
    counts = [count_persons(world.rows[name].label, world.rows[name].group, **bounds(world, name)) for name in sites]
    server.close()
    return server.model - sum(counts), job.stddev_of(survivors)


def bounds(world, name):
    seed = int(np.random.SeedSequence([world.job.seed, 0, *name.encode()]).generate_state(1)[0])
    return {"num_cells": 2000, "max_cells": 4, "max_count": 2**16, "seed": seed}


@pytest.mark.parametrize(("is_secure", "survivors"), [(False, 4), (False, 3), (True, 4), (True, 3)])
def test_noise_has_the_standard_deviation_that_is_stated(tmp_path, is_secure, survivors):
    pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")
    noise, stddev = released(tmp_path, is_secure=is_secure, survivors=survivors)
    assert (noise == np.rint(noise)).all()
    assert stddev == pytest.approx(6.0 * (np.sqrt(survivors / 3) if is_secure else 1))
    # Of n = 2000 Gaussian numbers the estimate of sigma has a standard deviation of sigma / sqrt(2 n) = 1.6 %, the
    # mean one of sigma / sqrt(n) = 2.2 % of sigma; four of either are exceeded once in 16,000 seeds, and this is one.
    assert noise.std() == pytest.approx(stddev, rel=4 / np.sqrt(2 * 2000))
    assert abs(noise.mean()) < 4 * stddev / np.sqrt(2000)
    assert (noise[1990:] != 0).any()  # cells that nobody is in have noise as well


@pytest.mark.parametrize("is_secure", [False, True])
def test_what_is_paid_is_no_less_than_the_gaussian_mechanism_costs(is_secure):
    pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")
    budget = person_budget(counting_job(is_secure=is_secure, **NOISY))
    assert (budget.unit, budget.charge.mechanism) == ("patient", "concentrated")
    assert 2.9 < budget.charge.noise_multiplier <= 3.0
    few = person_budget(counting_job(is_secure=is_secure, max_cells=1, noise_multiplier=0.5, epsilon=2.0))
    # Shares of .3 persons are too narrow to be Gaussian: under secure sums that is charged for.
    assert (few.charge.noise_multiplier < 0.2) == is_secure


@pytest.mark.parametrize("is_secure", [False, True])
def test_the_same_question_asked_twice_is_paid_for_twice(tmp_path, is_secure):
    pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")
    once = Counting(tmp_path, counting_job(is_secure=is_secure, **NOISY))
    once.run()
    spent = read_spending(tmp_path / "sites" / "east" / "privacy.ledger")["budgets"]["patient"]["spent"]
    assert spent == pytest.approx(person_budget(once.job).cost(1))
    assert person_budget(once.job).cost(2) > 2.0
    with pytest.raises(FederationError, match=r"would bring the patient-level epsilon from 1\.386 to 2\.0"):
        Counting(tmp_path, replace(once.job, seed=1)).run("again")
    assert not (tmp_path / "again" / "models" / "1.safetensors").exists()
    after = read_spending(tmp_path / "sites" / "east" / "privacy.ledger")
    assert len(after["releases"]) == 1


def test_two_questions_that_the_budget_allows_add_up(tmp_path):
    pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")
    job = counting_job(**NOISY | {"epsilon": 4.0})
    for seed in range(2):
        Counting(tmp_path, replace(job, seed=seed)).run(f"server-{seed}")
    ledger = read_spending(tmp_path / "sites" / "west" / "privacy.ledger")
    assert len(ledger["releases"]) == 2
    assert ledger["budgets"]["patient"]["spent"] == pytest.approx(person_budget(job).cost(2))


@pytest.mark.parametrize("is_secure", [False, True])
def test_a_job_beyond_its_own_budget_is_refused_before_anybody_is_asked(tmp_path, is_secure):
    pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")
    world = Counting(tmp_path, counting_job(is_secure=is_secure, **NOISY | {"epsilon": 1.0}))
    with pytest.raises(BudgetExceeded, match=r"noise_multiplier 3 costs epsilon 1\.39 of 1 ") as refused:
        world.server()
    assert refused.value.hint == "noise_multiplier = 4.046 is enough"
    with pytest.raises(BudgetExceeded, match="costs epsilon"):
        world.site("east")


def test_a_receipt_says_what_a_person_was_promised(tmp_path):
    pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")
    from smallhold.device.trust import load_public_key

    for is_secure in (False, True):
        world = Counting(tmp_path / str(is_secure), counting_job(is_secure=is_secure, **NOISY))
        world.run()
        server = world.folder / "server"
        data = (server / "receipts" / "0.dsse.json").read_bytes()
        told = read_receipt(data, load_public_key(server / PUBLIC_KEY), name="receipt")["privacy"]["patient"]
        if is_secure:
            assert told == {"promised": {"epsilon": 2.0, "delta": 1e-5}}
        else:
            assert told["budget"] == 2.0 and 1.3 < told["epsilon"] < 1.5
            assert read_spending(server / "privacy.ledger")["budgets"]["patient"]["spent"] == told["epsilon"]


def test_rows_fall_into_every_combination_of_their_answers():
    assert cells_of(DIMENSIONS, {"condition": ["stroke", "burn", "gout"], "outcome": ["died"]}) == [3, 5]
    assert cells_of(DIMENSIONS, {"condition": ["gout"], "outcome": ["died"]}) == []
    assert BURN_DIED == 5


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"outcome": ["alive", "died"]}, "'condition' is not known here; expected outcome"),
        (
            {"condition": ["sepsis", "stroke"], "outcome": ["alive"]},
            "condition knows no 'burn'; expected some of sepsis",
        ),
    ],
)
def test_what_the_rows_cannot_answer_is_refused(known, message):
    with pytest.raises(RecipeError, match=message):
        check_answers(DIMENSIONS, known)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 2}, "rounds: expected 1"),
        ({"aggregation": AggregationChoice()}, "aggregation.method: expected 'sum'"),
        ({"aggregation": AggregationChoice(method="sum", optimizer="adam")}, "aggregation: with .statistics. expected"),
        ({"upload": UploadChoice(bits=8)}, "upload: with"),
        ({"privacy": PrivacyChoice(clip_norm=1.0)}, "privacy: with"),
        ({"statistics": {"max_count": 2**23}}, "statistics.max_count: 8388608 persons a cell at 4 sites"),
        ({"statistics": {"max_cells": 7}}, "statistics.max_cells: expected 1 to 6, got 7"),
        ({"statistics": {"min_cohort": 0}}, "statistics.min_cohort"),
        ({"statistics": {"epsilon": 1.0}}, "noise_multiplier and epsilon belong together"),
        ({"statistics": {"delta": 1.0}}, "statistics.delta"),
        ({"statistics": {"dimensions": (), "epsilon": 1.0, "noise_multiplier": 1.0}}, "nothing is counted"),
        ({"statistics": {"dimensions": (DIMENSIONS[0], DIMENSIONS[0])}}, "each once"),
    ],
)
def test_a_job_that_cannot_count_is_refused(changes, message):
    job = counting_job()
    with pytest.raises(InputError, match=message):
        if "statistics" in changes:
            changes = {"statistics": replace(job.statistics, **changes["statistics"])}
        replace(job, **changes)


def test_a_model_is_not_added_up(tmp_path):
    job, model = counting_job(), Logistic(5)  # as many parameters as cells
    with pytest.raises(RecipeError, match="which trains a model"):
        RoundServer(job, model.layout, model.initial(0), tmp_path / "server")
    with pytest.raises(RecipeError, match="which trains a model"):
        Site("east", job, model, rows_of_site("east"), tmp_path / "east")
    with pytest.raises(RecipeError, match=r"expected the table \[statistics\]"):
        CellCounts(read_job("heart-disease"))
    with pytest.raises(RecipeError, match="simulated sites train"):
        fleet_job(job, SITES, Faults())


def test_counts_are_neither_compared_nor_audited(tmp_path):
    world = Counting(tmp_path, counting_job())
    counts, model = world.run(), CellCounts(world.job)
    with pytest.raises(FederationError, match="counts are no model"):
        compare(world.job, model, counts, world.rows, world.rows, world.rows)
    with pytest.raises(InputError, match="counts are no model"):
        audit_run(world.job, model, tmp_path, world.rows, world.rows)


def test_a_dimension_is_told_in_toml(tmp_path, capsys):
    (tmp_path / "job.toml").write_text(
        'name = "x"\ntask = "eicu-treatments"\nsites = ["east"]\nrounds = 1\naggregation.method = "sum"\n'
        '[[statistics.dimensions]]\nname = "outcome"\ncategories = ["alive", "a live"]\n'
    )
    assert main(["federate", "run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run")]) == 1
    assert "statistics, dimensions[0]: dimension outcome: expected lower-case letters" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
