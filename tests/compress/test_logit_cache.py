from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="compression needs torch, the extra 'train'")

import torch
from torch.nn import functional as F

from smallhold.compress.cached_losses import (
    TargetTensors,
    cached_distill_loss,
    sampled_cross_entropy,
    top_k_divergence,
)
from smallhold.compress.distill_losses import DistillConfig, coarsen, divergence
from smallhold.compress.logit_cache import LogitCache, write_cache
from smallhold.compress.logit_packing import RecordLayout, pack_logits, unpack
from smallhold.errors import DataError, RecipeError, ShapeError

from .cached_teacher import VOCAB, WINDOW, WINDOWS, manifest_of, nothing, teacher


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@settings(deadline=None, max_examples=80)
@given(
    vocab=st.sampled_from([2, 3, 17, 256, 257, 1000]),
    size=st.floats(0, 30),
    bits=st.sampled_from([4, 8, 12]),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_the_round_trip_keeps_ids_and_stays_within_the_bound(
    vocab: int, size: float, bits: int, seed: int, data
) -> None:  # type: ignore[no-untyped-def]
    head, tail = data.draw(st.integers(1, min(vocab - 1, 9))), data.draw(st.integers(0, 7))
    layout = RecordLayout(vocab_size=vocab, head=head, tail=tail, probability_bits=bits)
    rng = np.random.default_rng(seed)
    logits = (size * rng.normal(size=(9, vocab))).astype(np.float32)
    records = pack_logits(layout, logits, rng)
    assert records.shape == (9, layout.num_bytes)
    targets = unpack(layout, records)
    exact = log_softmax(logits)
    order = -np.sort(-exact, axis=1)[:, :head]
    at_ids = np.take_along_axis(exact, targets.head_ids, axis=1)
    np.testing.assert_allclose(at_ids, order)  # the most likely ones, most likely first
    assert all(len(set(row)) == head for row in targets.head_ids.tolist())
    rest = np.log(np.maximum(1 - np.exp(at_ids).sum(axis=1), 1e-300))
    p = np.concatenate([at_ids, rest[:, None]], axis=1)
    q = np.concatenate([targets.head_logprobs, targets.rest_logprob[:, None]], axis=1).astype(np.float64)
    np.testing.assert_allclose(np.exp(q).sum(axis=1), 1, atol=1e-5)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    assert (kl <= layout.kl_bound + 1e-6).all()  # float32 storage of q
    assert targets.tail_ids.shape == (9, tail)
    assert ((targets.tail_ids >= 0) & (targets.tail_ids < vocab)).all()


def test_bits_by_hand() -> None:
    layout = RecordLayout(vocab_size=4, head=1, tail=1, probability_bits=8)  # 8 + 2 + 8 + 2 bits
    record = pack_logits(layout, np.array([[0, 50, 0, -100]], np.float32), np.random.default_rng(0))
    # rest e^-49 -> 255; id 1; probability 1 -> 0; the draw is 0 or 2
    assert record.shape == (1, 3)
    assert record[0, 0] == 255
    assert record[0, 1] == 0b01000000
    assert record[0, 2] in (0b00000000, 0b00100000)


@pytest.mark.parametrize("vocab", [259, 8192, 32000, 49152, 151936, 262144])
def test_records_fill_32_bytes_for_any_vocabulary(vocab: int) -> None:
    layout = RecordLayout.fitting(vocab)
    assert 30 <= layout.num_bytes <= 32
    assert layout.head >= 4
    assert layout.tail >= 4
    assert replace(layout, tail=layout.tail + 1).num_bytes > 32


def test_the_drawn_target_is_the_teachers_own_distribution_in_expectation() -> None:
    """Top-k alone is biased; head and drawn tail together are not."""
    rng = np.random.default_rng(0)
    logits = (1.5 * rng.normal(size=(1, 40))).astype(np.float32)
    layout = RecordLayout(vocab_size=40, head=3, tail=4, probability_bits=16)
    draws = 4000
    targets = unpack(layout, pack_logits(layout, np.repeat(logits, draws, axis=0), rng))
    mean = np.zeros(40)
    np.add.at(mean, targets.head_ids.ravel(), np.exp(targets.head_logprobs).ravel() / draws)
    np.add.at(mean, targets.tail_ids.ravel(), np.repeat(np.exp(targets.rest_logprob), 4) / 4 / draws)
    exact = np.exp(log_softmax(logits))[0]
    deviation = np.sqrt(exact * exact.max() / draws)  # generous: no token can vary more than a single draw of the rest
    assert (np.abs(mean - exact) < 5 * deviation + 1e-3).all()
    top_only = np.where(np.isin(np.arange(40), targets.head_ids[0]), exact, 0)
    assert np.abs(top_only / top_only.sum() - exact).sum() > 10 * np.abs(mean - exact).sum()
    assert not (set(targets.tail_ids.ravel()) & set(targets.head_ids[0]))


def test_gradients_of_the_sampled_loss_are_unbiased_and_those_of_top_k_are_not() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, 30)).astype(np.float32)
    layout = RecordLayout(vocab_size=30, head=3, tail=3, probability_bits=16)
    draws = 3000
    targets = TargetTensors.of(unpack(layout, pack_logits(layout, np.repeat(logits, draws, axis=0), rng)))
    student = torch.randn(1, 30, generator=torch.Generator().manual_seed(0), requires_grad=True)
    exact = student.detach().softmax(-1) - torch.from_numpy(np.exp(log_softmax(logits))).float()
    (sampled,) = torch.autograd.grad(sampled_cross_entropy(student.expand(draws, -1), targets).mean(), student)
    (coarse,) = torch.autograd.grad(
        top_k_divergence(student.expand(draws, -1), targets, DistillConfig()).mean(), student
    )
    assert float((sampled - exact).norm()) < 0.1 * float((coarse - exact).norm())


