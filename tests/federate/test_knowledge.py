"""From a finished job that counts to a signed pack: what is in it, what is withheld, what is refused."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load
from tests.federate.counting import NUM_CELLS, Counting, counting_job

from smallhold.cli.main import main
from smallhold.device.knowledge import Dimension
from smallhold.errors import FederationError, InputError
from smallhold.federate.eicu_treatments import load_rows
from smallhold.federate.knowledge import make_pack
from smallhold.federate.person_privacy import person_budget
from smallhold.records import sha256_hex
from smallhold.sectors.splits import Split, split_of

pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
NOISY = {"max_cells": 4, "noise_multiplier": 3.0, "epsilon": 2.0, "min_cohort": 50}
WHAT = {"data": "invented rows", "created": CREATED, "valid_days": 30}


@pytest.mark.parametrize("is_secure", [False, True])
def test_a_pack_holds_what_was_released_less_what_is_below_the_cohort(tmp_path, is_secure):
    world = Counting(tmp_path, counting_job(is_secure=is_secure, **NOISY))
    released = world.run().astype(int).tolist()
    pack = make_pack(world.job, tmp_path / "server", **WHAT)
    assert list(pack.counts) == [count if count >= 50 else None for count in released]
    # Nobody, and 101 in truth: the noise cannot be seeded, and 50 is seven of its deviations away from both.
    assert pack.counts[-1] is None and released[0] >= 50
    assert (pack.sites, pack.noise) == (4, "sites" if is_secure else "server")
    assert pack.stddev == pytest.approx(6.0 * (np.sqrt(4 / 3) if is_secure else 1))
    assert (pack.epsilon, pack.delta) == (person_budget(world.job).cost(1), 1e-5)
    assert (pack.job, pack.valid_until) == (world.job.digest, "2026-01-31T00:00:00Z")
    assert pack.receipt == sha256_hex((tmp_path / "server" / "receipts" / "0.dsse.json").read_bytes())
    assert not any(site.encode() in pack.to_bytes() for site in world.job.sites)  # how many, not which


def test_counts_without_noise_do_not_become_a_pack(tmp_path):
    world = Counting(tmp_path, counting_job(max_cells=NUM_CELLS))
    world.run()
    with pytest.raises(FederationError, match="a pack holds no exact counts"):
        make_pack(world.job, tmp_path / "server", **WHAT)


def test_what_is_not_this_job_finished_and_whole_does_not_become_a_pack(tmp_path):
    world = Counting(tmp_path, counting_job(**NOISY))
    world.server().close()
    with pytest.raises(FederationError, match="not finished"):
        make_pack(world.job, tmp_path / "server", **WHAT)
    world.run()
    with pytest.raises(FederationError, match="holds another job"):
        make_pack(replace(world.job, seed=1), tmp_path / "server", **WHAT)
    with pytest.raises(InputError, match="valid_days: expected above 0"):
        make_pack(world.job, tmp_path / "server", **WHAT | {"valid_days": 0})
    model = tmp_path / "server" / "models" / "1.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(FederationError, match="altered"):
        make_pack(world.job, tmp_path / "server", **WHAT)


SUBSTRA = Path(__file__).resolve().parents[2] / ".venv-substra" / "bin"
STAYS = [("Midwest", 30), ("South", 40), ("West", 20), ("Northeast", 20), (None, 20)]


@pytest.fixture
def data(tmp_path):
    """Invented stays in the form of the data set: sepsis, treated with antibacterials, of whom every fourth died."""
    folder = tmp_path / "data" / "eicu_demo_multihospital"
    folder.mkdir(parents=True)
    lines = [
        {
            "patient": f"{region}-{number}",
            "region": region,
            "predicted_mortality": (None, -1, 0.05, 0.2001)[number % 4],
            "hospital_status": "Expired" if number % 4 == 0 else "Alive",
            "diagnoses": [[5, "cardiovascular|shock / hypotension|septic shock"]],
            "treatments": [[9, "infectious diseases|medications|therapeutic antibacterials|piperacillin"]],
        }
        for region, count in STAYS
        for number in range(count)
    ]
    (folder / "stays.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder.parent


def test_the_shipped_job_becomes_a_pack_that_is_looked_up_on_the_command_line(tmp_path, data, capsys):
    home, run, pack = (str(tmp_path / name) for name in ("home", "run", "pack.json"))
    assert main(["device", "--home", home, "init"]) == 0
    assert main(["federate", "run", "icu-knowledge", "--data", str(data), "--out", run]) == 0
    assert f"smallhold federate knowledge icu-knowledge --run {run}" in capsys.readouterr().err
    packing = ["federate", "--home", home, "knowledge", "icu-knowledge", "--run", run, "--out", pack]
    assert main([*packing, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["cells"] == 60 and made["sites"] == 5 and made["epsilon"] < 2
    showing = ["knowledge", "--home", home, "show", pack, "--where", "condition=sepsis"]
    assert main([*showing, "--where", "treatment=antibacterials", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["digest"] == made["digest"] and "counts" not in found
    alive = found["cells"][0]
    assert alive["outcome"] == "alive" and alive["interval"][0] < alive["count"] < alive["interval"][1]
    assert main([*showing, "--where", "treatment=antibacterials"]) == 0
    out = capsys.readouterr().out
    assert "genuine, eicu_demo_multihospital, train, 5 sites" in out and f"sha256 {made['digest']}" in out
    assert main([*showing, "--where", "treatment=leeches"]) == 1
    assert "no treatment 'leeches'; expected one of mechanical-ventilation" in capsys.readouterr().err
    assert main([*showing, "--where", "condition=pneumonia"]) == 1
    assert "once a dimension" in capsys.readouterr().err
    assert main(["device", "--home", home + "2", "init"]) == 0
    assert main(["knowledge", "--home", home + "2", "show", pack]) == 1
    assert "signed by nobody this device trusts" in capsys.readouterr().err


def test_a_calibration_is_a_table_of_counts(data):
    bands = ("below-5-percent", "20-to-40-percent", "unknown")
    risk = Dimension(name="apache-risk", categories=bands)
    outcome = Dimension(name="outcome", categories=("alive", "died"))
    rows = load_rows((risk, outcome), data, Split.TRAIN)["south"]
    said = {0: "unknown", 1: "unknown", 2: "below-5-percent", 3: "20-to-40-percent"}
    for person, cell in zip(rows.group, rows.label.tolist(), strict=True):
        rest = int(person.split("-")[1]) % 4
        assert divmod(cell, 2) == (bands.index(said[rest]), int(rest == 0))


def test_rows_that_are_not_of_the_data_set_are_refused_by_line(tmp_path, data, capsys):
    (data / "eicu_demo_multihospital" / "stays.jsonl").write_text('{"patient": "x"}\n')
    assert main(["federate", "run", "icu-knowledge", "--data", str(data), "--out", str(tmp_path / "run")]) == 1
    assert "stays.jsonl, line 1: not a row of eicu_demo_multihospital" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not (SUBSTRA / "python").exists(), reason="needs substra: make substra")
def test_an_engine_carries_counts_to_the_same_bytes(tmp_path, data, capsys):
    shipped = (files("smallhold.federate") / "jobs" / "icu-knowledge.toml").read_text()
    exact = "".join(line for line in shipped.splitlines(True) if not line.startswith(("noise_multiplier", "epsilon")))
    (tmp_path / "exact.toml").write_text(exact)
    running = ["federate", "run", str(tmp_path / "exact.toml"), "--data", str(data), "--json", "--out"]
    assert main([*running, str(tmp_path / "oracle")]) == 0
    oracle = json.loads(capsys.readouterr().out)
    engine = ["--engine", "substra", "--tasks", "memory", "--programs", str(SUBSTRA), "--deadline", "550"]
    assert main([*running, str(tmp_path / "run"), *engine]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == oracle["model"]
    model = load((tmp_path / "run" / "server" / "models" / "1.safetensors").read_bytes())["model"].reshape(6, 5, 2)
    training = [
        number
        for region, count in STAYS
        for number in range(count)
        if split_of("eicu_demo_multihospital", f"{region}-{number}") == Split.TRAIN
    ]
    died = sum(number % 4 == 0 for number in training)
    assert model[0, 3].tolist() == [len(training) - died, died] and model.sum() == len(training)
