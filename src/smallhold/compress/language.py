"""From any language model to a smaller one: trim the vocabulary, prune, heal on texts, round.

A run is a folder::

    pruned/              the smaller shape before healing, and what was kept
    cache/               what the teacher said of every token (targets = "cached")
    training/            the slice that an interrupted healing continues from
    checkpoint/          the smaller model, a plain Hugging Face directory with its card
    quantized/           its quantized twin (quantized-4/ for 4 bits)
    language.json        what was done, and what every step left of the model
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smallhold.compress.cross_tokenizer import CrossTokenizer
from smallhold.compress.distill_losses import chunked
from smallhold.compress.gptq import gptq_layers
from smallhold.compress.healing import HealingLoss, Student
from smallhold.compress.language_card import write_language_card, write_licences, write_plain_checkpoint
from smallhold.compress.language_corpus import check_corpus, read_corpus, token_windows
from smallhold.compress.language_plan import count_weights, plan_of
from smallhold.compress.language_prune import (
    Pruned,
    calibration_of,
    measure_held_out,
    prune_language,
)
from smallhold.compress.language_recipe import LanguageRecipe
from smallhold.compress.language_source import LanguageSource, open_source, read_tokenizer
from smallhold.compress.language_teacher import LanguageTeacher
from smallhold.compress.logit_cache import CacheManifest, LogitCache, corpus_digest, write_cache
from smallhold.compress.qat import quantization_aware
from smallhold.compress.quantize import quantize_checkpoint, twin_folder
from smallhold.device.durable_file import write_durably
from smallhold.evaluate.language import load_language_model
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER, LANGUAGE_FILE
from smallhold.learn.loop import LoopResult, train
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.train import claim_folder, library_versions, supports_bf16

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class LanguageSummary:
    """What a finished run says of itself; the contents of `language.json`.

    Attributes:
        recipe: The whole recipe.
        teacher: Where it came from.
        teacher_digest: Of its weights, configuration and tokenizer.
        corpus_digest: Of the documents.
        documents: Training documents of each source.
        tokens: Read in healing, passes counted.
        distinct_tokens: Of one pass.
        teacher_parameters: Of the teacher.
        parameters: Of the smaller model.
        kept_layers: Indices of the teacher's layers that stayed.
        vocab_size: Entries of the vocabulary that stayed.
        bits_per_byte: Of the held-out documents: `teacher`, `pruned`, `healed`, `rounded`.
        cache_bytes: Of the teacher's answers on disk; 0 without a cache.
        seconds: Stage (`cache`, `healing`) to `wall` and `cpu` seconds, over all calls.
        loss: (step, loss in nats a token) pairs.
        threads: Threads of torch in the last call.
        versions: Versions of the libraries that shape the result.
    """

    recipe: dict[str, Any]
    teacher: str
    teacher_digest: str
    corpus_digest: str
    documents: dict[str, int]
    tokens: int
    distinct_tokens: int
    teacher_parameters: int
    parameters: int
    kept_layers: list[int]
    vocab_size: int
    bits_per_byte: dict[str, float]
    cache_bytes: int
    seconds: dict[str, dict[str, float]]
    loss: list[tuple[int, float]]
    threads: int
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """In words."""
        bits = ", ".join(f"{who} {value:.3f}" for who, value in self.bits_per_byte.items())
        took = "; ".join(f"{stage} {t['wall']:.0f} s, {t['cpu']:.0f} s of CPU" for stage, t in self.seconds.items())
        return [
            f"{self.teacher_parameters:,} parameters to {self.parameters:,}, layers {self.kept_layers} of the teacher, "
            f"vocabulary {self.vocab_size:,}",
            f"bits per byte of held-out texts: {bits}",
            took,
        ]


def run_language(
    recipe: LanguageRecipe, data_dir: Path | None, run: Path, *, progress: Progress, threads: int = 2
) -> LanguageSummary:
    """Carry out a recipe; continues what an earlier call left.

    Args:
        recipe: What to do.
        data_dir: Where data sets lie, what the user gave as `--data`, or None.
        run: Folder of the run.
        progress: Called with a caption, steps done and steps in all.
        threads: Threads of torch; weights are the same bit for bit only when all calls have the same number.

    Raises:
        InputError: the teacher or a text is missing, malformed or not supported, the shape is impossible, or the folder
            holds another run.
        InterruptedRun: stopped on request.
    """
    torch.set_num_threads(threads)
    check_corpus(recipe.corpus, data_dir)
    progress("opening the teacher", 0, 1)
    source = open_source(recipe.teacher)
    plan = plan_of(recipe, source)
    digest = source.digest()
    progress("opening the teacher", 1, 1)
    corpus = read_corpus(recipe.corpus, data_dir)
    identity = {"recipe": recipe.digest, "teacher": digest, "corpus": corpus.digest, "versions": library_versions()}
    claim_folder(run, identity)

    kept = prune_language(recipe, source, corpus, run / "pruned", progress)
    tokenizer = read_tokenizer(run / "pruned")
    windows = token_windows(
        tokenizer,
        corpus.training,
        window=recipe.corpus.window,
        most=recipe.most_windows,
        seed=recipe.seed,
        progress=progress,
    )
    is_cached = recipe.healing.targets == "cached"
    cache = _cache(recipe, source, digest, kept, windows, run, progress) if is_cached else None
    inputs = sha256_hex(canonical_json(identity))
    trunk, result = _heal(recipe, source, kept, windows, cache, run, inputs, progress)
    write_plain_checkpoint(trunk, tokenizer, source, run / CHECKPOINT_FOLDER)
    twin = _round(recipe, trunk, windows, run, progress)
    write_licences(source, twin)
    bits = kept.bits_per_byte | {
        "healed": measure_held_out(recipe, trunk, tokenizer, corpus, "healed", progress),
        "rounded": measure_held_out(recipe, load_language_model(twin).trunk, tokenizer, corpus, "rounded", progress),
    }
    summary = LanguageSummary(
        recipe=asdict(recipe),
        teacher=source.origin,
        teacher_digest=digest,
        corpus_digest=corpus.digest,
        documents=corpus.documents,
        tokens=plan.tokens,
        distinct_tokens=windows[:, 1:].size,
        teacher_parameters=plan.teacher_parameters,
        parameters=count_weights(trunk.config),
        kept_layers=kept.layers,
        vocab_size=trunk.config.vocab_size,
        bits_per_byte=bits,
        cache_bytes=0 if cache is None else cache.size_bytes,
        seconds=json.loads((run / "seconds.json").read_text()),
        loss=result.losses,
        threads=threads,
        versions=library_versions(),
    )
    write_language_card(
        run / CHECKPOINT_FOLDER,
        name=recipe.name,
        source=source,
        digest=digest,
        parameters=(plan.teacher_parameters, summary.parameters),
        documents=corpus.documents,
        tokens=plan.tokens,
        targets=recipe.healing.targets,
        bits_per_byte=bits,
        rounding=f"rounded to {recipe.rounding.bits} bits ({recipe.rounding.method})",
        recipe_digest=recipe.digest,
    )
    write_durably(run / LANGUAGE_FILE, [json.dumps(asdict(summary), indent=1).encode()], mode=0o644)
    return summary


def _heal(
    recipe: LanguageRecipe,
    source: LanguageSource,
    kept: Pruned,
    windows: NDArray[np.int32],
    cache: LogitCache | None,
    run: Path,
    identity: str,
    progress: Progress,
) -> tuple[Trunk, LoopResult]:
    """The healed trunk, and how it went."""
    model, choice = load_language_model(run / "pruned"), recipe.healing
    trunk = _from_scratch(model.trunk.config, recipe.seed) if choice.from_scratch else model.trunk
    teacher = teacher_of(source, kept, run) if choice.targets in ("live", "on_policy") else None
    torch.manual_seed(recipe.seed)
    student = Student.of(trunk, teacher, choice, None if kept.hidden is None else torch.tensor(kept.hidden))
    is_rounded = recipe.rounding.method == "qat"
    with (
        _clocked(run, "healing"),
        quantization_aware(trunk, bits=recipe.rounding.bits) if is_rounded else nullcontext(),
    ):
        result = train(
            student,
            HealingLoss(choice=choice, windows=windows, seed=recipe.seed, mark=model.bos, teacher=teacher, cache=cache),
            recipe.loop(use_bf16=supports_bf16()),
            run / "training" / "state.safetensors",
            inputs_digest=identity,
            progress=lambda done, total, loss: progress(f"healing, loss {loss:.4f}", done, total),
            slice_seconds=60.0,
        )
    return trunk, result


def teacher_of(source: LanguageSource, kept: Pruned, run: Path) -> LanguageTeacher:
    """The source as teacher of a run's student; where the vocabulary was trimmed, it reads its own tokens."""
    trunk = source.load()
    if kept.vocabulary is None:
        return LanguageTeacher(trunk)
    cross = CrossTokenizer(source.tokenizer, read_tokenizer(run / "pruned"), vocab_size=len(kept.vocabulary))
    return LanguageTeacher(trunk, cross)


