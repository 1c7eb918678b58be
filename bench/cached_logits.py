"""What a cache of the teacher's logits keeps of a live teacher, and how much faster a student trains from it.

One pruned student heals from cached answers, from a live teacher, and on the texts alone: the same windows, the same
order, the same steps. Quality: bits per byte of held-out texts, as gains over the pruned student and over the texts
alone. Speed: processor time of one training step of each, in rounds that take turns; writing the cache is shown apart,
with the passes over the same windows after which it has paid for itself.

    python bench/cached_logits.py RECIPE [--teacher DIR] [--million-tokens N] [--seeds 0 1 2] [--out FILE]

Teacher, texts and shape are those of a recipe of `smallhold compress`; its targets are not read. Runs lie in `--runs`,
and a call that was interrupted is continued.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from smallhold.cli.output import ProgressBar
from smallhold.compress.healing import HealingLoss, Student
from smallhold.compress.language import run_language, teacher_of
from smallhold.compress.language_corpus import read_corpus, token_windows
from smallhold.compress.language_prune import Pruned
from smallhold.compress.language_recipe import LanguageHealing, LanguageRecipe, read_language_recipe
from smallhold.compress.language_source import open_source, read_tokenizer
from smallhold.compress.logit_cache import LogitCache
from smallhold.evaluate.language import load_language_model
from smallhold.evaluate.run import machine

CONTESTANTS = ("cached", "live", "text")
_SHARED = ("million_tokens", "batch_size", "learning_rate", "optimizer")
_OF_TEACHER = ("divergence", "temperature", "beta")


def main() -> int:
    """Measure; print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="RECIPE", help="of `smallhold compress`, with a table [corpus]")
    parser.add_argument("--teacher", metavar="DIR", help="instead of the recipe's")
    parser.add_argument("--million-tokens", type=float, metavar="N", help="instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where data sets lie; default $SMALLHOLD_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/cached-logits"), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="steps of each that are timed; default 15")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch's threads; default 1")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there as well")
    args = parser.parse_args()
    recipe = read_language_recipe(args.recipe)
    recipe = replace(recipe, teacher=args.teacher or recipe.teacher)
    if args.million_tokens is not None:
        recipe = replace(recipe, healing=replace(recipe.healing, million_tokens=args.million_tokens))
    found = {
        "about": (__doc__ or "").split("\n")[0],
        "machine": machine(),
        "threads": args.threads,
        "recipe": asdict(recipe),
        "quality": [_quality(recipe, seed, args) for seed in args.seeds],
        "speed": _speed(replace(recipe, seed=args.seeds[0]), args),
    }
    text = json.dumps(found, indent=1, default=str) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text)
    return 0


def _contestant(recipe: LanguageRecipe, targets: str) -> LanguageRecipe:
    """The recipe with other targets; settings that these do not read stay as they are born."""
    names = _SHARED if targets == "text" else (*_SHARED, *_OF_TEACHER)
    chosen = {name: getattr(recipe.healing, name) for name in names}
    if targets == "cached":
        chosen["bytes_per_token"] = recipe.healing.bytes_per_token
    return replace(recipe, healing=LanguageHealing(targets=targets, **chosen))


def _run(runs: Path, targets: str, seed: int) -> Path:
    return runs / f"{targets}-{seed}"


def _quality(recipe: LanguageRecipe, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Bits per byte of every contestant, and what the cache keeps."""
    bits = {}
    for targets in CONTESTANTS:
        print(f"healing from {targets}, seed {seed}", file=sys.stderr, flush=True)
        with closing(ProgressBar()) as progress:
            summary = run_language(
                replace(_contestant(recipe, targets), seed=seed),
                args.data,
                _run(args.runs, targets, seed),
                progress=progress,
                threads=args.threads,
            )
        bits[targets] = summary.bits_per_byte["healed"]
    before, teacher = summary.bits_per_byte["pruned"], summary.bits_per_byte["teacher"]
    return {
        "seed": seed,
        "bits_per_byte": {"teacher": teacher, "pruned": before, **bits},
        "kept_of_gain_over_pruned": (before - bits["cached"]) / (before - bits["live"]),
        "kept_of_gain_over_text": (bits["text"] - bits["cached"]) / (bits["text"] - bits["live"]),
    }


def _speed(recipe: LanguageRecipe, args: argparse.Namespace) -> dict[str, Any]:
    """Processor time of a step of each, and of writing the cache."""
    run = _run(args.runs, "cached", recipe.seed)
    steps = _steps(recipe, run, args.data)
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for i in range(args.rounds + 1):
        for j in range(len(CONTESTANTS)):
            name = CONTESTANTS[(i + j) % len(CONTESTANTS)]
            begun = time.process_time()
            steps[name](i)
            if i:  # the first warms up
                times[name].append(1e3 * (time.process_time() - begun))
    ratios = sorted(live / cached for live, cached in zip(times["live"], times["cached"], strict=True))
    summary = json.loads((run / "language.json").read_text())
    per_pass = summary["distinct_tokens"] / (recipe.healing.batch_size * recipe.corpus.window)
    written = summary["seconds"]["cache"]["cpu"]
    saved = 1e-3 * (median(times["live"]) - median(times["cached"])) * per_pass
    return {
        "step_ms": {name: median(values) for name, values in times.items()},
        "live_over_cached": {"median": median(ratios), "low": ratios[0], "high": ratios[-1]},
        "bytes_per_token": summary["cache_bytes"] / summary["distinct_tokens"],
        "cache_cpu_seconds": written,
        "cache_ms_per_step_of_one_pass": 1e3 * written / per_pass,
        "passes_until_the_cache_has_paid": written / saved if saved > 0 else None,
    }


def _steps(recipe: LanguageRecipe, run: Path, data: Path | None) -> dict[str, Callable[[int], None]]:
    """One whole training step of each contestant, all from the same pruned student."""
    source, corpus = open_source(recipe.teacher), read_corpus(recipe.corpus, data)
    kept = Pruned.read(run / "pruned")
    windows = token_windows(
        read_tokenizer(run / "pruned"),
        corpus.training,
        window=recipe.corpus.window,
        most=recipe.most_windows,
        seed=recipe.seed,
        progress=lambda *_: None,
    )
    teacher, cache = teacher_of(source, kept, run), LogitCache(run / "cache")

    def step_of(targets: str) -> Callable[[int], None]:
        choice, model = _contestant(recipe, targets).healing, load_language_model(run / "pruned")
        loss = HealingLoss(
            choice=choice,
            windows=windows,
            seed=recipe.seed,
            mark=model.bos,
            teacher=teacher if targets == "live" else None,
            cache=cache if targets == "cached" else None,
        )
        student = Student(model.trunk.train())
        optimizer = torch.optim.AdamW(student.parameters(), lr=choice.learning_rate)

        def step(number: int) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss(student, number, np.random.default_rng(number)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    return {name: step_of(name) for name in CONTESTANTS}


if __name__ == "__main__":
    sys.exit(main())
