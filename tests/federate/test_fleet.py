"""Fleets of simulated sites before the real server: what faulty ones can do, and what many cost in memory."""

import json
import os
import subprocess
import sys

import pytest

from smallhold.cli.main import main
from smallhold.errors import RecipeError
from smallhold.federate import simulated
from smallhold.federate.fleet import Faults, fleet_job, simulate
from smallhold.federate.job import AggregationChoice, FederatedJob, LocalChoice, UploadChoice
from smallhold.federate.logistic import Logistic
from smallhold.federate.verify import verify_run

SITES = simulated.site_names(200)


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch):
    """Nothing here is about what a power cut leaves; thousands of small files would wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def run(folder, faults, sites=SITES, **settings):
    settings = {"rounds": 2, "local": LocalChoice(epochs=2.0, batch_size=8, learning_rate=0.3)} | settings
    job = fleet_job(
        FederatedJob(name="fleet", task="simulated", sites=("a", "b", "c", "d", "e"), **settings), sites, faults
    )
    return simulate(
        job,
        Logistic(simulated.NUM_FEATURES),
        lambda site: simulated.rows_of(site, job.seed),
        simulated.held_out_rows(job.seed),
        faults,
        folder,
    )


def test_poison_breaks_the_mean_and_not_the_trimmed_mean(tmp_path):
    honest = run(tmp_path / "honest", Faults())
    poison = Faults(poison=0.15)
    mean = run(tmp_path / "mean", poison)
    robust = run(tmp_path / "trimmed", poison, aggregation=AggregationChoice(method="trimmed_mean", trim=0.2))
    assert honest[-1].auroc > 0.8 and honest[-1].accepted == 200 and not honest[-1].refused
    assert mean[-1].auroc < 0.5  # the rule is learnt the wrong way round
    assert robust[-1].auroc > honest[-1].auroc - 0.02
    assert mean[-1].accepted == robust[-1].accepted == 200  # a poisoned update is one like any other


def test_faults_are_refused_by_name_and_the_rounds_go_on(tmp_path):
    faults = Faults(lag=0.1, drop=0.05, replay=0.1, malform=0.15)
    first, second, third = run(tmp_path, faults, rounds=3)
    assert (first.asked, first.accepted) == (200, 140)  # with the twenty that replay from the next round on
    assert first.refused == {"malformed": 30, "replayed": 20}
    assert second.refused == third.refused == {"malformed": 30, "stale": 40}
    assert second.accepted == third.accepted == 120
    assert third.auroc > 0.8
    report = verify_run(tmp_path / "server")
    assert report["problems"] == [] and report["summary"]["updates"] == 140 + 2 * 120


def test_a_lie_about_examples_counts_as_much_as_the_job_lets_it(tmp_path):
    """Two sites in a hundred with a million times their weight would be the model."""
    settings = {"rounds": 2, "aggregation": AggregationChoice(max_examples=32)}
    bounded = run(tmp_path / "bounded", Faults(lie=0.02), **settings)
    believed = run(tmp_path / "believed", Faults(lie=0.02), rounds=2)
    honest = run(tmp_path / "honest", Faults(), **settings)
    assert bounded[-1].capped >= 4 and honest[-1].capped > 0  # some honest site has more than 32
    assert abs(bounded[-1].log_loss - honest[-1].log_loss) < 0.005
    assert believed[-1].auroc < honest[-1].auroc - 0.05  # learnt from four sites


def test_sparse_and_rounded_updates_are_turned_round_too(tmp_path):
    upload = UploadChoice(bits=8)
    assert run(tmp_path, Faults(poison=0.15), upload=upload)[-1].auroc < 0.5


def test_sites_have_one_fault_and_shares_are_shares():
    kinds = Faults(lag=0.5, drop=0.25, poison=0.25).drawn(SITES, seed=3)
    assert sorted(kinds) == sorted(SITES)
    assert [list(kinds.values()).count(kind) for kind in ("lag", "drop", "poison")] == [100, 50, 50]
    with pytest.raises(RecipeError, match="at most 1 together"):
        Faults(lag=0.6, drop=0.6)
    with pytest.raises(RecipeError, match=r"drop: expected a share of the sites in \[0, 1\], got -0.1"):
        Faults(drop=-0.1)


def test_a_folder_with_a_job_is_not_used_again(tmp_path):
    run(tmp_path, Faults(), sites=SITES[:5], rounds=1)
    with pytest.raises(RecipeError, match="holds a job already"):
        run(tmp_path, Faults(), sites=SITES[:5], rounds=1)


def test_the_command_says_that_everything_is_simulated(tmp_path, capsys):
    arguments = ["federate", "simulate", "simulated-fleet", "--sites", "20", "--rounds", "1", "--poison", "0.1"]
    assert main([*arguments, "--out", str(tmp_path / "one"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_simulated"] and found["faulty"][0]["accepted"] == found["honest"][0]["accepted"] == 20
    assert main([*arguments, "--out", str(tmp_path / "two"), "--alone"]) == 0
    assert "20 simulated sites" in capsys.readouterr().out


_MEMORY = """
import os, sys
from pathlib import Path
os.fsync = lambda descriptor: None
from smallhold.federate import simulated
from smallhold.federate.fleet import Faults, fleet_job, peak_rss_bytes, simulate
from smallhold.federate.job import AggregationChoice, FederatedJob
from smallhold.federate.logistic import Logistic

def run(folder, sites, method):
    job = FederatedJob(name="m", task="simulated", sites=tuple("abcde"), rounds=1,
                       aggregation=AggregationChoice(method=method))
    job = fleet_job(job, simulated.site_names(sites), Faults())
    return simulate(job, Logistic(20_000), lambda site: rows, rows, Faults(), Path(folder))

rows = simulated.rows_of("one", 0, num_features=20_000).take([0, 1, 2])
rows.label[:] = [0, 1, 1]
run(sys.argv[1] + "/warm", 5, sys.argv[2])
before = peak_rss_bytes()
reports = run(sys.argv[1] + "/many", 2_000, sys.argv[2])
print(reports[-1].accepted, peak_rss_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean", "trimmed_mean"])
def test_two_thousand_sites_do_not_fit_in_the_memory_that_they_take(tmp_path, method):
    """All updates together are 160 MB of float32."""
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path), method], capture_output=True, text=True, timeout=300, check=True
    )
    accepted, grown = map(int, done.stdout.split())
    assert accepted == 2000
    assert grown < 80e6 < 4 * 2000 * 20_001
