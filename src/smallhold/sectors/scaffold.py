"""The folder that a new sector starts as: a declaration, a recipe, a page, and rows that nobody wrote.

Two beginnings: made-up messages, so that everything runs at once, or a data set that is already there, whose labels
become the choices.
"""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template

from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, InputError
from smallhold.sectors.data_sets import jsonl_files, read_jsonl
from smallhold.sectors.tasks import FILE, Sector, parse_sector, sector_names
from smallhold.sectors.text_task import TextSource, label_of_row

SIMULATED_ROWS = 480
_MOST_CHOICES = 1000

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_SECTOR = Template("""\
format = "smallhold.sector/1"
name = $name
about = "What this sector is about, in one sentence."

# One block for each closed question about a text.
[[text_task]]
name = $task
question = $question
field_name = $field
condition = $field
intended_use = "What it may be used for. $remark"
known_limits = "What it must not be used for, what the rows lack, who wrote them and when. $remark"
choices = [
$choices]

[[text_task.source]]
data_set = $data_set
text = $text  # members that the model reads, in this order
label = $label
language = $language
$group
# labels = { "0" = "one of the choices" }   where rows do not use the words of the choices
# only_measures = true                      for rows that must never train
""")

_RECIPE = Template("""\
sector = $sector  # the folder, seen from where you call smallhold
base = ""  # folder of a base model's checkpoint; empty: a small trunk from scratch that reads bytes
seed = 0

[[text]]
task = $task
epochs = 4.0
max_tokens = 160

[bundle]
name = $task
version = "1.0.0"
""")

_README = Template("""\
# $name

$remark

| File | What it says |
| --- | --- |
| `sector.toml` | which questions are asked, which answers there are, which members of a row are read |
| `recipe.toml` | how a model is trained on them |

Call these from the folder in which you called `smallhold new sector`:

```sh
smallhold new check $folder --data $data
smallhold teach train $folder/recipe.toml --data $data
```

Rows of another data set: a folder named after it, one JSON object a line, and `sector.toml` changed to name it. Rows
whose text is equal stay on one side of the split; if a person or a document has several rows, name the member that
identifies it under `group`. Fill in what the model is for and what it must not be used for.
""")

_ASPECTS = {
    "fault": ("stopped working", "shows an error", "is broken again", "fails every morning", "will not start"),
    "question": ("how do I change", "where can I find", "may we move", "when do you open", "who looks after"),
    "thanks": ("works very well now", "thank you for the quick help", "was a great help", "we are happy with"),
}
_THINGS = ("the meter", "the north gate", "line four", "our account", "the pump", "the timetable", "the small lift")
_FILLERS = ("Since yesterday", "As I wrote before", "Once more", "On Monday", "In the evening", "For our office")
_ASIDES = ("please write back", "this is about", "regarding", "a word on")


def write_simulated_sector(name: str, folder: Path, *, seed: int = 0) -> Sector:
    """Write a sector with invented messages, `data/simulated_<name>/` in it, everything marked as simulated.

    Args:
        name: Lower case, words joined by hyphens.
        folder: Where it goes; absent or empty.
        seed: Of the messages.

    Raises:
        InputError: the name cannot be one, belongs to a sector of the package, or the folder is in use.
    """
    data_set = f"simulated_{name.replace('-', '_')}"
    source = TextSource(data_set=data_set, text=("text",), label="topic", language="en")
    remark = "The rows are simulated: they show that the machinery works, and nothing else."
    sector = _write(name, folder, folder / "data", f"{name}-topic", source, tuple(_ASPECTS), remark)
    (folder / "data" / data_set).mkdir(parents=True)
    lines = (json.dumps(row).encode() + b"\n" for row in simulated_messages(SIMULATED_ROWS, seed))
    write_durably(folder / "data" / data_set / "messages.jsonl", lines, mode=0o644)
    return sector


def write_sector_from(name: str, folder: Path, rows: Path, source: TextSource) -> Sector:
    """Write a sector whose one task is asked about a data set that is already there; the rows are not copied.

    Args:
        name: Lower case, words joined by hyphens.
        folder: Where it goes; absent or empty.
        rows: The data set's folder, named `source.data_set`.
        source: Which members are read; the labels that occur become the choices, in order.

    Raises:
        InputError: the name cannot be one, belongs to a sector of the package, or the folder is in use.
        DataError: a row has no label, or the labels are no closed set of choices.
    """
    choices: set[str] = set()
    for path in jsonl_files(rows):
        for line, row in enumerate(read_jsonl(path), start=1):
            choices.add(label_of_row(row, source.label, where=f"{path}, line {line}"))
            if len(choices) > _MOST_CHOICES:
                raise DataError(
                    f"{path}, member {source.label!r}: expected at most {_MOST_CHOICES} different labels by line {line}"
                )
    task = f"{name}-{'-'.join(re.findall('[a-z0-9]+', source.label.lower())) or 'label'}"
    remark = f"The rows are those of {source.data_set}."
    return _write(name, folder, rows.parent, task, source, tuple(sorted(choices)), remark)


def simulated_messages(count: int, seed: int) -> Iterator[dict[str, object]]:
    """Invented messages about invented things, the same for the same seed; one in eight does not say what it is about.

    Yields:
        `{"simulated": true, "text": ..., "topic": ...}`
    """
    random_ = random.Random(seed)
    for _ in range(count):
        topic = random_.choice(tuple(_ASPECTS))
        said = random_.choice(_ASIDES if random_.random() < 1 / 8 else _ASPECTS[topic])
        text = f"{random_.choice(_FILLERS)}, {random_.choice(_THINGS)}: {said}, {random_.choice(_THINGS)}."
        yield {"simulated": True, "text": text, "topic": topic}


def _write(
    name: str, folder: Path, data: Path, task: str, source: TextSource, choices: tuple[str, ...], remark: str
) -> Sector:
    if not _NAME.fullmatch(name):
        raise InputError(f"sector {name!r}: expected lower case, words joined by hyphens, such as 'city-routing'")
    if name in sector_names():
        raise InputError(f"sector {name!r}: a sector of that name comes with the package: expected another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a folder that is absent or empty", hint="choose another with --out DIR")
    words = {
        "name": name,
        "task": task,
        "question": f"Which {source.label} is it?",
        "field": source.label,
        "data_set": source.data_set,
        "label": source.label,
        "language": source.language,
        "sector": str(folder),
    }
    declared = _SECTOR.substitute(
        {key: _toml(word) for key, word in words.items()},
        choices="".join(f"    {_toml(choice)},\n" for choice in choices),
        text=f"[{', '.join(map(_toml, source.text))}]",
        group=f"group = {_toml(source.group)}" if source.group else '# group = "document"',
        remark=remark,
    )
    sector = parse_sector(declared, where=str(folder / FILE))  # refused before anything is written
    recipe = _RECIPE.substitute({key: _toml(word) for key, word in words.items()})
    page = _README.substitute(name=name, remark=remark, folder=shlex.quote(str(folder)), data=shlex.quote(str(data)))
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in ((FILE, declared), ("recipe.toml", recipe), ("README.md", page)):
        write_durably(folder / file, [text.encode()], mode=0o644)
    return sector


def _toml(word: str) -> str:
    """A TOML string: for printable text, JSON's escapes are TOML's."""
    return json.dumps(word, ensure_ascii=False)
