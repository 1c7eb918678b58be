"""A job whose server sees sums alone, by masks or by ciphertexts, on every engine: turns, and the oracle's model."""

import json
from pathlib import Path

import pytest

from smallhold.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
JOB = """
name = "secure"
task = "simulated"
sites = ["a", "b", "c"]
rounds = 1
[upload]
{hidden}
[privacy]
clip_norm = 1.0
[aggregation]
max_examples = 50
"""
pytestmark = pytest.mark.timeout(1500)  # the commands have deadlines of their own
MASKED, ENCRYPTED = "secure = true", 'key_holder = "b"'
WAYS = {"flower": [], "nvflare": ["--simulate"], "substra": ["--tasks", "memory"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "hidden"),
    [
        pytest.param(
            name,
            hidden,
            marks=pytest.mark.skipif(
                not (ROOT / f".venv-{name}/bin/python").exists(), reason=f"needs {name}: make {name}"
            ),
        )
        for name, hidden in [*((name, MASKED) for name in WAYS), ("nvflare", ENCRYPTED), ("substra", ENCRYPTED)]
    ],
)
def test_an_engine_carries_the_turns_of_a_sum_that_hides_its_summands(engine, hidden, tmp_path, capsys):
    if hidden == ENCRYPTED:
        pytest.importorskip("tenseal", reason="encryption needs TenSEAL, the extra 'he'")
    path = tmp_path / "secure.toml"
    path.write_text(JOB.format(hidden=hidden))
    assert main(["federate", "run", str(path), "--out", str(tmp_path / "oracle"), "--json"]) == 0
    oracle = json.loads(capsys.readouterr().out)
    programs = str(ROOT / f".venv-{engine}/bin")
    arguments = ["--engine", engine, *WAYS[engine], "--programs", programs, "--deadline", "550", "--json"]
    assert main(["federate", "run", str(path), "--out", str(tmp_path / engine), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == oracle["model"]
    assert main(["federate", "verify", str(tmp_path / engine)]) == 0
