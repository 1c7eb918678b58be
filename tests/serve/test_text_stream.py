from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from smallhold.serve.text_stream import TextStream


def said(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    texts = []
    for piece in pieces:
        texts.append(stream.push(piece))
        if stream.is_stopped:
            return texts, True
    return [*texts, stream.finish()], stream.is_stopped


def slow(text: str, stops: tuple[str, ...]) -> str:
    """Character by character: the first stop string to be complete ends the text before its beginning."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def test_a_character_waits_for_its_last_byte():
    assert said(["é".encode()[:1], "é".encode()[1:], b"!"]) == (["", "é", "!", ""], False)


def test_half_a_character_at_the_end_becomes_the_replacement_character():
    assert said([b"a", "€".encode()[:2]]) == (["a", "", "\ufffd"], False)


def test_a_stop_string_over_three_tokens_is_never_sent():
    assert said([b"yes\n", b"Us", b"er", b": no"], ("\nUser:",)) == (["yes", "", "", ""], True)


def test_nothing_follows_a_stop_string_not_even_half_a_character():
    stream = TextStream(("stop",))
    assert (stream.push(b"a stop" + "é".encode()[:1]), stream.finish()) == ("a ", "")


def test_what_only_looked_like_a_stop_string_is_sent():
    assert said([b"yes\nU", b"p"], ("\nUser:",)) == (["yes", "\nUp", ""], False)
    assert said([b"aa", b"aab"], ("aab",)) == (["", "aa"], True)


def test_the_first_stop_string_to_be_complete_counts_wherever_tokens_end():
    assert "".join(said([b"xabcX"], ("abcX", "bc"))[0]) == "xa"
    assert "".join(said([bytes([one]) for one in b"xabcX"], ("abcX", "bc"))[0]) == "xa"


@given(st.lists(st.binary(max_size=4), max_size=12))
def test_pieces_joined_are_what_the_whole_bytes_decode_to(pieces):
    assert "".join(said(pieces)[0]) == b"".join(pieces).decode(errors="replace")


@given(st.text("abé", max_size=12), st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_stop_strings_are_found_as_the_slow_way_finds_them(text, stops, data):
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=6)))
    edges = [0, *cuts, len(encoded)]
    pieces = [encoded[a:b] for a, b in pairwise(edges)]
    texts, is_stopped = said(pieces, tuple(stops))
    assert "".join(texts) == slow(text, tuple(stops))
    assert is_stopped == any(stop in text for stop in stops)
