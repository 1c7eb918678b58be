from pathlib import Path

import pytest

from smallhold.assist.orders import load_interactions
from smallhold.errors import OrderError

TABLE = """
format = 1
name = "t"
version = "1"
note = "n"
drugs = ["a", "b", "c"]
[[interaction]]
between = ["a", "b"]
summary = "bleeding"
source = "leaflet"
[[allergy]]
allergen = "x"
drugs = ["a", "c"]
summary = "rash"
source = "leaflet"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "table.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_pair_is_found_from_both_sides_and_an_allergy_by_its_group(tmp_path: Path) -> None:
    table = load_interactions(write(tmp_path, TABLE))
    assert [f.summary for f in table.check("a", drugs=["B "], allergies=[])] == ["bleeding"]
    assert [f.summary for f in table.check("b", drugs=["a"], allergies=["x"])] == ["bleeding"]
    assert [(f.kind, f.other) for f in table.check("c", drugs=["a"], allergies=["X"])] == [("allergy", "x")]
    assert [(f.kind, f.source) for f in table.check("c", drugs=[], allergies=["c"])] == [("allergy", "the record")]
    assert table.check("b", drugs=["c", "b"], allergies=["x", "a"]) == ()


def test_what_is_not_listed_cannot_be_excluded(tmp_path: Path) -> None:
    table = load_interactions(write(tmp_path, TABLE))
    assert [f.kind for f in table.check("d", drugs=["e"], allergies=["pollen"])] == ["unlisted"] * 3


def test_the_shipped_table_is_a_demonstration_and_says_so() -> None:
    table = load_interactions()
    assert "not a drug database" in table.note and table.name == "demonstration"
    assert [f.other for f in table.check("warfarin", drugs=["amiodarone"], allergies=[])] == ["amiodarone"]
    assert [f.other for f in table.check("amoxicillin", drugs=[], allergies=["penicillin"])] == ["penicillin"]
    assert table.check("norepinephrine", drugs=["insulin-regular"], allergies=["penicillin"]) == ()
    assert all(summary and source for summary, source in table.pairs.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format: expected 1, got 2"),
        ("note", "noted", "unknown key 'noted'"),
        ('note = "n"', "", "key 'note' is missing"),
        ('["a", "b"]', '["a", "z"]', "'z' is not among the table's drugs"),
        ('["a", "b"]', '["a", "a"]', "expected two different drugs"),
        ('["a", "b"]', "3", "expected texts, got 3"),
        ('drugs = ["a", "c"]', 'drugs = ["a", "A"]', "expected lower case"),
        ('source = "leaflet"\n[[all', "[[all", "key 'source' is missing"),
        ('summary = "rash"', 'summary = ""', "summary: expected a text that is not empty"),
        ("[[allergy]]", "[allergy]", "write \\[\\[allergy\\]\\] with double brackets"),
        (
            "[[interaction]]",
            '[[interaction]]\nbetween = ["b", "a"]\nsummary = "s"\nsource = "s"\n[[interaction]]',
            "already",
        ),
        ("[[allergy]]", "[[allergy", "cannot be read"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TABLE
    with pytest.raises(OrderError, match=message):
        load_interactions(write(tmp_path, TABLE.replace(old, new, 1)))
