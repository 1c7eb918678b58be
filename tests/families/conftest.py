"""One saved model a family, and what `transformers` computes with it; each is made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

LENGTH = 70


@dataclass(frozen=True)
class Saved:
    """A directory as `save_pretrained` writes it, tokens, and their logits (T, V)."""

    folder: Path
    ids: list[int]
    logits: np.ndarray


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    pytest.importorskip("torch", reason="models are made with torch, the extra 'train'")
    pytest.importorskip("transformers", reason="transformers is what we compare with, the extra 'test'")
    import torch

    from .cases import WINDOW, save_model

    assert LENGTH > 2 * WINDOW

    @cache
    def make(case: str) -> Saved:
        folder = tmp_path_factory.mktemp(case)
        model = save_model(case, folder)
        ids = np.random.default_rng(0).integers(0, 320, LENGTH).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy()
        return Saved(folder, ids, logits)

    return make
