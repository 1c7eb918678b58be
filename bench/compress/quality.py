"""What a reader answers, and how good that is: figures with bootstrap intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from bench.compress.cases import Cases, Closed
from bench.compress.readers import Reader
from numpy.typing import NDArray

from smallhold.evaluate.bootstrap import Resampled, resample
from smallhold.evaluate.metrics import accuracy, auroc, macro_f1

LOG_LOSS = "log-loss a token"
_NUM_RESAMPLES = 500


def ask(reader: Reader, name: str, cases: Cases, *, progress: Callable[[int, int], None]) -> NDArray[np.float32] | None:
    """Ask a reader one of `questions`.

    Args:
        reader: An opened artefact.
        name: A closed question, or `LOG_LOSS`.
        cases: What there is to ask.
        progress: Called with passes done and in all.

    Returns:
        Logits (N, P, K) of a closed question, or the mean nats a token of each window (N,); None where the signal door
        is asked and the reader takes token ids alone.
    """
    if name == LOG_LOSS:
        return _nats(reader, cases.windows, progress)
    closed = cases.closed[name]
    if closed.has_embeddings and not reader.has_signal_door:
        return None
    rows = []
    for question in closed.questions:
        rows.append(reader.logits(question.inputs, question.at)[:, closed.choices])
        progress(len(rows), len(closed.questions))
    return np.stack(rows)


def _nats(reader: Reader, windows: NDArray[np.int64], progress: Callable[[int, int], None]) -> NDArray[np.float32]:
    nats: list[float] = []
    for window in windows:
        logits = reader.logits(window[:-1], range(len(window) - 1))
        top = logits.max(axis=1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        nats.append(float(np.mean(log_sum - logits[np.arange(len(logits)), window[1:]])))
        progress(len(nats), len(windows))
    return np.array(nats, np.float32)


def questions(cases: Cases) -> list[str]:
    """Names of everything that is asked, the cheapest first."""
    tokens = {name: sum(len(question.inputs) for question in closed.questions) for name, closed in cases.closed.items()}
    return sorted([*cases.closed, LOG_LOSS], key=lambda name: tokens.get(name, cases.windows.size))


def resampled(answers: Mapping[str, NDArray[np.float32]], cases: Cases) -> dict[str, Resampled]:
    """Figure to its value and its value on each resample; the same resamples for every method.

    Names: `icu-risk AUROC 12 h`, `icu-risk, words AUROC 48 h`, `triage accuracy`, `triage macro-F1`, `LOG_LOSS`.
    """
    found = {}
    for name, closed in cases.closed.items():
        if name not in answers:
            continue
        for figure, metric, said in _metrics(answers[name], closed):
            found[f"{name} {figure}"] = resample(
                metric, closed.truth, said, num_resamples=_NUM_RESAMPLES, seed=0, groups=closed.groups
            )
    if LOG_LOSS in answers:
        found[LOG_LOSS] = resample(_mean, answers[LOG_LOSS], num_resamples=_NUM_RESAMPLES, seed=0)
    return found


def _metrics(logits: NDArray[np.float32], closed: Closed) -> list[tuple[str, Callable[..., float], NDArray[Any]]]:
    if closed.hours:
        margin = (logits[:, :, 1] - logits[:, :, 0]).astype(np.float64)
        return [(f"AUROC {hour} h", auroc, margin[:, i]) for i, hour in enumerate(closed.hours)]
    chosen = logits[:, 0].argmax(axis=1)
    return [("accuracy", accuracy, chosen), ("macro-F1", macro_f1, chosen)]


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values))
