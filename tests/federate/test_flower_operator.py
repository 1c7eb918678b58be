"""The operator beside a SuperLink that comes and goes; the programs of Flower run in `test_flower.py`."""

import subprocess

import pytest

from smallhold.errors import FederationError
from smallhold.federate.engines.flower.operator import Operator


class Flwr:
    """What `flwr` says: no run is under way, and a run is taken while the SuperLink is there."""

    def __init__(self):
        self.is_there, self.asked = True, []

    def __call__(self, *arguments):
        self.asked.append(arguments[0])
        is_taken = self.is_there or arguments[0] == "ls"
        return subprocess.CompletedProcess(arguments, 0 if is_taken else 1, '{"runs": []}', "" if is_taken else "gone")


def test_a_superlink_that_ends_between_two_calls_does_not_end_the_operator(tmp_path, capsys, monkeypatch):
    flwr, now = Flwr(), [0.0]
    monkeypatch.setattr("smallhold.federate.engines.flower.operator.time.monotonic", lambda: now[0])
    operator = Operator(flwr, tmp_path / "app", tmp_path / "server")
    operator.submit()
    flwr.is_there, now[0] = False, 100.0
    operator.tend(100.0)
    assert "flwr run: gone" in capsys.readouterr().err.replace('{"runs": []}', "")
    flwr.is_there, now[0] = True, 120.0
    operator.tend(120.0)
    assert flwr.asked == ["run", "ls", "run"]  # not all the time
    now[0] = 140.0
    operator.tend(140.0)
    assert flwr.asked == ["run", "ls", "run", "ls", "run"]


def test_the_first_run_has_to_be_taken(tmp_path):
    flwr = Flwr()
    flwr.is_there = False
    with pytest.raises(FederationError, match="gone"):
        Operator(flwr, tmp_path / "app", tmp_path / "server").submit()
