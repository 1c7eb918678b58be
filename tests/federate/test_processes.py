"""Programs that a deployment keeps running: when they are started again, and when it gives up."""

import sys
from pathlib import Path

import pytest

from smallhold.errors import FederationError
from smallhold.federate.engines.processes import Process


@pytest.fixture
def ended(tmp_path: Path) -> Process:
    """A program that says what ails it and ends."""
    process = Process("node", [sys.executable, "-c", "print('no answer')"], {}, tmp_path / "node.log")
    process.start()
    process.running.wait(60)
    process.started = 0.0
    return process


def test_what_ends_is_started_at_once_and_then_after_longer_waits(ended: Process) -> None:
    now, waits = 0.0, []
    for _ in range(9):
        now += 3.0
        wait = 0.0
        while not ended.is_due(now + wait):
            wait += 0.5
        waits.append(wait)
        now += wait
        ended.started, ended.due = now, None
    assert waits == [0, 1, 2, 4, 8, 15, 15, 15, 15]


def test_what_ran_for_a_while_is_started_at_once_again(ended: Process) -> None:
    ended.ends = 12
    assert ended.is_due(61.0) and ended.ends == 1


def test_what_ends_twenty_times_in_a_row_is_given_up_with_its_last_words(ended: Process) -> None:
    now = 0.0
    with pytest.raises(FederationError, match=r"node ended 21 times in a row; its last words:\nno answer"):
        while True:
            while not ended.is_due(now):
                now += 1.0
            ended.started, ended.due = now, None
    assert now > 200  # seconds that it had to come back


def test_a_program_that_runs_is_not_due(tmp_path: Path) -> None:
    process = Process("node", [sys.executable, "-c", "import time; time.sleep(600)"], {}, tmp_path / "node.log")
    process.start()
    try:
        assert not process.is_due(1e9)
    finally:
        process.running.kill()
        process.running.wait(60)