def _from_scratch(config: TrunkConfig, seed: int) -> Trunk:
    torch.manual_seed(seed)
    return Trunk(config)


def _cache(
    recipe: LanguageRecipe,
    source: LanguageSource,
    digest: str,
    kept: Pruned,
    windows: NDArray[np.int32],
    run: Path,
    progress: Progress,
) -> LogitCache:
    """Ask the teacher about every window that is not cached yet; a finished cache needs no teacher."""
    choice = recipe.healing
    size = len(kept.vocabulary) if kept.vocabulary is not None else source.config.vocab_size
    most = choice.distill(source.config.vocab_size).chunk
    manifest = CacheManifest(
        teacher_digest=digest,
        tokenizer_digest=sha256_hex((run / "pruned" / "tokenizer.json").read_bytes()),
        corpus_digest=corpus_digest(windows),
        layout=choice.layout(size),
        num_windows=len(windows),
        window=windows.shape[1] - 1,
        windows_per_shard=recipe.windows_per_shard(size),
        temperature=choice.temperature,
        seed=recipe.seed,
    )
    teacher = once(lambda: teacher_of(source, kept, run))

    def answer(start: int, count: int) -> NDArray[np.float32]:
        with torch.inference_mode():
            heard = teacher().listen(torch.from_numpy(windows[start : start + count].astype(np.int64)))
            rows = [heard.states.flatten(0, 1), *(part.flatten() for part in heard.aside)]
            logits: NDArray[np.float32] = chunked(teacher().logits, most, *rows).float().numpy()
        return logits.reshape(*heard.states.shape[:2], -1)

    with _clocked(run, "cache"):
        write_cache(
            run / "cache", manifest, answer, progress=lambda done, total: progress("asking the teacher", done, total)
        )
    return LogitCache(run / "cache", expected=manifest)


