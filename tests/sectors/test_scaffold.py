import json
import tomllib

import pytest

from smallhold.errors import DataError, InputError, RecipeError
from smallhold.sectors.scaffold import SIMULATED_ROWS, simulated_messages, write_sector_from, write_simulated_sector
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task, read_sector
from smallhold.sectors.text_task import TextSource, load_examples, split


def test_a_new_sector_is_found_and_read_without_touching_the_package(tmp_path) -> None:
    folder = tmp_path / "sectors" / "city-desk"
    sector = write_simulated_sector("city-desk", folder)
    assert read_sector(folder) == sector
    task = find_task("city-desk-topic", folder)
    examples = load_examples(task, folder / "data")
    assert len(examples) == SIMULATED_ROWS
    assert all(example.is_simulated and example.data_set == "simulated_city_desk" for example in examples)
    assert all({e.label for e in split(examples, part)} == set(task.choices) for part in Split)
    page = (folder / "README.md").read_text()
    assert "simulated" in page and f"smallhold new check {folder} --data {folder / 'data'}" in page
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    assert find_task(recipe["text"][0]["task"], recipe["sector"]) == task


def test_the_same_seed_gives_the_same_messages() -> None:
    assert list(simulated_messages(40, 3)) == list(simulated_messages(40, 3))
    assert list(simulated_messages(40, 3)) != list(simulated_messages(40, 4))


def test_a_sector_from_a_data_set_takes_its_labels_as_choices(tmp_path) -> None:
    rows = tmp_path / "data" / "my_tickets"
    rows.mkdir(parents=True)
    lines = [{"subject": f"n{n}", "queue": queue, "id": n} for n, queue in enumerate(['a "b"', "étage\\2", "zero"] * 2)]
    (rows / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = TextSource(data_set="my_tickets", text=("subject",), label="queue", language="fr", group="id")
    sector = write_sector_from("desk", tmp_path / "desk", rows, source)
    (task,) = read_sector(tmp_path / "desk").text_tasks
    assert sector.text_tasks == (task,)
    assert (task.name, task.choices, task.sources) == ("desk-queue", ('a "b"', "zero", "étage\\2"), (source,))
    assert [e.label for e in load_examples(task, tmp_path / "data")] == [line["queue"] for line in lines]
    assert sorted(path.name for path in (tmp_path / "desk").iterdir()) == ["README.md", "recipe.toml", "sector.toml"]


@pytest.mark.parametrize("name", ["City Desk", "desk_", "../desk", "", "-desk"])
def test_a_name_that_cannot_be_one_is_refused_and_nothing_is_written(tmp_path, name: str) -> None:
    with pytest.raises(InputError, match="expected lower case, words joined by hyphens"):
        write_simulated_sector(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten_or_hidden(tmp_path) -> None:
    with pytest.raises(InputError, match="a sector of that name comes with the package"):
        write_simulated_sector("hospital", tmp_path / "new")
    write_simulated_sector("desk", tmp_path / "new")
    before = (tmp_path / "new" / "sector.toml").read_bytes()
    with pytest.raises(InputError, match="expected a folder that is absent or empty"):
        write_simulated_sector("other", tmp_path / "new")
    assert (tmp_path / "new" / "sector.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([f"{n}" for n in range(1001)], DataError, "expected at most 1000 different labels by line 1001"),
        (["one"], RecipeError, "expected at least two different choices"),
        (["a", "<b>"], RecipeError, "without '<' and '>'"),
        (["a", None], DataError, "line 2, member 'y': expected text or a whole number"),
    ],
)
def test_labels_that_are_no_closed_set_are_refused_before_anything_is_written(tmp_path, labels, error, message) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text("".join(json.dumps({"x": "t", "y": label}) + "\n" for label in labels))
    source = TextSource(data_set="rows", text=("x",), label="y", language="en")
    with pytest.raises(error, match=message):
        write_sector_from("desk", tmp_path / "new", tmp_path / "rows", source)
    assert not (tmp_path / "new").exists()
