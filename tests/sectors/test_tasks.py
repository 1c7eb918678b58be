import importlib

import pytest

from smallhold.errors import RecipeError, UnknownTaskError
from smallhold.sectors.data_sets import known_data_set
from smallhold.sectors.tasks import find_task, parse_sector, read_sector, sector_names, text_tasks

DESK = """
format = "smallhold.sector/1"
name = "desk"
about = "A desk."
[[text_task]]
name = "desk-queue"
question = "Which queue?"
field_name = "queue"
condition = "a ticket"
choices = ["billing", "network"]
intended_use = "Tests."
known_limits = "Invented."
[[text_task.source]]
data_set = "tickets"
text = ["subject"]
label = "queue"
language = "en"
"""


def test_the_package_has_these_sectors_and_tasks() -> None:
    assert sector_names() == ["finance", "hospital"]
    found = {name: [task.name for task in text_tasks(name)] for name in sector_names()}
    assert found == {
        "finance": ["news-sentiment", "support-intent"],
        "hospital": ["triage", "note-specialty", "evidence"],
    }
    assert [len(find_task(name).choices) for name in ("triage", "note-specialty", "support-intent")] == [24, 40, 77]


@pytest.mark.parametrize("sector", sector_names())
def test_a_sector_is_what_its_file_says(sector: str) -> None:
    declared = read_sector(sector)
    assert declared.name == sector
    for name in declared.signal_tasks:
        module = importlib.import_module(f"smallhold.sectors.{sector}.{name.replace('-', '_')}")
        assert name == module.NAME
    for task in declared.text_tasks:
        assert task.sector == sector
        assert find_task(task.name) is find_task(task.name, sector) is task
        for source in task.sources:
            known = known_data_set(source.data_set)
            # Weights that the licence does not let us ship are never trained.
            assert known.may_ship_weights or source.only_measures
            assert all(f'"{member}"' in known.row for member in (*source.text, source.label))


def test_task_names_are_used_once_in_the_package() -> None:
    sectors = [read_sector(name) for name in sector_names()]
    names = [name for s in sectors for name in (*s.signal_tasks, *(task.name for task in s.text_tasks))]
    assert len(names) == len(set(names))


def test_a_folder_that_the_user_names_is_a_sector_too(tmp_path) -> None:
    (tmp_path / "sector.toml").write_text(DESK)
    (task,) = text_tasks(tmp_path)
    assert find_task("desk-queue", str(tmp_path)) == task
    assert (task.sector, task.choices, task.sources[0].group) == ("desk", ("billing", "network"), None)
    with pytest.raises(UnknownTaskError, match="expected one of news-sentiment"):  # it is not searched unasked
        find_task("desk-queue")


def test_what_is_not_there_is_answered_with_what_is(tmp_path) -> None:
    with pytest.raises(
        UnknownTaskError, match="no text task 'triag': expected one of triage, note-specialty, evidence"
    ):
        find_task("triag", "hospital")
    with pytest.raises(UnknownTaskError, match="'icu-risk' of sector hospital reads a stream of readings, not a text"):
        find_task("icu-risk")
    with pytest.raises(RecipeError, match=r"expected one of finance, hospital, or a folder with a sector\.toml"):
        read_sector(tmp_path)
    (tmp_path / "sector.toml").write_bytes(b"\xff")
    with pytest.raises(RecipeError, match="not valid TOML"):
        read_sector(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('format = "smallhold.sector/1"', "", 'expected format = "smallhold.sector/1"'),
        ('name = "desk"', "name = 3", "name: expected text, got 3"),
        ('name = "desk"', "", "name: expected text, got None"),
        ("about", "abuot", "unknown key 'abuot'; did you mean 'about'"),
        ('about = "A desk."', "", "key 'about' is missing"),
        ('about = "A desk."', 'about = " "', "about: expected text, got ' '"),
        ('question = "Which queue?"', "", "text_task desk-queue: key 'question' is missing"),
        ('question = "Which queue?"', 'question = "?"\nsector = "x"', "text_task desk-queue: unknown key 'sector'"),
        ("[[text_task]]", "[text_task]", r"text_task: write \[\[text_task\]\] with double brackets"),
        ("[[text_task.source]]", "[text_task.source]", r"text_task desk-queue: text_task.source: write"),
        ('["subject"]', '"subject"', "source tickets: text: expected a list of texts, got 'subject'"),
        ('language = "en"', 'language = "en"\nonly_measures = "no"', "only_measures: expected true or false, got 'no'"),
        ('language = "en"', 'language = "en"\nlabels = { a = 1 }', "labels: expected a table of texts"),
        ('language = "en"', 'language = "en"\nonly_measures = true', "the first to train on"),
        ('about = "A desk."', 'about = "A"\nsignal_tasks = ["desk-queue"]', "tasks declared twice: desk-queue"),
        ('about = "A desk."', "about = ", "not valid TOML"),
    ],
)
def test_a_malformed_file_is_refused_with_its_key(old: str, new: str, message: str) -> None:
    assert old in DESK
    with pytest.raises(RecipeError, match=message) as caught:
        parse_sector(DESK.replace(old, new), where="desk/sector.toml")
    assert str(caught.value).startswith("desk/sector.toml")
