"""The documentation is checked like code: links lead somewhere, commands parse, examples run, tables are complete."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FOLDERS = [DOCS, ROOT / "src", ROOT / "bench"]
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in folder.rglob("*.md"))])
#: Pages that people type commands and examples from; the generated reference shows usage lines, which do not parse.
TYPED = [page for page in PAGES if page.is_relative_to(DOCS) or page.parent == ROOT]
TYPED = [page for page in TYPED if page != DOCS / "reference" / "cli.md"]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
# A path below one of these belongs to one machine. `~/work`, `docs/work/` and `https://host/tmp` do not.
_MACHINE_PATH = re.compile(r"(?<![\w.~/$}-])/(?:work|root|tmp|home|Users)(?:/|\b)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The text without fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in _FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(text.replace(" ", "-"))
    return found


def logical_lines(block: str) -> Iterator[str]:
    """Lines as a shell takes them: continued by a backslash, or by a quotation that is still open."""
    pending = ""
    for line in block.replace("\\\n", " ").splitlines():
        pending = f"{pending}\n{line}" if pending else line
        try:
            shlex.split(pending, comments=True)
        except ValueError:
            continue
        yield pending
        pending = ""
    assert not pending, f"a quotation is never closed: {pending}"


def commands(block: str) -> Iterator[list[str]]:
    """The simple commands of a block as words, without variables that are set in front of them."""
    for line in logical_lines(block):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and set(word) <= set("|&;<>()"):
                while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
                    del words[0]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def smallhold_commands(page: Path) -> list[list[str]]:
    found = [words for block in blocks(page, "sh", "bash", "console") for words in commands(block)]
    return [words[1:] for words in found if Path(words[0]).name == "smallhold"]


def test_a_shell_block_is_split_as_a_shell_splits_it() -> None:
    block = "A=1 smallhold demo  # why\necho '{\"a\":\n 1}' \\\n  | smallhold decide B --hours 1 && ls | wc\n"
    assert list(commands(block)) == [
        ["smallhold", "demo"],
        ["echo", '{"a":\n 1}'],
        ["smallhold", "decide", "B", "--hours", "1"],
        ["ls"],
        ["wc"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert not broken, f"{name_of(page)} links to what is not there: {broken}"


@pytest.mark.parametrize("page", TYPED, ids=name_of)
def test_commands_in_fenced_blocks_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from smallhold.cli.main import build_parser

    for words in smallhold_commands(page):
        try:
            parsed = build_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{name_of(page)}: smallhold {shlex.join(words)}: {capsys.readouterr().err}")
        assert parsed.verb is not None


def test_commands_are_found_at_all() -> None:
    assert len(smallhold_commands(ROOT / "README.md")) >= 2
    assert len(smallhold_commands(DOCS / "guides" / "getting-started.md")) >= 9


@pytest.mark.parametrize("page", TYPED, ids=name_of)
def test_python_and_json_blocks_are_well_formed(page: Path) -> None:
    for number, block in enumerate(blocks(page, "python"), start=1):
        compile(block, f"{name_of(page)}, Python block {number}", "exec")
    for block in blocks(page, "json"):
        json.loads(block)


@pytest.fixture
def demo_folder(small_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a demo seems to have run: a bundle in its place, its publisher trusted by the home."""
    shutil.copytree(small_bundle.path, tmp_path / "runs" / "demo-simulated" / "bundle")
    shutil.copytree(small_bundle.trusted_keys, tmp_path / "home" / "trust")
    monkeypatch.setenv("SMALLHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/guides/from-python.md"])
