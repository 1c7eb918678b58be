"""`smallhold evaluate CHECKPOINT`: a base model beside xz and n-grams, language by language."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import DataError, InputError

#: Held-out text of each language that is scored, at most.
_MOST_BYTES = 4_000_000


def is_checkpoint(path: Path | None) -> bool:
    """Whether a folder holds a checkpoint rather than a bundle."""
    return path is not None and (path / "config.json").is_file() and not (path / "manifest.json").exists()


def evaluate_base(args: Namespace) -> int:
    """Measure, print, and write the figures."""
    from smallhold.device.durable_file import write_durably
    from smallhold.evaluate.base_model import format_base_table, measure_base
    from smallhold.learn.checkpoint import read_checkpoint
    from smallhold.sectors.splits import Split
    from smallhold.teach.corpora import CORPORA, LANGUAGES, load_corpus

    about = read_checkpoint(args.bundle).about
    if about.get("kind") != "base":
        raise InputError(f"{args.bundle}: a checkpoint, but not of a base model", hint="smallhold evaluate BUNDLE")
    data_sets = tuple(name for name in about.get("data_sets", CORPORA) if name in CORPORA)
    parts = tuple(Split) if args.split == "all" else (Split(args.split),)

    def read(which: tuple[Split, ...], data: Path | None, names: tuple[str, ...]) -> dict[str, list[str]]:
        documents = [document for part in which for document in load_corpus(data, part, names)]
        texts = {lang: [d.text for d in documents if d.language == lang] for lang in LANGUAGES}
        return {lang: found for lang, found in texts.items() if found}

    held_out = read(parts, args.data, _present(data_sets, args.data))
    training = read((Split.TRAIN,), args.train_data or args.data, data_sets)
    progress = ProgressBar()
    try:
        result = measure_base(
            args.bundle,
            held_out,
            training,
            context=about.get("training_context"),
            max_bytes=_MOST_BYTES,
            seed=args.seed,
            progress=progress,
        )
    finally:
        progress.close()
    result |= {"split": args.split, "data_sets": list(data_sets)}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_durably(args.out / "result.json", [json.dumps(result, indent=1).encode()], mode=0o644)
        note(f"figures: {args.out / 'result.json'}")
    if args.json:
        print_json(result)
    else:
        print(format_base_table(result))
        next_commands("smallhold teach train hospital --out runs/hospital")
    return 0


def _present(data_sets: tuple[str, ...], data: Path | None) -> tuple[str, ...]:
    """Those of the corpora that a folder holds: unseen texts need not be of every kind."""
    from smallhold.sectors.data_sets import find_data_set

    found = []
    for name in data_sets:
        try:
            find_data_set(name, data)
        except DataError:
            note(f"remark: {name} is not there and is left out")
            continue
        found.append(name)
    if not found:
        raise DataError(f"no corpus found: expected some of {', '.join(data_sets)}")
    return tuple(found)
