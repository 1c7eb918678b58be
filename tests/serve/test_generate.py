"""The generator against sessions driven by hand."""

from __future__ import annotations

import numpy as np
import pytest

from smallhold.serve.generate import Generator, Order, Piece, Prefilled
from smallhold.serve.prefix_cache import BLOCK, PrefixCache
from smallhold.serve.request_error import RequestError
from smallhold.serve.sampling import Sampling
from smallhold.serve.service import Service

TEXT = (
    "The patient is a 45-year-old male who was admitted with chest pain and shortness of breath. On examination he "
    "was found to have a blood pressure of 140/90, and he complained about headaches since the morning."
)
GREEDY = Sampling(temperature=0)


def run(service: Service, prompt: list[int], **order: object) -> tuple[Prefilled, list[Piece]]:
    first, *pieces = service._generator.run(prompt, Order(**order), lambda: None)  # type: ignore[arg-type]
    assert isinstance(first, Prefilled)
    return first, pieces  # type: ignore[return-value]


def by_hand(service: Service, prompt: list[int], count: int) -> tuple[list[int], np.ndarray]:
    """Greedy tokens and the log-softmax (count, V) that each was chosen from, on a session of its own."""
    session = service.bundle.backend.session()
    for start in range(0, len(prompt), BLOCK):
        session.append(prompt[start : start + BLOCK])
    tokens, rows = [], []
    for _ in range(count):
        logits = session.score([], [-1])[0].astype(np.float64)
        rows.append(logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
        tokens.append(int(np.argmax(np.where(service.vocabulary.sayable, logits, -np.inf))))
        session.append(tokens[-1:])
    return tokens, np.array(rows)


def test_greedy_tokens_and_logprobs_are_those_of_a_direct_session(service):
    prompt = service.vocabulary.encode(TEXT)
    first, pieces = run(service, prompt, max_tokens=12, sampling=GREEDY, top_logprobs=5)
    tokens, rows = by_hand(service, prompt, 12)
    assert [piece.token for piece in pieces] == tokens
    for piece, row in zip(pieces, rows, strict=True):
        assert piece.scored.logprob == pytest.approx(row[piece.token], abs=1e-9)
        assert [token for token, _ in piece.scored.top] == np.argsort(-row, kind="stable")[:5].tolist()
        assert dict(piece.scored.top) == pytest.approx({token: row[token] for token, _ in piece.scored.top})
    assert (first.tokens, first.cached_tokens) == (tuple(prompt), 0)
    assert pieces[-1].finish_reason == "length"


def test_an_answer_does_not_depend_on_what_was_asked_before(service, hospital):
    prompt = service.vocabulary.encode(TEXT)
    order = {"max_tokens": 24, "sampling": Sampling(seed=5), "top_logprobs": 3}
    _, alone = run(Service(hospital, cached_prompts=0), prompt, **order)
    for other in (prompt[:40], prompt + [300, 301] * 40, prompt[:70] + [400] * 9, prompt):
        run(service, other, max_tokens=3)
        first, pieces = run(service, prompt, **order)
        assert first.cached_tokens >= BLOCK
        assert pieces == alone  # bit for bit, 8-bit activations notwithstanding


def test_the_log_probabilities_of_a_prompt_are_those_of_one_pass(golden_service):
    prompt = golden_service.vocabulary.encode("Hello, hospital: how is everybody in bed 7?")
    first, _ = run(golden_service, prompt, max_tokens=1, top_logprobs=2, scores_prompt=True)
    rows = golden_service.bundle.backend.session().score(prompt, range(len(prompt)))
    rows = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    assert [one.token for one in first.scored] == prompt
    assert first.scored[0].logprob is None
    # Float32 weights: blocks and one pass agree within 1e-5 of the largest logit.
    expected = [row[token] for row, token in zip(rows, prompt[1:], strict=False)]
    assert [one.logprob for one in first.scored[1:]] == pytest.approx(expected, abs=1e-4)
    assert first.scored[5].top[0][0] == int(np.argmax(rows[4]))


def test_several_answers_share_the_prompt_and_have_their_own_chance(service):
    prompt = service.vocabulary.encode("The patient")
    _, pieces = run(service, prompt, max_tokens=6, n=3, sampling=Sampling(seed=1))
    answers = [[piece.token for piece in pieces if piece.index == i] for i in range(3)]
    assert all(len(tokens) == 6 for tokens in answers)
    assert answers[0] != answers[1] != answers[2]
    _, alone = run(service, prompt, max_tokens=6, sampling=Sampling(seed=1))
    assert [piece.token for piece in alone] == answers[0]


def test_an_end_mark_ends_the_answer_and_is_no_part_of_it(service):
    (end,) = service.vocabulary.ends
    prompt = service.vocabulary.encode("The patient")
    _, pieces = run(service, prompt, sampling=Sampling(temperature=0, logit_bias={end: 100.0}))
    assert pieces == [Piece(0, "", finish_reason="stop")]


def test_special_tokens_are_never_part_of_an_answer(service):
    # The hospital's tasks taught the trunk to answer with them: unhindered, the next token after one of these is one.
    complaints = ("My joints hurt and", "My skin itches.", "I cough, and I have a fever.", "The patient")
    prompts = [service.vocabulary.encode(text) for text in complaints]
    answers = [by_hand(service, prompt, 1) for prompt in prompts]
    is_special = [service.vocabulary.is_special(int(np.argmax(rows[0]))) for _, rows in answers]
    prompt, (tokens, _) = prompts[is_special.index(True)], answers[is_special.index(True)]
    _, pieces = run(service, prompt, max_tokens=8, sampling=GREEDY)
    assert pieces[0].token == tokens[0]
    assert not any(service.vocabulary.is_special(piece.token) for piece in pieces)


def test_a_stop_string_ends_the_answer_before_it(service):
    prompt = service.vocabulary.encode(TEXT)
    _, whole = run(service, prompt, max_tokens=16, sampling=GREEDY)
    text = "".join(piece.text for piece in whole)
    stop = text[3:6]
    _, cut = run(service, prompt, max_tokens=16, sampling=GREEDY, stops=(stop,))
    assert "".join(piece.text for piece in cut) == text[: text.index(stop)]
    assert cut[-1].finish_reason == "stop"
    assert len(cut) < len(whole)


def test_every_byte_sequence_that_a_model_writes_reads_as_utf_8(golden_service):
    vocabulary = golden_service.vocabulary
    _, pieces = run(golden_service, vocabulary.encode("a"), max_tokens=60, sampling=Sampling(seed=3))
    data = b"".join(vocabulary.text_bytes(piece.token) for piece in pieces if piece.token is not None)
    assert "".join(piece.text for piece in pieces) == data.decode(errors="replace")
    assert "\ufffd" in data.decode(errors="replace")  # random weights do write broken characters


def test_what_does_not_fit_is_refused_with_the_numbers(golden_service):
    with pytest.raises(RequestError, match=r"64 tokens.*requested 71 tokens \(11 in the prompt, 60 in the completion"):
        run(golden_service, [1] * 11, max_tokens=60)
    with pytest.raises(RequestError, match=r"requested 65 tokens \(64 in the prompt, 1 in the completion"):
        run(golden_service, [1] * 64)
    _, pieces = run(golden_service, [1] * 60, sampling=Sampling(temperature=0, logit_bias={2: -100.0}))
    assert len(pieces) == 4  # without a limit: to the end of the context


@pytest.mark.parametrize("prompt", [[], [259], [-1]])
def test_tokens_that_do_not_exist_are_refused(golden_service, prompt):
    with pytest.raises(RequestError, match="prompt: "):
        run(golden_service, prompt, max_tokens=1)


def test_work_that_is_cancelled_ends_before_the_next_pass_and_leaves_the_cache_whole(service, hospital):
    prompt = service.vocabulary.encode(TEXT)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(service._generator.run(prompt, Order(), check))
    first, pieces = run(service, prompt, max_tokens=4, sampling=GREEDY, top_logprobs=0)
    assert first.cached_tokens == BLOCK
    assert pieces == run(Service(hospital, cached_prompts=0), prompt, max_tokens=4, sampling=GREEDY, top_logprobs=0)[1]


def test_the_cache_keeps_the_most_recent_prompts_alone(golden):
    cache = PrefixCache(golden.backend, 2)
    for token in (10, 20, 30):
        session = golden.backend.session()
        session.append([token] * 40)
        cache.put([token] * 40, session)
    assert [cache.take([token] * 50).length for token in (10, 20, 30)] == [0, BLOCK, BLOCK]


def test_a_prompt_that_is_kept_whole_still_has_its_last_block_computed(golden):
    cache = PrefixCache(golden.backend, 2)
    session = golden.backend.session()
    session.append([5] * 64)
    cache.put([5] * 64, session)
    assert cache.take([5] * 64).length == BLOCK  # logits of the last position have to come from somewhere


def test_generator_without_a_cache_keeps_nothing(golden_service, golden):
    generator = Generator(golden.backend, golden_service.vocabulary, context_length=64, cached_prompts=0)
    for _ in range(2):
        first, *_ = generator.run([1] * 40, Order(max_tokens=1), lambda: None)
        assert first.cached_tokens == 0
