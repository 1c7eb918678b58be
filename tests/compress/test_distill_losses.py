from __future__ import annotations

import math

import pytest

pytest.importorskip("torch", reason="distillation needs torch, the extra 'train'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from smallhold.compress.distill_losses import (
    DistillConfig,
    coarsen,
    distill_loss,
    divergence,
    forward_kl,
    generalized_jsd,
    log_probabilities,
    reverse_kl,
)
from smallhold.compress.hidden_states import HiddenStateLoss, record_layers, uniform_layer_map
from smallhold.errors import RecipeError, ShapeError

from .small_models import make_trunk, tokens


def two(seed: int, rows: int = 5, vocab: int = 11, size: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a teacher and a student, float64."""
    source = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(2, rows, vocab, generator=source, dtype=torch.float64)
    teacher, student = F.log_softmax(logits, dim=-1)
    return teacher, student


def test_divergences_by_hand() -> None:
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(forward_kl(teacher, student)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert float(reverse_kl(teacher, student)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    # beta = 1/2: the mixture is (3/8, 5/8)
    jsd = 0.5 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)) + 0.5 * (
        0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)
    )
    assert float(generalized_jsd(teacher, student, 0.5)) == pytest.approx(jsd, rel=1e-5)


def test_a_token_that_the_teacher_excludes_costs_nothing() -> None:
    teacher = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)
    student = torch.tensor([[0.3, 0.7]], dtype=torch.float64).log().requires_grad_()
    value = forward_kl(teacher, student)
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(-math.log(0.3))
    assert student.grad is not None and torch.isfinite(student.grad).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(0.01, 0.99), st.floats(0.1, 20))
def test_divergences_are_distances_of_a_kind(seed: int, beta: float, size: float) -> None:
    teacher, student = two(seed, size=size)
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    for measure in (forward_kl, reverse_kl, lambda p, q: generalized_jsd(p, q, beta)):
        assert (measure(teacher, student) >= -1e-12).all()
        torch.testing.assert_close(measure(teacher, teacher), torch.zeros(5, dtype=torch.float64))
    assert (generalized_jsd(teacher, student, beta) <= bound + 1e-12).all()
    torch.testing.assert_close(generalized_jsd(teacher, student, beta), generalized_jsd(student, teacher, 1 - beta))


def test_limits_of_the_generalised_divergence() -> None:
    teacher, student = two(0, size=1.0)
    small = 1e-7
    torch.testing.assert_close(
        generalized_jsd(teacher, student, small) / small, forward_kl(teacher, student), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        generalized_jsd(teacher, student, 1 - small) / small, reverse_kl(teacher, student), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradients_are_those_of_the_slow_twin(kind: str, temperature: float) -> None:
    source = torch.Generator().manual_seed(1)
    teacher_logits = torch.randn(4, 7, generator=source, dtype=torch.float64)
    student_logits = torch.randn(4, 7, generator=source, dtype=torch.float64, requires_grad=True)

    def slow(logits: torch.Tensor) -> torch.Tensor:
        """Probability by probability, as the definitions read."""
        p, q = (teacher_logits / temperature).softmax(-1), (logits / temperature).softmax(-1)
        m = 0.3 * p + 0.7 * q
        kl = {
            "forward_kl": (p * (p / q).log()),
            "reverse_kl": (q * (q / p).log()),
            "jsd": 0.3 * p * (p / m).log() + 0.7 * q * (q / m).log(),
        }[kind]
        return kl.sum(-1) * temperature**2

    def fast(logits: torch.Tensor) -> torch.Tensor:
        config = DistillConfig(divergence=kind, beta=0.3, temperature=temperature)  # type: ignore[arg-type]
        p, q = F.log_softmax(teacher_logits / temperature, -1), F.log_softmax(logits / temperature, -1)
        return divergence(p, q, config)

    torch.testing.assert_close(fast(student_logits), slow(student_logits))
    (expected,) = torch.autograd.grad(slow(student_logits).sum(), student_logits)
    (found,) = torch.autograd.grad(fast(student_logits).sum(), student_logits)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(fast, (student_logits,))


def test_the_temperature_squared_keeps_the_size_of_gradients() -> None:
    """Hinton et al.: for a high temperature the gradient tends to (logit differences) / V, whatever the temperature."""
    source = torch.Generator().manual_seed(2)
    teacher = torch.randn(1, 6, generator=source, dtype=torch.float64)
    student = torch.randn(1, 6, generator=source, dtype=torch.float64, requires_grad=True)
    expected = ((student - student.mean()) - (teacher - teacher.mean())).detach() / 6
    for temperature in (200.0, 400.0):
        config = DistillConfig(temperature=temperature)
        value = divergence(F.log_softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1), config)
        (gradient,) = torch.autograd.grad(value.sum(), student)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=5e-3)


def test_top_k_or_the_rest_is_a_distribution_and_a_lower_bound() -> None:
    source = torch.Generator().manual_seed(3)
    teacher, student = (3 * torch.randn(40, 50, generator=source) for _ in range(2))
    ids = teacher.topk(6).indices
    coarse_teacher, coarse_student = coarsen(teacher, ids), coarsen(student, ids)
    torch.testing.assert_close(coarse_teacher.exp().sum(-1), torch.ones(40))
    torch.testing.assert_close(
        coarse_teacher[:, -1].exp(), 1 - teacher.softmax(-1).gather(1, ids).sum(-1), atol=1e-5, rtol=0
    )
    for measure in (forward_kl, reverse_kl, lambda p, q: generalized_jsd(p, q, 0.4)):
        whole = measure(log_probabilities(teacher), log_probabilities(student))
        assert (measure(coarse_teacher, coarse_student) <= whole + 1e-5).all()


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_neither_loss_nor_gradient(kind: str, chunk: int) -> None:
    source = torch.Generator().manual_seed(4)
    states = torch.randn(3, 5, 8, generator=source, requires_grad=True)
    teacher_states = torch.randn(3, 5, 12, generator=source)
    head, teacher_head = torch.nn.Linear(8, 20), torch.nn.Linear(12, 20)
    mask = torch.rand(3, 5, generator=source) < 0.6
    config = DistillConfig(divergence=kind, chunk=chunk, temperature=1.5)  # type: ignore[arg-type]
    whole = divergence(
        log_probabilities(teacher_head(teacher_states), 1.5), log_probabilities(head(states), 1.5), config
    )[mask].mean()
    expected = torch.autograd.grad(whole, [states, head.weight])
    loss = distill_loss(states, head, teacher_states, teacher_head, config, mask=mask)
    found = torch.autograd.grad(loss, [states, head.weight])
    torch.testing.assert_close(loss, whole)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert teacher_head.weight.grad is None


def test_logits_of_both_models_are_never_whole() -> None:
    rows: list[int] = []

    def watching(states: torch.Tensor) -> torch.Tensor:
        rows.append(len(states))
        return states @ torch.ones(4, 9)

    states = torch.randn(2, 10, 4, requires_grad=True)
    distill_loss(states, watching, states.detach(), watching, DistillConfig(chunk=6)).backward()
    assert max(rows) == 6


def test_nothing_counts_where_the_mask_is_empty() -> None:
    states = torch.randn(1, 3, 4, requires_grad=True)
    head = torch.nn.Linear(4, 5)
    loss = distill_loss(
        states, head, states.detach() + 1, head, DistillConfig(), mask=torch.zeros(1, 3, dtype=torch.bool)
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert states.grad is not None and not states.grad.any()


def test_models_that_do_not_belong_together_are_refused() -> None:
    states = torch.zeros(1, 3, 4)
    with pytest.raises(ShapeError, match=r"states for \(1, 3\) tokens, the teacher for \(1, 2\)"):
        distill_loss(states, torch.nn.Linear(4, 5), states[:, :2], torch.nn.Linear(4, 5), DistillConfig())
    with pytest.raises(ShapeError, match="vocabulary has 5 entries, the teacher's 6"):
        distill_loss(states, torch.nn.Linear(4, 5), states, torch.nn.Linear(4, 6), DistillConfig())
    with pytest.raises(RecipeError, match="beta: expected a value between 0 and 1, got 1"):
        DistillConfig(divergence="jsd", beta=1.0)
    with pytest.raises(RecipeError, match="expected forward_kl, reverse_kl or jsd, got 'l2'"):
        DistillConfig(divergence="l2")  # type: ignore[arg-type]


def test_layers_are_paired_evenly_and_the_last_with_the_last() -> None:
    assert uniform_layer_map(4, 8) == [(0, 1), (1, 3), (2, 5), (3, 7)]
    assert uniform_layer_map(3, 3) == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(RecipeError, match="a student of 5 layers cannot follow a teacher of 4"):
        uniform_layer_map(5, 4)


def test_hidden_states_are_matched_through_a_projection() -> None:
    teacher, student = make_trunk(), make_trunk(hidden_size=32, head_dim=16, seed=1)
    ids = tokens()
    with record_layers(teacher, [0, 2]) as theirs, torch.no_grad():
        teacher.hidden(teacher.embed(ids))
    with record_layers(student, [0, 2]) as own:
        student.hidden(student.embed(ids))
    loss = HiddenStateLoss([(0, 0), (2, 2)], 32, 64, kept=torch.arange(0, 64, 2))
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, :3] = True
    by_hand = []
    for layer in (0, 2):
        said = torch.zeros(*ids.shape, 64)
        said[..., ::2] = own[layer]  # the projection starts by putting kept units back in their places
        by_hand.append((said - theirs[layer])[:, :3].square().mean() / theirs[layer].var())
    value = loss(own, theirs, mask)
    torch.testing.assert_close(value, torch.stack(by_hand).mean())
    value.backward()
    assert all(p.grad is not None for p in loss.parameters())
    assert student.blocks[0].self_attn.q_proj.weight.grad is not None
    same = HiddenStateLoss([(0, 0)], 64, 64)
    assert not list(same.parameters())
    assert float(same(theirs, theirs)) == 0
    with pytest.raises(ShapeError, match="layers 1 and 1 were not recorded"):
        HiddenStateLoss([(1, 1)], 64, 64)(theirs, theirs)