def test_top_k_loss_is_that_over_full_logits_coarsened() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5, 30)).astype(np.float32)
    layout = RecordLayout(vocab_size=30, head=6, tail=0, probability_bits=16)
    targets = TargetTensors.of(unpack(layout, pack_logits(layout, logits, rng)))
    student = torch.randn(5, 30)
    for kind in ("forward_kl", "reverse_kl", "jsd"):
        config = DistillConfig(divergence=kind)  # type: ignore[arg-type]
        whole = divergence(
            coarsen(torch.from_numpy(logits), targets.head_ids), coarsen(student, targets.head_ids), config
        )
        torch.testing.assert_close(top_k_divergence(student, targets, config), whole, rtol=1e-3, atol=1e-3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_any_token_is_found_and_says_what_the_teacher_said(tmp_path: Path) -> None:
    write_cache(tmp_path, manifest_of(), teacher, progress=nothing)
    cache = LogitCache(tmp_path, expected=manifest_of())
    assert cache.size_bytes == WINDOWS * WINDOW * cache.manifest.layout.num_bytes
    assert cache.manifest.layout.num_bytes <= 32
    positions = np.array([[59, 0], [17, 18]])
    targets = cache.tokens(positions)
    assert targets.head_ids.shape == (2, 2, cache.manifest.layout.head)
    for place, position in np.ndenumerate(positions):
        exact = log_softmax(teacher(int(position) // WINDOW, 1)[0, int(position) % WINDOW])
        assert targets.head_ids[place][0] == exact.argmax()
        np.testing.assert_allclose(targets.head_logprobs[place], exact[targets.head_ids[place]], atol=0.07)
    windows = cache.windows(np.array([9, 4]))
    np.testing.assert_array_equal(windows.head_ids[0], cache.tokens(np.arange(54, 60)).head_ids)
    with pytest.raises(ShapeError, match="expected positions 0 to 59, got 0 to 60"):
        cache.tokens(np.array([0, 60]))


def test_a_killed_writer_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write_cache(whole, manifest_of(), teacher, progress=nothing)
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
from compress.cached_teacher import manifest_of, nothing, teacher
from smallhold.compress.logit_cache import write_cache
def slow(start, count):
    if start >= 6:
        print("asked", flush=True)
        time.sleep(60)
    return teacher(start, count)
write_cache(Path({str(cut)!r}), manifest_of(), slow, progress=nothing)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == b"asked\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert sorted(contents(cut)) == ["manifest.json", "shard-00000.bin", "shard-00001.bin"]
    with pytest.raises(DataError, match="2 of 4 shards are missing"):
        LogitCache(cut)
    asked: list[int] = []
    write_cache(cut, manifest_of(), lambda start, count: asked.append(start) or teacher(start, count), progress=nothing)
    assert asked == [6, 9]
    assert contents(cut) == contents(whole)


def test_a_disk_that_fills_up_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def until_second(start: int, count: int) -> np.ndarray:
        if start == 3:
            monkeypatch.setattr(os, "fsync", full)
        return teacher(start, count)

    with pytest.raises(OSError, match="No space left"):
        write_cache(tmp_path, manifest_of(), until_second, progress=nothing)
    assert sorted(contents(tmp_path)) == ["manifest.json", "shard-00000.bin"]


@pytest.mark.parametrize("damage", ["bit", "cut", "swap", "other"])
def test_a_damaged_or_foreign_shard_is_refused(tmp_path: Path, damage: str) -> None:
    write_cache(tmp_path / "a", manifest_of(), teacher, progress=nothing)
    path = tmp_path / "a" / "shard-00001.bin"
    data = bytearray(path.read_bytes())
    match damage:
        case "bit":
            data[100] ^= 1
        case "cut":
            del data[-1]
        case "swap":
            data = bytearray((tmp_path / "a" / "shard-00000.bin").read_bytes())
        case _:
            write_cache(tmp_path / "b", manifest_of(teacher_digest="c" * 64), teacher, progress=nothing)
            data = bytearray((tmp_path / "b" / "shard-00001.bin").read_bytes())
    path.write_bytes(data)
    cache = LogitCache(tmp_path / "a")
    cache.tokens(np.arange(18))  # the first shard is whole
    with pytest.raises(DataError, match=r"shard-00001\.bin: damaged or of another cache"):
        cache.tokens(np.arange(18, 36))


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path, manifest_of(), teacher, progress=nothing)
    other = manifest_of(corpus_digest="d" * 64)
    with pytest.raises(DataError, match=r"made for something else \(corpus_digest: "):
        write_cache(tmp_path, other, teacher, progress=nothing)
    with pytest.raises(DataError, match="made for something else"):
        LogitCache(tmp_path, expected=other)
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        LogitCache(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match=r"manifest\.json is malformed"):
        LogitCache(tmp_path)


def test_teachers_that_answer_wrongly_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"expected logits \(3, 6, 300\), got \(3, 6, 299\)"):
        write_cache(tmp_path, manifest_of(), lambda s, n: teacher(s, n)[..., :-1], progress=nothing)
    with pytest.raises(ShapeError, match="hold NaN or infinity"):
        write_cache(tmp_path, manifest_of(), lambda s, n: teacher(s, n) * np.float32(np.nan), progress=nothing)
    with pytest.raises(RecipeError, match="32 bytes a token hold 1 to 9 head tokens, got 10"):
        RecordLayout.fitting(151936, head=10)
    with pytest.raises(RecipeError, match="expected 1 to 3 head tokens"):
        RecordLayout(vocab_size=4, head=4, tail=0)


def test_a_student_learns_from_the_cache(tmp_path: Path) -> None:
    """A free table of logits, taught by the cache alone, comes near to the teacher it never saw."""
    write_cache(tmp_path, manifest_of(), teacher, progress=nothing)
    cache = LogitCache(tmp_path)
    rows = np.arange(WINDOWS)
    exact = torch.from_numpy(log_softmax(teacher(0, WINDOWS))).float()
    student = torch.zeros(WINDOWS, WINDOW, VOCAB, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.1)
    kls = []
    for _ in range(60):
        loss = cached_distill_loss(student, lambda x: x, cache.windows(rows), DistillConfig(chunk=16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kls.append(float((exact.exp() * (exact - F.log_softmax(student, -1))).sum(-1).mean().detach()))
    # One draw of the tail stays what it was: the floor is the tail's sampling, not zero.
    assert kls[-1] < 0.6 * kls[0]
    reverse = cached_distill_loss(student, lambda x: x, cache.windows(rows), DistillConfig(divergence="reverse_kl"))
    assert float(reverse.detach()) >= 0
    with pytest.raises(ShapeError, match="targets"):
        cached_distill_loss(student[:2], lambda x: x, cache.windows(rows), DistillConfig())
