"""The parts together: a trained base is pruned, its teacher is cached, and the student heals from the cache alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="compression needs torch, the extra 'train'")

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from smallhold.compress.cached_losses import cached_distill_loss
from smallhold.compress.calibration import CalibrationSet
from smallhold.compress.distill_losses import DistillConfig
from smallhold.compress.logit_cache import CacheManifest, LogitCache, corpus_digest, write_cache
from smallhold.compress.logit_packing import RecordLayout
from smallhold.compress.prune_width import prune_width
from smallhold.learn.checkpoint import load_signal_model
from smallhold.learn.loop import LoopConfig, train
from smallhold.learn.model import SignalModel

from .small_models import logits_of, no_progress

BASE = Path(__file__).parents[2] / "models" / "base"
WINDOW = 48


def windows() -> torch.Tensor:
    """(40, 48) ids of made-up notes."""
    rng = np.random.default_rng(0)
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    choices = (
        ("The patient was admitted with ", "She was seen in clinic for ", "He returned because of ", "Treatment of "),
        ("chest pain", "high fever", "a broken arm", "severe headache", "blood in the urine", "shortness of breath"),
        (" and was treated with ", ", which responded to ", ". The doctor gave ", "; we started "),
        ("oxygen.", "antibiotics.", "a new medicine.", "surgery.", "rest and fluids.", "insulin."),
    )
    text = " ".join("".join(str(rng.choice(part)) for part in choices) for _ in range(200))
    return torch.tensor(tokenizer.encode(text).ids[: 40 * WINDOW]).view(40, WINDOW)


def test_a_base_with_half_of_its_ffn_heals_from_a_cache(tmp_path: Path) -> None:
    ids = windows()
    taught, held_out = ids[:32], ids[32:]
    teacher = load_signal_model(BASE)
    student, _ = prune_width(teacher, CalibrationSet(tokens=taught[:16]), intermediate_size=256)
    layout = RecordLayout.fitting(teacher.trunk.config.vocab_size)
    manifest = CacheManifest(
        teacher_digest="0" * 64,
        tokenizer_digest="0" * 64,
        corpus_digest=corpus_digest(taught.numpy()),
        layout=layout,
        num_windows=len(taught),
        window=WINDOW,
        windows_per_shard=12,
    )

    def answer(start: int, count: int) -> np.ndarray:
        return logits_of(teacher, taught[start : start + count]).numpy()

    write_cache(tmp_path / "cache", manifest, answer, progress=no_progress)
    cache = LogitCache(tmp_path / "cache", expected=manifest)
    assert cache.size_bytes <= 32 * taught.numel()

    def kl() -> float:
        target = F.log_softmax(logits_of(teacher, held_out), -1)
        said = F.log_softmax(logits_of(student, held_out), -1)
        return float((target.exp() * (target - said)).sum(-1).mean())

    def loss(model: nn.Module, step: int, rng: np.random.Generator) -> torch.Tensor:
        assert isinstance(model, SignalModel)
        rows = rng.choice(len(taught), 12, replace=False)
        trunk = model.trunk
        states = trunk.hidden(trunk.embed(taught[torch.from_numpy(rows)]))
        return cached_distill_loss(states, trunk.lm_head, cache.windows(rows), DistillConfig(chunk=512))

    before = kl()
    train(
        student,
        loss,
        LoopConfig(steps=10, learning_rate=5e-4, warmup_steps=2, ema_decay=0.0, weight_decay=0.0, use_bf16=False),
        tmp_path / "training" / "state.safetensors",
        inputs_digest="healing",
        progress=lambda done, total, value: None,
    )
    assert before > 0.05, "pruning half of the channels must cost something, or this test shows nothing"
    assert kl() < 0.7 * before
