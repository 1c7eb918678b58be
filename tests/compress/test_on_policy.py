from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="distillation needs torch, the extra 'train'")

import torch

from smallhold.compress.distill_losses import DistillConfig, divergence, log_probabilities
from smallhold.compress.language_teacher import LanguageTeacher
from smallhold.compress.on_policy import draw_batch, fixed_continuations, generate, gkd_loss
from smallhold.errors import RecipeError, ShapeError

from .small_models import logits_of, make_trunk, tokens


def test_greedy_text_is_what_the_student_holds_likeliest_token_by_token() -> None:
    student = make_trunk()
    written = generate(student, tokens(3, 4), num_tokens=6, eos=None, seed=0, temperature=0)
    assert written.ids.shape == (3, 10)
    assert torch.equal(written.ids[:, :4], tokens(3, 4))
    for place in range(4, 10):
        assert torch.equal(written.ids[:, place], logits_of(student, written.ids[:, :place])[:, -1].argmax(-1))
    assert written.mask.tolist() == [[False] * 3 + [True] * 6 + [False]] * 3


def test_draws_follow_the_students_probabilities_and_the_seed() -> None:
    student = make_trunk()
    prompt = tokens(1, 3).expand(4000, -1)
    first = generate(student, prompt, num_tokens=1, eos=None, seed=1).ids[:, -1]
    expected = logits_of(student, prompt[:1])[0, -1].softmax(-1)
    share = torch.bincount(first, minlength=96) / 4000
    assert float((share - expected).abs().max()) < 5 * float((expected.max() / 4000).sqrt())
    assert torch.equal(first, generate(student, prompt, num_tokens=1, eos=None, seed=1).ids[:, -1])
    assert not torch.equal(first, generate(student, prompt, num_tokens=1, eos=None, seed=2).ids[:, -1])


def test_what_follows_the_end_does_not_count() -> None:
    student = make_trunk().train()
    eos = int(logits_of(student, tokens(4, 4))[0, -1].argmax())  # the first row ends at once
    written = generate(student, tokens(4, 4), num_tokens=5, eos=eos, seed=0, temperature=0)
    for ids, mask in zip(written.ids.tolist(), written.mask.tolist(), strict=True):
        ends = [i for i in range(4, len(ids)) if ids[i] == eos]
        last = ends[0] if ends else len(ids) - 1
        assert mask == [3 <= i < last for i in range(len(ids))]
    alone = generate(student, tokens(4, 4)[:1], num_tokens=5, eos=eos, seed=0, temperature=0)
    assert alone.ids.shape == (1, 5), "nothing is written once all rows have ended"
    assert student.training


def test_the_share_says_who_writes() -> None:
    student, texts = make_trunk(), tokens(2, 12)

    def own(share: float, seed: int) -> bool:
        batch = draw_batch(
            student, texts, prompt_length=4, on_policy_share=share, eos=None, rng=np.random.default_rng(seed)
        )
        assert torch.equal(batch.ids[:, :4], texts[:, :4])
        assert torch.equal(batch.mask, fixed_continuations(texts, 4).mask)
        return not torch.equal(batch.ids, texts)

    assert not any(own(0.0, seed) for seed in range(3))
    assert all(own(1.0, seed) for seed in range(3))
    expected = [np.random.default_rng(seed).random() < 0.4 for seed in range(12)]
    assert [own(0.4, seed) for seed in range(12)] == expected
    assert 0 < sum(expected) < 12


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_the_loss_is_the_divergence_on_continuations_alone(kind: str) -> None:
    teacher, student = make_trunk(), make_trunk(seed=1, num_hidden_layers=1)
    batch = fixed_continuations(tokens(3, 9), 4)
    config = DistillConfig(divergence=kind, chunk=5)  # type: ignore[arg-type]
    loss = gkd_loss(student, LanguageTeacher(teacher), batch, config)
    values = divergence(
        log_probabilities(logits_of(teacher, batch.ids)), log_probabilities(logits_of(student, batch.ids)), config
    )
    torch.testing.assert_close(loss.detach(), values[:, 3:8].mean())
    loss.backward()
    assert student.blocks[0].mlp.up_proj.weight.grad.any()
    assert teacher.blocks[0].mlp.up_proj.weight.grad is None


def test_a_student_comes_nearer_on_its_own_texts() -> None:
    teacher, student = make_trunk(), make_trunk(seed=1, num_hidden_layers=2)
    prompts = tokens(8, 10)
    config = DistillConfig(divergence="jsd", beta=0.5)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        batch = draw_batch(
            student, prompts, prompt_length=3, on_policy_share=1.0, eos=None, rng=np.random.default_rng(step)
        )
        loss = gkd_loss(student, LanguageTeacher(teacher), batch, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_impossible_requests_are_refused() -> None:
    student = make_trunk()
    with pytest.raises(ShapeError, match=r"20 \+ 13 tokens exceed the context of 32"):
        generate(student, tokens(1, 20), num_tokens=13, eos=None, seed=0)
    with pytest.raises(ShapeError, match=r"expected prompts \(B, P\)"):
        generate(student, tokens(1, 20)[0], num_tokens=1, eos=None, seed=0)
    with pytest.raises(RecipeError, match="on_policy_share: expected 0 to 1, got 2"):
        draw_batch(student, tokens(), prompt_length=2, on_policy_share=2, eos=None, rng=np.random.default_rng(0))
    with pytest.raises(ShapeError, match="expected a prompt of 1 to 15 tokens, got 16"):
        fixed_continuations(tokens(), 16)
