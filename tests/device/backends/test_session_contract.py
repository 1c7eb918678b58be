"""What every runtime promises, asked of each of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallhold.device.backends import Backend, Session
from smallhold.errors import CapacityError, ShapeError

# Of the largest logit. Chunked and whole prefill sum the same float32 numbers in another order, no more.
TOLERANCE = 1e-5
# Where activations are rounded to 8 bits, that last digit sometimes tips one over to the next step. The product itself
# treats every row alone (`test_eight_bit_products_do_not_depend_on_the_other_rows`), so no error grows with the chunk.
TOLERANCE_INT8_ACTIVATIONS = 0.02


@pytest.fixture(
    scope="module",
    params=[
        (runtime, shape, is_quantized)
        for runtime in ("reference", "onnx_runtime", "engine")
        for shape in ("full attention", "grouped queries")
        for is_quantized in (False, True)
    ],
    ids=lambda p: f"{p[0]}-{p[1].replace(' ', '_')}-{'int8' if p[2] else 'fp32'}",
)
def backend(request: pytest.FixtureRequest, load: Callable[..., Backend]) -> Backend:
    runtime, shape, is_quantized = request.param
    return load(runtime, shape, is_quantized=is_quantized)


def embeddings(backend: Backend, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, backend.width)).astype(np.float32)


def last(session: Session) -> np.ndarray:
    return session.score([], [-1])[0]


def started(backend: Backend, tokens: list[int]) -> Session:
    session = backend.session()
    session.append(tokens)
    return session


def close(backend: Backend, a: np.ndarray, b: np.ndarray) -> None:
    tolerance = TOLERANCE_INT8_ACTIVATIONS if backend.rounds_activations else TOLERANCE  # type: ignore[attr-defined]
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


def test_length_counts_positions(backend: Backend) -> None:
    session = backend.session()
    assert session.length == 0
    session.append([1, 2, 3])
    session.append(embeddings(backend, 2))
    assert session.length == 5
    session.append([])
    assert session.length == 5
    assert session.kv_bytes > 0


def test_scoring_reads_what_appending_would(backend: Backend) -> None:
    session = started(backend, [5, 6, 7])
    logits = session.score([8, 9], [-1, 0, 1])
    assert logits.shape == (3, backend.vocab_size)
    assert logits.dtype == np.float32
    close(backend, logits[0], last(session))
    for tokens, row in (([8], 1), ([8, 9], 2)):
        close(backend, logits[row], last(started(backend, [5, 6, 7, *tokens])))


def test_scoring_leaves_the_sequence_as_it_was(backend: Backend) -> None:
    asked, silent = started(backend, [5, 6, 7]), started(backend, [5, 6, 7])
    before = last(asked)
    asked.score([1, 2, 3, 4], [3])
    asked.score(embeddings(backend, 3), [0, 2])
    asked.score([9], [])
    assert asked.length == 3
    np.testing.assert_array_equal(last(asked), before)
    for session in (asked, silent):
        session.append([8])
    np.testing.assert_array_equal(last(asked), last(silent))


def test_rows_are_those_of_the_whole(backend: Backend) -> None:
    session = started(backend, [5, 6])
    whole = session.score([7, 8], [-1, 1])
    np.testing.assert_array_equal(session.score([7, 8], [-1, 1], [9, 0, 9]), whole[:, [9, 0, 9]])
    assert session.score([7], [0], []).shape == (1, 0)
    for row in (-1, backend.vocab_size):
        with pytest.raises(ShapeError, match=rf"rows: ids must lie in \[0, {backend.vocab_size}\), got {row}"):
            session.score([7], [0], [row])


def test_positions_may_be_asked_in_any_order_and_twice(backend: Backend) -> None:
    session = started(backend, [5])
    logits = session.score([6, 7, 8], [2, 0, -1, 0])
    np.testing.assert_array_equal(logits[1], logits[3])
    np.testing.assert_array_equal(logits[0], session.score([6, 7, 8], [2])[0])
    assert session.score([6], []).shape == (0, backend.vocab_size)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 39), max_size=6, unique=True).map(sorted), seed=st.integers(0, 5))
def test_chunked_and_whole_prefill_agree(backend: Backend, cuts: list[int], seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, backend.vocab_size, 40).tolist()
    whole, chunked = started(backend, tokens), backend.session()
    for start, end in zip([0, *cuts], [*cuts, 40], strict=True):
        chunked.append(tokens[start:end])
    close(backend, last(chunked), last(whole))
    close(backend, chunked.score([3, 4], [0, 1]), whole.score([3, 4], [0, 1]))


def test_one_position_at_a_time_agrees_with_all_in_one_pass(backend: Backend) -> None:
    inputs = embeddings(backend, 49)
    whole = backend.session().score(inputs, list(range(49)))
    session = backend.session()
    for i in range(49):
        session.append(inputs[i : i + 1])
        close(backend, last(session), whole[i])


def test_both_doors_lead_to_one_sequence(backend: Backend) -> None:
    vectors = embeddings(backend, 3)
    mixed = backend.session()
    mixed.append(vectors[:2])
    mixed.append([17, 18])
    mixed.append(vectors[2:])
    again = backend.session()
    again.append(vectors[:1])
    again.append(vectors[1:2])
    again.append([17])
    close(backend, again.score([18], [0])[0], _behind(backend, vectors))
    again.append([18])
    again.append(vectors[2:])
    close(backend, last(again), last(mixed))


def _behind(backend: Backend, vectors: np.ndarray) -> np.ndarray:
    session = backend.session()
    session.append(vectors[:2])
    session.append([17, 18])
    return last(session)


def test_an_earlier_position_never_sees_a_later_one(backend: Backend) -> None:
    session = started(backend, [5, 6])
    close(backend, session.score([7, 8, 9], [0])[0], session.score([7, 200, 201], [0])[0])


def test_a_rewound_sequence_is_as_if_the_rest_had_never_been(backend: Backend) -> None:
    session = started(backend, [5, 6, 7, 8])
    session.rewind(2)
    assert session.length == 2
    session.append([9])
    close(backend, last(session), last(started(backend, [5, 6, 9])))
    session.rewind(0)
    session.append([5, 6])
    close(backend, last(session), last(started(backend, [5, 6])))


def test_the_last_logits_are_known_only_directly_after_an_append(backend: Backend) -> None:
    session = backend.session()
    message = "-1 is known only directly after an append"
    with pytest.raises(ShapeError, match=message):
        session.score([], [-1])
    session.append([1, 2])
    session.rewind(2)  # nothing is forgotten
    session.score([], [-1])
    session.rewind(1)
    with pytest.raises(ShapeError, match=message):
        session.score([3], [-1, 0])
    session.append([])  # adds nothing, so tells nothing
    with pytest.raises(ShapeError, match=message):
        session.score([], [-1])
    session.append([2])
    session.score([], [-1])


def test_a_fork_is_independent(backend: Backend) -> None:
    trunk = started(backend, [5, 6, 7])
    fork = trunk.fork()
    np.testing.assert_array_equal(last(fork), last(trunk))
    fork.append([8, 9])
    trunk.append([10])
    close(backend, last(fork), last(started(backend, [5, 6, 7, 8, 9])))
    close(backend, last(trunk), last(started(backend, [5, 6, 7, 10])))
    fork.rewind(1)
    assert (trunk.length, fork.length) == (4, 1)
    fork.append([11])
    close(backend, last(trunk), last(started(backend, [5, 6, 7, 10])))


def test_sessions_of_one_backend_do_not_share_anything(backend: Backend) -> None:
    sessions = [backend.session() for _ in range(3)]
    for step in range(5):
        for i, session in enumerate(sessions):
            session.append([10 * i + step])
    for i, session in enumerate(sessions):
        close(backend, last(session), last(started(backend, [10 * i + step for step in range(5)])))


def test_a_full_context_refuses_more_and_stays_usable(backend: Backend) -> None:
    session = started(backend, [i % 50 for i in range(backend.context_length - 1)])
    before = last(session)
    for call in (session.append, lambda inputs: session.score(inputs, [0])):
        with pytest.raises(CapacityError, match=r"63 positions and 2 more exceed the context length 64"):
            call([1, 2])
    assert session.length == backend.context_length - 1
    np.testing.assert_array_equal(last(session), before)
    session.append([3])
    assert session.length == backend.context_length
    with pytest.raises(CapacityError, match="64 positions and 1 more"):
        session.append(embeddings(backend, 1))
    session.rewind(10)
    session.append([1, 2])


def test_inputs_that_do_not_fit_are_refused_and_change_nothing(backend: Backend) -> None:
    session = started(backend, [5])
    before = last(session)
    width, vocab = backend.width, backend.vocab_size
    for inputs, message in (
        ([vocab], rf"ids must lie in \[0, {vocab}\), got {vocab} to {vocab}"),
        ([-1], r"ids must lie in"),
        ([1.5], r"expected \(T,\) integers"),
        (np.zeros((2, 2), np.int64), r"expected \(T,\) integers, got shape \(2, 2\)"),
        (np.zeros((1, width + 1), np.float32), rf"embeddings: expected \(T, {width}\) float32, got \(1, {width + 1}\)"),
        (np.zeros(width, np.float32), "embeddings: expected"),
        (np.zeros((1, width)), r"expected \(T,\) integers, got shape .* of float64"),
    ):
        with pytest.raises(ShapeError, match=message):
            session.append(inputs)  # type: ignore[arg-type]
        with pytest.raises(ShapeError, match=message):
            session.score(inputs, [0])  # type: ignore[arg-type]
    for at in (2, -2):
        with pytest.raises(ShapeError, match=rf"at: expected indices in \[-1, 2\), got {at}"):
            session.score([1, 2], [at])
    with pytest.raises(ShapeError, match=r"at: expected indices in \[-1, 0\), got 0"):
        session.score([], [0])
    assert session.length == 1
    np.testing.assert_array_equal(last(session), before)


@pytest.mark.parametrize("to", [-1, 3])
def test_a_rewind_to_a_place_that_does_not_exist_is_refused(backend: Backend, to: int) -> None:
    session = started(backend, [1, 2])
    with pytest.raises(ShapeError, match=rf"rewind: expected a length in \[0, 2\], got {to}"):
        session.rewind(to)
    assert session.length == 2


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 9)),
            st.tuples(st.just("score"), st.integers(1, 9)),
            st.tuples(st.just("rewind"), st.integers(0, 9)),
            st.tuples(st.just("fork"), st.just(0)),
        ),
        max_size=12,
    )
)
def test_any_sequence_of_calls_equals_a_fresh_sequence_of_what_is_left(
    backend: Backend, steps: list[tuple[str, int]]
) -> None:
    session, kept = started(backend, [1]), [1]
    for number, (kind, amount) in enumerate(steps):
        tokens = [(31 * number + i) % 250 for i in range(amount)]
        if kind == "append" and len(kept) + amount < backend.context_length:
            session.append(tokens)
            kept += tokens
        elif kind == "score" and len(kept) + amount < backend.context_length:
            session.score(tokens, [amount - 1])
        elif kind == "rewind":
            kept = kept[: max(1, len(kept) - amount)]
            session.rewind(len(kept))
        elif kind == "fork":
            abandoned, session = session, session.fork()
            abandoned.append([77])
    assert session.length == len(kept)
    close(backend, session.score([42], [0]), started(backend, kept).score([42], [0]))


def test_most_positions_agree_to_the_last_digits_even_with_8_bit_activations(backend: Backend) -> None:
    errors = []
    for seed in range(6):
        inputs = embeddings(backend, 12, seed)
        whole, session = backend.session().score(inputs, list(range(12))), backend.session()
        for i in range(12):
            session.append(inputs[i : i + 1])
            errors.append(np.abs(last(session) - whole[i]).max() / np.abs(whole[i]).max())
    assert np.median(errors) < TOLERANCE