def _round(recipe: LanguageRecipe, trunk: Trunk, windows: NDArray[np.int32], run: Path, progress: Progress) -> Path:
    """Write the quantized twin of the healed checkpoint; returns its folder."""
    source, bits = run / CHECKPOINT_FOLDER, recipe.rounding.bits
    target = twin_folder(run, bits)
    if recipe.rounding.method != "gptq":
        quantize_checkpoint(source, target, bits=bits)
        return target
    chosen = gptq_layers(
        trunk,
        calibration_of(recipe, windows),
        bits=bits,
        progress=lambda done, total: progress("rounding layers", done, total),
    )
    quantize_checkpoint(source, target, bits=bits, chosen=chosen)
    return target


@contextmanager
def _clocked(run: Path, stage: str) -> Iterator[None]:
    """Add what a stage takes to `seconds.json`, also where it is interrupted; a killed call counts nothing."""
    path = run / "seconds.json"
    wall, cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        found = json.loads(path.read_text()) if path.exists() else {}
        before = found.get(stage, {"wall": 0.0, "cpu": 0.0})
        found[stage] = {
            "wall": before["wall"] + time.monotonic() - wall,
            "cpu": before["cpu"] + time.process_time() - cpu,
        }
        write_durably(path, [json.dumps(found).encode()], mode=0o644)
