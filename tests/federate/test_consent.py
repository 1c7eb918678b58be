"""The list of those who may not be learnt from: every word counts, the last one holds, and nothing is lost."""

import json
from pathlib import Path

import pytest

from smallhold.errors import DataError
from smallhold.federate.consent import ConsentList


def test_who_withdrew_is_left_out_until_they_agree_again(tmp_path: Path) -> None:
    path = tmp_path / "withdrawals.jsonl"
    listed = ConsentList(path)
    empty = listed.digest
    listed.restore("a")
    assert not path.exists()  # nobody had withdrawn
    listed.withdraw("a")
    listed.withdraw("a")
    assert listed.allowed(["a", "b", "a"]) == [1]
    assert len(path.read_text().splitlines()) == 1 and listed.digest != empty
    listed.restore("a")
    assert listed.allowed(["a", "b"]) == ConsentList(path).allowed(["a", "b"]) == [0, 1]
    listed.withdraw("a")
    assert ConsentList(path).allowed(["a", "b"]) == [1]
    assert [json.loads(line).get("is_restored", False) for line in path.read_text().splitlines()] == [
        False,
        True,
        False,
    ]


def test_a_word_that_is_repeated_later_does_not_overrule_what_came_after_it(tmp_path: Path) -> None:
    path = tmp_path / "withdrawals.jsonl"
    ConsentList(path).withdraw("a", said_ms=2_000)
    again = ConsentList(path)
    again.restore("a", said_ms=1_000)  # of before the withdrawal: a ward that starts again says all that it knows
    assert again.allowed(["a"]) == []
    again.restore("a", said_ms=3_000)
    again.withdraw("a", said_ms=2_000)
    assert again.allowed(["a"]) == ConsentList(path).allowed(["a"]) == [0]


def test_two_writers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "withdrawals.jsonl"
    ward, office = ConsentList(path), ConsentList(path)
    ward.withdraw("a")
    office.withdraw("b")
    ward.withdraw("c")
    assert ConsentList(path).allowed(["a", "b", "c", "d"]) == ward.allowed(["a", "b", "c", "d"]) == [3]


@pytest.mark.parametrize("line", ['{"group": "a"', "[1]", '{"patient": "a"}', '{"group": "a", "t_ms": "x"}'])
def test_while_the_list_cannot_be_read_nobody_is_learnt_from(tmp_path: Path, line: str) -> None:
    path = tmp_path / "withdrawals.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match="malformed list of withdrawals"):
        ConsentList(path)
