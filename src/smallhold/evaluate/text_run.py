"""Measure a bundle's text task: accuracy with intervals beside the simple baselines, calibration, confusions, speed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smallhold.decide.text_task import FloatArray, LocalTextTask, Part
from smallhold.errors import DataError, InputError
from smallhold.evaluate.besides import describe_besides, describe_bundle, require_new_names
from smallhold.evaluate.cold_start import measure
from smallhold.evaluate.device_cost import machine, summarized
from smallhold.evaluate.result import Result
from smallhold.evaluate.text_quality import (
    Answers,
    Texts,
    class_rows,
    language_rows,
    read_answers,
    text_curves,
    text_differences,
    text_promise,
    text_rows,
    texts_of,
    top_confusions,
)
from smallhold.sectors.text_task import TextExample

Progress = Callable[[str, int, int], None]
_BLOCK = 32
_TIMED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """What to measure.

    Attributes:
        examples: Texts with their labels.
        training: Texts of the training split, for the baselines; empty leaves the baselines out, and says so.
        split: Part of the data that the examples are, for the record.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.
        measure_device: Also measure latency, cold start and memory.
        command: What the user typed.
        besides: Name to another bundle's task, asked about the same texts.
        intended_use: What the task says of itself, for the report's pages.
        known_limits: The same.
    """

    examples: Sequence[TextExample]
    training: Sequence[TextExample]
    split: str
    seed: int
    num_resamples: int
    measure_device: bool
    command: str
    besides: Mapping[str, LocalTextTask] = field(default_factory=dict)
    intended_use: str = ""
    known_limits: str = ""


def evaluate_text(local: LocalTextTask, request: TextRequest, *, progress: Progress) -> Result:
    """Measure; see `Result` for what comes out.

    Raises:
        DataError: no texts, or labels that the bundle does not know.
        InputError: a bundle beside has the name of another model, or other choices.
    """
    examples, bootstrap = request.examples, {"num_resamples": request.num_resamples, "seed": request.seed}
    if not examples:
        raise DataError("no texts to evaluate: the split is empty")
    require_new_names(request.besides)
    for name, other in request.besides.items():
        if other.field.choices != local.field.choices:
            raise InputError(f"--beside {name}: expected a task with the same {len(local.field.choices)} choices")
    texts = texts_of(examples, local.field.choices)
    answers = {**_simple_answers(texts, request), **_own_answers(local, request, progress)}
    for name, other in request.besides.items():
        answers[name] = read_answers(other.field, _logits(other, request, "both", progress, name))
    progress("intervals", 0, 1)
    rows, resampled = text_rows(texts, answers, **bootstrap)
    progress("intervals", 1, 1)
    rivals = ("tfidf", "majority", "ngrams", "trunk", *request.besides)
    shipped = answers["shipped"]
    result: Result = {
        "task": local.task.name,
        "split": request.split,
        "data_set": ", ".join(sorted({example.data_set for example in examples})),
        "is_simulated": any(example.is_simulated for example in examples),
        "num_texts": len(examples),
        "bundle": describe_bundle(local.bundle),
        "rows": rows,
        "differences": text_differences(resampled, [("shipped", other) for other in rivals]),
        "subgroups": language_rows(texts, shipped, **bootstrap),
        "classes": class_rows(texts, shipped),
        "confusions": top_confusions(texts, shipped),
        "curves": text_curves(texts, answers),
        "besides": describe_besides(request.besides),
        "remarks": _remarks(request),
        "intended_use": request.intended_use.strip(),
        "known_limits": request.known_limits.strip(),
        "command": request.command,
        "machine": machine(),
        "seed": request.seed,
    }
    promise = text_promise(local.field, texts, shipped)
    if promise is not None:
        result["promise"] = promise
    if request.measure_device:
        progress("device", 0, 2)
        result.update(_latency(local, [example.text for example in examples[:_TIMED]]))  # type: ignore[typeddict-item]
        progress("device", 1, 2)
        started = measure(local.bundle.files.path, local.task.name)
        result["cold_start_s"], result["resident_bytes"] = started["cold_start_s"], started["resident_bytes"]
        progress("device", 2, 2)
    return result


def _simple_answers(texts: Texts, request: TextRequest) -> dict[str, Answers]:
    """The commonest label of the training texts, and TF-IDF with logistic regression fitted to them."""
    if len({example.label for example in request.training}) < 2:
        return {}
    from smallhold.evaluate.text_baseline import fit_baseline

    place = {choice: index for index, choice in enumerate(texts.choices)}
    counts = Counter(example.label for example in request.training)
    # Among labels that are equally common, the first of the task.
    commonest = max(texts.choices, key=lambda choice: (counts[choice], -place[choice]))
    majority = np.full(len(texts.truth), place[commonest], dtype=np.int64)
    baseline = fit_baseline(request.training)
    known = [place[label] for label in baseline.classes_]
    probabilities = np.zeros((len(texts.truth), len(texts.choices)))
    probabilities[:, known] = baseline.predict_proba([example.text for example in request.examples])
    return {
        "majority": Answers(choice=majority),
        "tfidf": Answers(choice=probabilities.argmax(axis=1), probabilities=probabilities),
    }


def _own_answers(local: LocalTextTask, request: TextRequest, progress: Progress) -> dict[str, Answers]:
    """Each path of the bundle alone, where it has both, and both as they ship."""
    if local.ngrams is None:
        return {"shipped": read_answers(local.field, _logits(local, request, "both", progress, "shipped"))}
    ngrams = _logits(local, request, "ngrams", progress, "ngrams")
    trunk = _logits(local, request, "trunk", progress, "trunk")
    return {
        "ngrams": Answers(choice=ngrams.argmax(axis=1)),
        "trunk": Answers(choice=trunk.argmax(axis=1)),
        "shipped": read_answers(local.field, local.weigh(trunk, ngrams)),
    }


def _logits(local: LocalTextTask, request: TextRequest, part: Part, progress: Progress, caption: str) -> FloatArray:
    texts = [example.text for example in request.examples]
    parts = []
    for start in range(0, len(texts), _BLOCK):
        parts.append(local.logits(texts[start : start + _BLOCK], part=part))
        progress(f"texts, {caption}", min(start + _BLOCK, len(texts)), len(texts))
    return np.concatenate(parts)


def _remarks(request: TextRequest) -> list[str]:
    if request.training:
        return []
    return ["No training texts were at hand, so that nothing simple was fitted: name them with --train-data DIR."]


def _latency(local: LocalTextTask, texts: Sequence[str]) -> dict[str, Any]:
    """Text to answer, one at a time; and answers a CPU second."""
    cpu_begun = time.process_time()
    times = [local.decide(text).latency_ms for text in texts]
    cpu = time.process_time() - cpu_begun
    return {"latency": summarized(times), "events_per_second_per_core": len(times) / cpu if cpu > 0 else 0.0}