def test_python_examples_run_in_order(page: str, demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    examples = blocks(ROOT / page, "python")
    assert examples
    for number, block in enumerate(examples, start=1):
        exec(compile(block, f"{page}, Python block {number}", "exec"), namespace)
    assert capsys.readouterr().out


def test_the_readme_decides_on_the_command_line(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smallhold.cli.main import main

    steps = [words for block in blocks(ROOT / "README.md", "sh") for words in commands(block)]
    at = next(i for i, words in enumerate(steps) if words[:2] == ["smallhold", "decide"])
    echo, decide = steps[at - 1], steps[at]
    assert echo[0] == "echo"
    monkeypatch.setattr("sys.stdin", io.StringIO(echo[1]))
    assert main(decide[1:]) in (0, 3), capsys.readouterr().err
    assert "in_hospital_death" in capsys.readouterr().out


def test_the_converter_writes_what_the_reader_reads(tmp_path: Path) -> None:
    from smallhold.sectors.hospital.stays import read_physionet2012

    namespace: dict[str, Any] = {}
    (block,) = blocks(DOCS / "guides" / "your-own-patients.md", "python")
    exec(block, namespace)
    (tmp_path / "set-x").mkdir()
    (tmp_path / "set-x" / "9.txt").write_text(  # an invented stay in the challenge's own layout
        "Time,Parameter,Value\n00:00,RecordID,9\n00:00,Age,50\n00:00,Gender,0\n00:00,Height,-1\n00:00,ICUType,4\n"
        "00:00,Weight,-1\n01:05,HR,80\n47:30,Lactate,1.5\n"
    )
    (tmp_path / "Outcomes-x.txt").write_text(
        "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n9,6,1,5,-1,1\n"
    )
    (tmp_path / "data").mkdir()
    namespace["convert"](tmp_path / "set-x", tmp_path / "Outcomes-x.txt", tmp_path / "data" / "set_x.jsonl")
    (stay,) = read_physionet2012(tmp_path / "data")
    assert (stay.record_id, stay.age, stay.sex, stay.height_cm) == ("9", 50.0, "F", None)
    assert (stay.icu_type, stay.saps1, stay.died, stay.refused) == ("surgical", 6.0, True, ())
    assert stay.minute.tolist() == [65, 2850]


def test_the_invented_row_is_one_that_the_reader_takes() -> None:
    from smallhold.sectors.hospital.stays import stay_of_row

    row = json.loads(blocks(DOCS / "guides" / "your-own-patients.md", "json")[0])
    assert len(stay_of_row(row, where="the guide").minute) == len(row["events"])


def test_every_parameter_stands_in_the_table_of_units() -> None:
    from smallhold.sectors.hospital.parameters import PARAMETERS

    text = (DOCS / "guides" / "your-own-patients.md").read_text(encoding="utf-8")
    table = [line for line in text.split("## Units")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    for parameter in PARAMETERS:
        (row,) = [line for line in table if re.search(rf"\b{parameter.name}\b", line.split("|")[2])]
        names = {"1": ("1 (fraction)", "0 or 1"), "{score}": ("score",), "[pH]": ("pH",)}
        unit = row.split("|")[1].strip()
        assert unit in names.get(parameter.unit, (parameter.unit,)) or unit.startswith(f"{parameter.unit} "), unit


def recipe_keys(cls: type) -> Iterator[tuple[str, str]]:
    """(table, key) of every entry that a recipe may have; the table of the outermost is empty."""
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from ((name, item.name) for item in fields(hint))
        else:
            yield "", name


def test_every_key_of_a_recipe_is_documented_in_its_table() -> None:
    from smallhold.teach.recipe import Recipe

    head, *sections = re.split(r"^## \[(\w+)\]$", (DOCS / "reference" / "recipe.md").read_text(), flags=re.MULTILINE)
    tables = {"": head, **dict(zip(sections[::2], sections[1::2], strict=True))}
    for table, key in recipe_keys(Recipe):
        assert f"| `{key}` |" in tables[table], f"recipe.md, [{table}]: {key} is missing"


def test_every_member_of_a_task_file_is_documented(small_bundle: Any) -> None:
    page = (DOCS / "reference" / "task.md").read_text(encoding="utf-8")
    task = json.loads((small_bundle.path / "tasks" / "icu-risk.json").read_bytes())
    comparator = next(iter(next(iter(task["comparators"].values())).values()))
    for name in [*task, *task["fields"][0], *task["signal"]]:
        assert f"| `{name}` |" in page, f"task.md: {name} is missing"
    assert all(f'"{name}"' in page for name in [*comparator, *task["signal"]["grids"][0]])


def test_every_member_of_a_result_is_documented() -> None:
    from smallhold.evaluate.result import METRICS, MODELS, Result

    page = (DOCS / "reference" / "evaluation.md").read_text(encoding="utf-8")
    for name in [*Result.__annotations__, *METRICS, *MODELS]:
        assert f"`{name}`" in page, f"evaluation.md: {name} is missing"


def test_every_channel_is_documented() -> None:
    from smallhold.decide.signal import CHANNELS

    page = (DOCS / "concepts" / "signal-door.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in CHANNELS)


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / link).resolve() for link in _LINK.findall(index.read_text(encoding="utf-8"))}
    pages = {page for page in DOCS.rglob("*.md") if page != index and page.parent != DOCS / "decisions"}
    assert not {name_of(page) for page in pages - linked}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_has_a_machine_path_or_an_open_end(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not _MACHINE_PATH.search(text), _MACHINE_PATH.search(text)
    assert "TODO" not in text and "FIXME" not in text, f"{name_of(page)}: something is left to do"


def test_the_readme_is_one_page_and_says_what_this_is_not() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert "not a medical device" in text.split("## ")[0].lower()


def test_a_report_says_that_this_is_no_medical_device() -> None:
    pytest.importorskip("matplotlib", reason="a report is drawn with matplotlib, the extra 'report'")
    from smallhold.evaluate.report import render_report

    page = render_report(
        {
            "task": "icu-risk",
            "split": "test",
            "data_set": "simulated_ward",
            "is_simulated": True,
            "num_patients": 0,
            "rows": [],
        }
    )
    assert "not a medical device" in page.lower()
