"""A small cache and its teacher; numpy alone, so that a process that is about to be killed starts fast."""

from __future__ import annotations

import numpy as np

from smallhold.compress.logit_cache import CacheManifest, corpus_digest
from smallhold.compress.logit_packing import RecordLayout

VOCAB, WINDOWS, WINDOW = 300, 10, 6


def manifest_of(**changes: object) -> CacheManifest:
    shape = {
        "teacher_digest": "a" * 64,
        "tokenizer_digest": "b" * 64,
        "corpus_digest": corpus_digest(np.arange(WINDOWS * WINDOW).reshape(WINDOWS, WINDOW)),
        "layout": RecordLayout.fitting(VOCAB),
        "num_windows": WINDOWS,
        "window": WINDOW,
        "windows_per_shard": 3,
    }
    return CacheManifest(**{**shape, **changes})  # type: ignore[arg-type]


def teacher(start: int, count: int) -> np.ndarray:
    return np.stack(
        [
            np.random.default_rng(w).normal(size=(WINDOW, VOCAB)).astype(np.float32) * 3
            for w in range(start, start + count)
        ]
    )


def nothing(done: int, total: int) -> None:
    pass
