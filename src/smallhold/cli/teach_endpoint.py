"""`smallhold teach label` and `smallhold teach list`: an endpoint as teacher, and which models there are."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.cli.output import ProgressBar, next_commands, note, print_json
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.teach.endpoint.candidates import Candidate
    from smallhold.teach.endpoint.label import LabelManifest


def configure_label(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `label`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of a shipped recipe")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the labels; default runs/RECIPE")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")


def configure_list(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `list`."""
    parser.add_argument(
        "--source",
        choices=("recipes", "hf", "github-models", "local"),
        default="recipes",
        help="what to list: recipes (default), models of Hugging Face or GitHub Models, or those on this machine",
    )
    parser.add_argument("--max-bytes", metavar="BYTES", help="models whose weights could fit at 4 bits, such as 2G")
    parser.add_argument("--language", metavar="CODE", help="models that know this language, ISO 639-1")
    parser.add_argument(
        "--refresh", action="store_true", help="fetch the live catalogue first; without it the network is not used"
    )


def label(args: argparse.Namespace) -> int:
    """Carry out a labelling; exit code 1 when it was stopped too early, or labelled nothing."""
    from smallhold.teach.endpoint.recipe import read_label_recipe

    recipe = read_label_recipe(args.recipe)
    from smallhold.teach.endpoint.label import run_labelling

    out = args.out or Path("runs") / Path(args.recipe).stem
    progress = ProgressBar()
    try:
        manifest = run_labelling(recipe, args.data, out, progress=progress)
    finally:
        progress.close()
    if args.json:
        print_json({"run": str(out), **asdict(manifest)})
    else:
        _print_manifest(manifest)
    if manifest.stopped_by is not None:
        note(f"stopped: {manifest.stopped_by}")
        note(f"hint: {manifest.hint or 'run the same command again to go on'}")
        return 1
    if not manifest.num_labelled:
        note("nothing was labelled")
        note("hint: see above why answers were left out; the recipe's question and choices are what a model reads")
        return 1
    return 0


def _print_manifest(manifest: LabelManifest) -> None:
    spend = manifest.spend
    print(f"{manifest.num_labelled} of {manifest.num_chosen} rows labelled by {manifest.model} at {manifest.origin}")
    if manifest.num_repeats:
        print(f"    {manifest.num_repeats} rows repeat another one and were not asked about")
    if manifest.left_out:
        print(f"    without a label: {_counts(manifest.left_out)}")
    if manifest.agreement_with_data is not None:
        print(f"    {manifest.agreement_with_data:.1%} of the labels are those of the data set")
    if manifest.events:
        print(f"    requests of this run that failed: {_counts(manifest.events)}")
    money = f", {spend['money']:.4f} in money" if spend["money"] else ""
    maybe = f", {spend['maybe_paid_requests']:.0f} of them maybe paid" if spend["maybe_paid_requests"] else ""
    tokens = f"{spend['prompt_tokens']:,.0f} tokens of questions, {spend['completion_tokens']:,.0f} of answers"
    print(f"    spent so far: {spend['requests']:.0f} requests{maybe}, {tokens}{money}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def list_sources(args: argparse.Namespace) -> int:
    """List recipes or models."""
    if args.source == "recipes":
        if args.refresh or args.max_bytes or args.language:
            raise InputError("--refresh, --max-bytes and --language are about models: expected --source beside them")
        return _list_recipes(args)
    from smallhold.teach.endpoint.candidates import (
        list_candidates,
        local_candidates,
        parse_bytes,
        refresh,
        select,
    )

    max_bytes = None if args.max_bytes is None else parse_bytes(args.max_bytes)
    if args.source == "local":
        if args.refresh:
            raise InputError("--refresh: what is on this machine is always looked at")
        as_of, found = "", local_candidates(Path())
    else:
        if args.refresh:
            refresh(args.source)
        as_of, found = list_candidates(args.source)
    chosen = select(found, language=args.language, max_bytes=max_bytes)
    rows = [_row(each, max_bytes) for each in chosen]
    if args.json:
        print_json({"source": args.source, "as_of": as_of, "models": rows})
        return 0
    for each, row in zip(chosen, rows, strict=True):
        _print_candidate(each, row)
    if not rows:
        note("no model of this source is known to fit")
    if as_of:
        note(f"as of {as_of}; licences and sizes are for orientation: read the model's card before you use it")
    return 0


def _list_recipes(args: argparse.Namespace) -> int:
    from smallhold.teach.recipe_file import shipped_recipes

    names = shipped_recipes()
    if args.json:
        print_json(names)
    else:
        print("\n".join(names))
    next_commands(
        "smallhold teach train hospital", "smallhold teach pretrain base", "smallhold compress hospital-small"
    )
    return 0


def _row(each: Candidate, max_bytes: int | None) -> dict[str, object]:
    sizes = {bits: each.bytes_at(bits) for bits in (4, 8)}
    fits = {bits: None if size is None or max_bytes is None else size <= max_bytes for bits, size in sizes.items()}
    return {
        **asdict(each),
        "bytes_at_4_bits": sizes[4],
        "bytes_at_8_bits": sizes[8],
        "fits_at_4_bits": fits[4],
        "fits_at_8_bits": fits[8],
    }


def _print_candidate(each: Candidate, row: dict[str, object]) -> None:
    print(f"{each.id}  [{each.licence or 'licence unknown'}{', gated' if each.is_gated else ''}]")
    told = [each.kind]
    if each.parameters:
        told.append(f"{each.parameters / 1e6:,.1f}M parameters")
    if each.context_tokens:
        told.append(f"context {each.context_tokens:,}")
    if each.size_bytes:
        told.append(f"{each.size_bytes / 1e6:,.1f} MB on disk")
    for bits in (4, 8):
        size, fits = each.bytes_at(bits), row[f"fits_at_{bits}_bits"]
        if size is not None:
            verdict = "" if fits is None else ", fits" if fits else ", does not fit"
            told.append(f"{size / 1e6:,.1f} MB at {bits} bits{verdict}")
    if each.languages:
        told.append(" ".join(each.languages))
    print(f"    {'; '.join(told)}")
