import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path

import pytest

from smallhold.assist import replay
from smallhold.assist.replay import ADMISSION, BUILD, START
from smallhold.assist.replay_again import decide_again, find_run
from smallhold.device.build_info import build_difference, this_build
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError

from .small_ward import WATCHDOG, Logistic, make_bed, make_bedside, make_plan
from .test_alarm_log import KEY
from .test_replay import steps, stop_after

HERE = this_build("")
STATIC = {f"p{n}": (0.1, float(n)) for n in range(5)}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", key=KEY) as opened:
        yield opened


def test_a_run_is_decided_again_bit_for_bit(journal: Journal) -> None:
    summary = replay(make_plan(build=HERE, static=STATIC), make_bedside, journal)
    run = find_run(journal)
    assert (run.run_id, run.builds, run.static) == (summary.run_id, (HERE,), STATIC)
    report = decide_again(journal, run, make_bedside, last=10_000, build=HERE)
    assert report.is_bit_exact and report.compared == report.identical == summary.steps
    assert (report.risks, report.largest_difference, report.differences) == (summary.decisions, 0.0, ())
    part = decide_again(journal, run, make_bedside, last=7, build=HERE)
    assert part.is_bit_exact and part.compared == 7 and part.events >= 7
    stored = [row[0] for row in sqlite3.connect(journal.path).execute("SELECT payload FROM payloads")]
    assert sum(b"static" in payload for payload in stored) == 0  # sealed, as all that is a patient's


class Shifted(Logistic):
    """Answers that are off by the last bit of one number."""

    def logits(self) -> dict[str, float]:
        return {name: value + 1e-15 for name, value in super().logits().items()}


def test_a_difference_in_the_last_bit_is_found_and_located(journal: Journal) -> None:
    replay(make_plan(build=HERE), make_bedside, journal)

    def other(run_id: str, patient: str):
        return make_bed(patient, Shifted(patient), run_id=run_id, watchdog=WATCHDOG)

    report = decide_again(journal, find_run(journal), other, last=10_000, build=HERE)
    assert not report.is_bit_exact and 0 < report.largest_difference < 1e-14
    assert all(item.what == "risk" for item in report.differences)
    assert report.compared - report.identical <= report.risks


def test_another_build_or_none_is_never_called_bit_exact(journal: Journal) -> None:
    replay(make_plan(build=HERE), make_bedside, journal)
    elsewhere = {**HERE, "instruction_set": "NEON"}
    report = decide_again(journal, find_run(journal), make_bedside, last=5, build=elsewhere)
    assert report.identical == 5 and not report.is_bit_exact
    assert report.build_difference.startswith("instruction_set: recorded ") and "here 'NEON'" in report.build_difference
    replay(make_plan(), make_bedside, journal)
    report = decide_again(journal, find_run(journal), make_bedside, last=5, build=HERE)
    assert report.identical == 5 and not report.is_bit_exact
    assert "does not say which build" in report.build_difference
    assert build_difference({}, {}) == ""


def test_a_run_that_another_build_went_on_with_says_so(journal: Journal) -> None:
    plan = make_plan(build=HERE)
    with pytest.raises(Exception, match="stopped"):
        replay(plan, make_bedside, journal, on_step=stop_after(20))
    other = {**HERE, "smallhold": "9.9.9"}
    replay(make_plan(build=other), make_bedside, journal)
    assert len([1 for entry, _ in journal.entries() if entry.kind == BUILD]) == 1
    run = find_run(journal)
    assert run.builds == (HERE, other) and "9.9.9" in run.difference(HERE)


def test_interrupted_and_resumed_by_the_same_build_is_still_one_run(journal: Journal) -> None:
    plan = make_plan(build=HERE, static=STATIC)
    with pytest.raises(Exception, match="stopped"):
        replay(plan, make_bedside, journal, on_step=stop_after(20))
    replay(make_plan(build=HERE, static=STATIC), make_bedside, journal)
    kinds = [entry.kind for entry, _ in journal.entries()]
    assert (kinds.count(START), kinds.count(BUILD), kinds.count(ADMISSION)) == (1, 0, 5)
    assert decide_again(journal, find_run(journal), make_bedside, last=10**6, build=HERE).is_bit_exact


def test_of_an_erased_patient_nothing_is_decided_again(journal: Journal) -> None:
    replay(make_plan(build=HERE), make_bedside, journal)
    count = sum(step.patient != "p1" for step in steps(journal))
    journal.erase_patient("p1", "asked")
    report = decide_again(journal, find_run(journal), make_bedside, last=10**6, build=HERE)
    assert report.is_bit_exact and report.compared == count


def test_what_cannot_be_decided_again_is_refused(journal: Journal) -> None:
    with pytest.raises(JournalError, match="holds no replayed run"):
        find_run(journal)
    replay(make_plan(build=HERE), make_bedside, journal)
    run = find_run(journal)
    with pytest.raises(JournalError, match="holds no replayed run 'other'"):
        find_run(journal, "other")
    with pytest.raises(InputError, match="last: expected 1 or more steps, got 0"):
        decide_again(journal, run, make_bedside, last=0, build=HERE)
    with pytest.raises(JournalError, match="has no steps"):
        decide_again(journal, changed(run, run_id="f" * 32), make_bedside, last=1, build=HERE)


def test_a_build_names_processor_and_runtime() -> None:
    build = this_build("onnx_runtime")
    assert build["runtime"][0].isdigit() and build["instruction_set"] and build["backend"] == "onnx_runtime"
    assert json.loads(json.dumps(build)) == build and "runtime" not in this_build("")
