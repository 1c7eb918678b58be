import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from smallhold.errors import DataError, RecipeError
from smallhold.sectors.splits import Split, split_of
from smallhold.sectors.tasks import find_task, sector_names, text_tasks
from smallhold.sectors.text_task import (
    MAX_CHARS,
    TextSource,
    TextTask,
    example_of_row,
    load_examples,
    normalised_text,
    read_examples,
    split,
)

TICKETS = TextSource(data_set="tickets", text=("subject", "parts"), label="queue", language="en", group="id")
FOREIGN = TextSource(
    data_set="billets",
    text=("texte",),
    label="code",
    language="fr",
    labels={"1": "billing", "A2": "network"},
    leaves_out_others=True,
    only_measures=True,
)
DESK = TextTask(
    name="desk-queue",
    sector="desk",
    question="Which queue?",
    field_name="queue",
    choices=("billing", "network"),
    condition="a ticket",
    sources=(TICKETS, FOREIGN),
    intended_use="Tests.",
    known_limits="Invented.",
)
ROW = {"id": 7, "subject": "Bill", "parts": ["too", "high"], "queue": "billing", "solution": "it was"}
REAL = [pytest.param(task, source, id=f"{task.name}-{source.data_set}")
        for sector in sector_names() for task in text_tasks(sector) for source in task.sources]  # fmt: skip
needs_data = pytest.mark.skipif("SMALLHOLD_DATA" not in os.environ, reason="SMALLHOLD_DATA is not set: no real rows")


def write(folder: Path, rows: list[dict], name: str = "a.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_named_members_alone_are_read_in_their_order() -> None:
    example = example_of_row(DESK, TICKETS, ROW, where="x")
    assert example is not None
    assert (example.text, example.label, example.group) == ("Bill\ntoo\nhigh", "billing", "7")
    assert (example.data_set, example.language, example.is_simulated) == ("tickets", "en", False)
    assert example_of_row(DESK, TICKETS, {**ROW, "simulated": True}, where="x").is_simulated


def test_files_and_lines_keep_their_order(tmp_path: Path) -> None:
    rows = [{**ROW, "id": f"t-{number}"} for number in range(5)]
    write(tmp_path, rows[3:], "b.jsonl")
    write(tmp_path, rows[:3], "a.jsonl")
    assert [example.group for example in read_examples(DESK, TICKETS, tmp_path)] == [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue": "bill"}, r"member 'queue': unknown label 'bill': expected one of the 2 choices of desk-queue"),
        ({"queue": None}, "member 'queue': expected text or a whole number, got NoneType"),
        ({"queue": True}, "member 'queue': expected text or a whole number, got bool"),
        ({"queue": "\x1b[31m"}, "member 'queue': expected printable characters"),
        ({"id": " "}, "member 'id': expected printable characters"),
        ({"subject": None}, "member 'subject': expected a text or a list of texts, got NoneType"),
        ({"parts": ["too", 3]}, "member 'parts': expected a text or a list of texts, got list"),
        ({"subject": " \n", "parts": ["\t", ""]}, "member 'subject', 'parts': expected a text, got nothing but white"),
        ({"subject": "", "parts": []}, "expected a text, got nothing but white"),
        ({"subject": "x" * (MAX_CHARS + 1)}, "expected at most 1,000,000 characters, got 1,000,010"),
        ({"subject": "\ud800"}, "expected Unicode text, got a lone surrogate"),
        ({"simulated": 1}, "member 'simulated': expected true or false, got 1"),
    ],
)
def test_a_row_that_is_not_as_declared_is_one_error_with_file_line_and_member(
    tmp_path: Path, change: dict, message: str
) -> None:
    write(tmp_path, [ROW, {**ROW, **change}])
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2, {message}" if "member" in message else message) as caught:
        read_examples(DESK, TICKETS, tmp_path)
    assert "too high" not in str(caught.value)  # no text of the row


@pytest.mark.parametrize("member", ["id", "subject", "parts", "queue"])
def test_a_missing_member_is_named(tmp_path: Path, member: str) -> None:
    write(tmp_path, [{key: value for key, value in ROW.items() if key != member}])
    with pytest.raises(DataError, match=rf"line 1, member '{member}': missing"):
        read_examples(DESK, TICKETS, tmp_path)


def test_the_longest_text_that_is_allowed_is_read_whole() -> None:
    row = {**ROW, "subject": "x" * (MAX_CHARS - len("\ntoo\nhigh"))}
    assert len(example_of_row(DESK, TICKETS, row, where="x").text) == MAX_CHARS


def test_labels_in_other_words_are_translated_and_others_left_out_only_where_declared(tmp_path: Path) -> None:
    rows = [{"texte": f"t{code}", "code": code} for code in (1, "A2", "Z9", "billing")]
    assert [e.label for e in read_examples(DESK, FOREIGN, write(tmp_path, rows))] == ["billing", "network"]
    strict = replace(FOREIGN, leaves_out_others=False)
    with pytest.raises(DataError, match=r"line 3, member 'code': unknown label 'Z9'") as caught:
        read_examples(DESK, strict, tmp_path)
    assert "sector.toml" in caught.value.hint
    with pytest.raises(DataError, match="expected rows labelled with one of 1, A2, found none"):
        read_examples(DESK, FOREIGN, write(tmp_path / "none", rows[2:]))


