from __future__ import annotations

import numpy as np
import pytest

from smallhold.errors import BackendError
from smallhold.serve.sampling import Sampler, Sampling, log_softmax

LOGITS = np.array([2.0, 1.0, 0.0, -1.0, 1.0], dtype=np.float32)
ALL = np.ones(5, dtype=np.bool_)


def drawn(sampling: Sampling, count: int = 4000, allowed: np.ndarray = ALL) -> np.ndarray:
    """Shares of the tokens; every draw is of a fresh sampler, so that penalties have no part."""
    found = [Sampler(sampling, index).choose(LOGITS, allowed) for index in range(count)]
    return np.bincount(found, minlength=5) / count


def slow(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> np.ndarray:
    """The distribution, token by token, as the papers say it."""
    p = np.exp(LOGITS.astype(float) / temperature)
    ranked = sorted(range(5), key=lambda i: -p[i])
    kept = [i for i in ranked if not top_k or p[i] >= p[ranked[top_k - 1]]]
    total, nucleus = sum(p[i] for i in kept), []
    for i in kept:
        if nucleus and sum(p[j] for j in nucleus) >= top_p * total:
            break
        nucleus.append(i)
    out = np.zeros(5)
    out[nucleus] = p[nucleus] / p[nucleus].sum()
    return out


@pytest.mark.parametrize(
    "dials",
    [
        *({}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 2}, {"top_k": 1}, {"top_p": 0.7}, {"top_p": 0.0}),
        {"temperature": 0.7, "top_k": 4, "top_p": 0.8},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(dials):
    # The standard error of a share of 4,000 draws is at most 0.008.
    np.testing.assert_allclose(drawn(Sampling(seed=7, **dials)), slow(**dials), atol=0.032)


def test_temperature_0_takes_the_best_and_the_lower_id_of_equals():
    assert Sampler(Sampling(temperature=0), 0).choose(LOGITS, ALL) == 0
    assert Sampler(Sampling(temperature=0), 0).choose(LOGITS, np.arange(5) > 0) == 1
    assert Sampler(Sampling(temperature=1e-308, seed=1), 0).choose(LOGITS, ALL) == 0


def test_a_seed_repeats_and_the_answers_of_one_request_differ():
    def run(seed: int, index: int) -> list[int]:
        sampler = Sampler(Sampling(seed=seed), index)
        return [sampler.choose(LOGITS, ALL) for _ in range(40)]

    assert run(3, 0) == run(3, 0)
    assert run(3, 0) != run(3, 1) != run(4, 1)


def test_what_is_not_allowed_is_never_drawn_however_likely():
    allowed = np.array([False, True, False, False, True])
    assert drawn(Sampling(seed=0, logit_bias={0: 100.0}), 200, allowed)[[0, 2, 3]].sum() == 0


def test_penalties_and_bias_change_the_logits_by_their_amounts():
    sampler = Sampler(Sampling(temperature=0, frequency_penalty=0.4, presence_penalty=0.3), 0)
    # 2.0, then 1.3, then 0.9 for token 0; token 1 then falls to 0.3, and token 4 stays at 1.0.
    assert [sampler.choose(LOGITS, ALL) for _ in range(5)] == [0, 0, 1, 4, 0]
    assert Sampler(Sampling(temperature=0, logit_bias={3: 3.1}), 0).choose(LOGITS, ALL) == 3
    assert Sampler(Sampling(temperature=0, logit_bias={3: 2.9}), 0).choose(LOGITS, ALL) == 0


def test_a_broken_model_is_an_error_and_no_token():
    for bad in (np.nan, np.inf):
        with pytest.raises(BackendError, match="no token can be chosen"):
            Sampler(Sampling(), 0).choose(np.array([bad, 0], dtype=np.float32), np.ones(2, np.bool_))
    with pytest.raises(BackendError, match="none is allowed"):
        Sampler(Sampling(), 0).choose(LOGITS, ~ALL)


def test_log_softmax_sums_to_one_and_survives_large_logits():
    found = log_softmax(np.array([[1e4, 1e4 - 1.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(np.exp(found).sum(-1), 1)
    np.testing.assert_allclose(found[1], np.log(0.5))
    np.testing.assert_allclose(found[0, 0], -np.log1p(np.exp(-1)))