def test_only_what_trains_is_loaded_unless_a_data_set_is_named(tmp_path: Path) -> None:
    write(tmp_path / "tickets", [ROW])
    assert [e.data_set for e in load_examples(DESK, tmp_path)] == ["tickets"]
    with pytest.raises(DataError, match="'billets' not found"):
        load_examples(DESK, tmp_path, data_set="billets")
    write(tmp_path / "billets", [{"texte": "t", "code": 1}])
    assert [e.data_set for e in load_examples(DESK, tmp_path, data_set="billets")] == ["billets"]
    with pytest.raises(DataError, match="expected one of the data sets tickets, billets, got 'mine'"):
        load_examples(DESK, tmp_path, data_set="mine")
    assert (DESK.data_set, DESK.languages) == ("tickets", ("en",))


def test_every_example_is_in_one_part_and_equal_texts_are_in_the_same(tmp_path: Path) -> None:
    source = replace(TICKETS, group=None, text=("subject",))
    rows = [{"subject": text, "queue": "network"} for n in range(60)
            for text in (f"Line {n} is down", f"line  {n} IS\ndown https://t.co/{n}", f"gone {n}")]  # fmt: skip
    examples = read_examples(replace(DESK, sources=(source,)), source, write(tmp_path, rows))
    parts = {part: split(examples, part) for part in Split}
    assert sum(map(len, parts.values())) == len(examples) == len(split(examples, "all"))
    assert Counter(e.group for e in examples).most_common(1)[0][1] == 2
    for part, members in parts.items():
        assert members
        assert all(split_of("tickets", e.group) is part for e in members)
    groups = [{e.group for e in members} for members in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Shares  FALL\n", "shares fall"),
        ("Fall https://t.co/x http://a.b/c?d now", "fall now"),
        ("https://t.co/Only", "https://t.co/Only"),
        ("ÉTÉ Бронхит", "été бронхит"),
    ],
)
def test_normalised_text(text: str, expected: str) -> None:
    assert normalised_text(text) == expected
    assert normalised_text(expected) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Desk Queue"}, "expected a name such as 'news-sentiment'"),
        ({"choices": ("billing",)}, "expected at least two different choices"),
        ({"choices": ("billing", "network", "billing")}, "expected at least two different choices"),
        ({"choices": ("billing", "network", "a>b")}, "expected printable words without '<' and '>', got 'a>b'"),
        ({"choices": ("billing", "network", " a")}, "expected printable words"),
        ({"choices": ("billing", "other")}, r"source billets: labels: \['network'\] are not among the choices"),
        ({"sources": ()}, "expected sources with different data sets"),
        ({"sources": (TICKETS, TICKETS)}, "expected sources with different data sets"),
        ({"sources": (FOREIGN,)}, "the first to train on"),
    ],
)
def test_a_task_that_could_not_be_asked_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(DESK, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ()}, "expected one or more different members"),
        ({"text": ("queue",)}, "member 'queue' is the answer: it cannot be read as text"),
        ({"leaves_out_others": True}, "leaves_out_others needs labels"),
    ],
)
def test_a_source_that_reads_nothing_or_its_answer_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(TICKETS, **change)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("task", "source"), REAL)
def test_real_rows_are_read_as_declared(task: TextTask, source: TextSource) -> None:
    examples = load_examples(task, Path(os.environ["SMALLHOLD_DATA"]), data_set=source.data_set)
    assert len(examples) > 500
    assert not any(example.is_simulated for example in examples)
    assert len(split(examples, Split.TRAIN)) / len(examples) == pytest.approx(0.7, abs=0.03)
    # One text has one group: no copy of it is on another side of the split.
    sides: dict[str, set[Split]] = {}
    for example in examples:
        key = normalised_text(example.text)
        sides.setdefault(key, set()).add(split_of(example.data_set, example.group))
    assert all(len(parts) == 1 for parts in sides.values())


@pytest.mark.data
@needs_data
def test_what_names_the_answer_is_never_read() -> None:
    folder = Path(os.environ["SMALLHOLD_DATA"])
    notes = load_examples(find_task("note-specialty"), folder)
    assert not any("keywords" in name or "description" in name for name in find_task("note-specialty").sources[0].text)
    # The label word is in the keywords of nearly every note; in the dictated text it is rare.
    assert sum(e.label.lower() in e.text.lower() for e in notes) / len(notes) < 0.3
    from smallhold.sectors.data_sets import jsonl_files, read_jsonl

    rows = [row for path in jsonl_files(folder / "pubmedqa") for row in read_jsonl(path)]
    for row, example in zip(rows, load_examples(find_task("evidence"), folder), strict=True):
        assert example.text.startswith(row["question"])
        assert row["long_answer"] not in example.text
