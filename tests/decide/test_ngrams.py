from __future__ import annotations

import io
import math
import sys
import time
import unicodedata
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.decide.ngrams import MOST_CHARACTERS, NGramClassifier, NGramSpec
from smallhold.errors import DataError, InputError, ShapeError

SPEC = NGramSpec(word_buckets=61, char_buckets=127, word_share=0.25)
WITH_PUNCTUATION = replace(SPEC, keeps_punctuation=True)
# Unicode's White_Space, and what Python adds to it.
WHITE_SPACE = {*"\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B))}
WHITE_SPACE |= set("\x1c\x1d\x1e\x1f")


def classifier(seed: int = 0, spec: NGramSpec = SPEC, choices: int = 3) -> NGramClassifier:
    rng = np.random.default_rng(seed)
    buckets = spec.word_buckets + spec.char_buckets
    return NGramClassifier(
        spec=spec,
        idf=rng.uniform(1, 5, buckets).astype(np.float16),
        values=rng.integers(-127, 128, (buckets, choices)).astype(np.int8),
        scale=rng.uniform(0.01, 0.1, choices).astype(np.float32),
        bias=rng.normal(size=choices).astype(np.float32),
    )


def slow_words(text: str, *, keeps_punctuation: bool) -> list[str]:
    """Character by character, from the categories that the specification names."""
    words, read, is_link = [""], text[:MOST_CHARACTERS].lower(), False
    for i, letter in enumerate(read):
        if keeps_punctuation:
            is_link = letter not in WHITE_SPACE and (is_link or read[i:].startswith(("http://", "https://")))
        if unicodedata.category(letter)[0] in "LN" and not is_link:
            words[-1] += letter
        elif keeps_punctuation and not is_link and letter not in WHITE_SPACE:
            words += [letter, ""]
        else:
            words.append("")
    return [word for word in words if word]


def slow_logits(model: NGramClassifier, text: str) -> list[float]:
    """The specification of `decide/ngrams.py`, line by line, in Python's own numbers."""
    words, spec = slow_words(text, keeps_punctuation=model.spec.keeps_punctuation), model.spec
    blocks: list[dict[int, int]] = [{}, {}]

    def hit(block: int, kind: bytes, gram: str) -> None:
        digest = zlib.crc32(kind + gram.encode("utf-8"))
        bucket = digest % spec.word_buckets if block == 0 else spec.word_buckets + digest % spec.char_buckets
        blocks[block][bucket] = blocks[block].get(bucket, 0) + 1

    for i, word in enumerate(words):
        hit(0, b"w", word)
        if i:
            hit(0, b"b", f"{words[i - 1]} {word}")
        padded = f" {word} "
        for order in (3, 4, 5):
            for start in range(len(padded) - order + 1):
                hit(1, b"c", padded[start : start + order])
    logits = [float(x) for x in model.bias]
    for block, share in zip(blocks, (spec.word_share, 1 - spec.word_share), strict=True):
        value = {bucket: (1 + math.log(n)) * float(model.idf[bucket]) for bucket, n in block.items()}
        length = math.sqrt(sum(x * x for x in value.values()))
        for bucket, x in value.items():
            for k in range(len(logits)):
                step = float(model.scale[k]) * int(model.values[bucket, k])
                logits[k] += math.sqrt(share) * x / length * step
    return logits


def test_features_by_hand() -> None:
    spec = NGramSpec(word_buckets=1 << 20, char_buckets=1 << 20, word_share=0.5)
    buckets, values = spec.features("Ab, ab!", np.ones(1 << 21, np.float32))
    word, pair = zlib.crc32(b"wab") % 2**20, zlib.crc32(b"bab ab") % 2**20
    found = dict(zip(buckets.tolist(), values.tolist(), strict=True))
    length = math.hypot(1 + math.log(2), 1)
    assert found[word] == pytest.approx((1 + math.log(2)) / length * math.sqrt(0.5))
    assert found[pair] == pytest.approx(1 / length * math.sqrt(0.5))
    runs = {2**20 + zlib.crc32(gram) % 2**20 for gram in (b"c ab", b"cab ", b"c ab ")}
    assert set(buckets.tolist()) == {word, pair, *runs}
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the check value of CRC-32/ISO-HDLC, for other languages


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            ["Fieber", "été", "ЖАР", "ΟΔΟΣ", "İstanbul", "x²", "東京", "_a_", "3.5mg", "naïve", "a\u0301", "\u200b"]
        )
        | st.sampled_from(["$AAPL", "+3%", "HTTPS://t.co/x1", "http:/", "http://", "\x1f", "\u2029"])
        | st.text(max_size=6),
        max_size=12,
    ),
    st.sampled_from([" ", ", ", "\n", ""]),
    st.sampled_from([SPEC, WITH_PUNCTUATION]),
)
def test_every_logit_is_that_of_the_slow_twin(parts: list[str], between: str, spec: NGramSpec) -> None:
    text, model = between.join(parts), classifier(spec=spec)
    try:
        text.encode()
    except UnicodeEncodeError:  # refused before it comes here
        return
    assert spec.words(text) == slow_words(text, keeps_punctuation=spec.keeps_punctuation)
    np.testing.assert_allclose(model.logits(text), slow_logits(model, text), atol=1e-4)


def test_symbols_are_words_and_links_are_none_where_punctuation_is_kept() -> None:
    text = "$AAPL +3.7%: Read_more HTTPS://t.co/x1?a=b\nnow!"
    assert SPEC.words(text) == ["aapl", "3", "7", "read", "more", "https", "t", "co", "x1", "a", "b", "now"]
    read = WITH_PUNCTUATION.words(text)
    assert read == ["$", "aapl", "+", "3", ".", "7", "%", ":", "read", "_", "more", "now", "!"]


def test_white_space_is_what_the_specification_says() -> None:
    kept = {chr(i) for i in range(sys.maxunicode + 1) if not WITH_PUNCTUATION.words(chr(i))}
    assert kept == WHITE_SPACE


def test_a_text_without_words_says_what_the_bias_says() -> None:
    model = classifier()
    for text in ("", "  \n", "?!, _ -- €"):
        np.testing.assert_array_equal(model.logits(text), model.bias)


def test_what_lies_behind_the_limit_is_not_read() -> None:
    model, head = classifier(), "ab " * (MOST_CHARACTERS // 3) + "z" * (MOST_CHARACTERS % 3)
    np.testing.assert_array_equal(model.logits(head + " fever" * 100), model.logits(head))


@pytest.mark.parametrize("spec", [SPEC, WITH_PUNCTUATION])
def test_a_classifier_survives_its_file_and_the_file_is_the_same_every_time(spec: NGramSpec) -> None:
    model = classifier(1, spec)
    data = model.to_bytes()
    again = NGramClassifier.from_bytes(data)
    assert again.to_bytes() == data
    assert again.spec == model.spec
    np.testing.assert_array_equal(again.logits("cough, and fever!"), model.logits("cough, and fever!"))


def test_a_reader_that_knows_no_punctuation_finds_no_buckets() -> None:
    members = {spec: set(np.load(io.BytesIO(classifier(spec=spec).to_bytes()))) for spec in (SPEC, WITH_PUNCTUATION)}
    assert members[SPEC] - members[WITH_PUNCTUATION] == {"buckets"}
    assert members[SPEC] == {"buckets", "word_share", "idf", "values", "scale", "bias"}


def changed(**members: Any) -> bytes:
    model, out = classifier(), io.BytesIO()
    stored = {
        "buckets": np.array([61, 127]),
        "word_share": np.array(0.25),
        **{name: getattr(model, name) for name in ("idf", "values", "scale", "bias")},
    }
    np.savez(out, **{name: value for name, value in {**stored, **members}.items() if value is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "malformed file"),
        (classifier().to_bytes()[:-30], "malformed file"),
        (changed(scale=None), "malformed file"),
        (changed(idf=np.ones(188, np.float64)), "unexpected types"),
        (changed(idf=np.array([object()] * 188, dtype=object)), "malformed file"),
        (changed(buckets=np.array([61])), "malformed file"),
        (changed(buckets=np.array([61, 126])), "malformed file: n-grams: expected idf"),
        (changed(buckets=np.array([0, 188])), "malformed file: n-grams: expected one or more buckets"),
        (changed(word_share=np.array(np.nan)), "malformed file: n-grams: expected one or more buckets"),
        (changed(bias=np.array([0, np.inf, 0], np.float32)), "idf, scale and bias must be finite"),
    ],
)
def test_a_file_that_is_no_classifier_is_refused_and_nothing_is_unpickled(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        NGramClassifier.from_bytes(data)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    model = classifier()
    with pytest.raises(ShapeError, match="n-grams: expected idf"):
        NGramClassifier(spec=SPEC, idf=model.idf[:-1], values=model.values, scale=model.scale, bias=model.bias)
    with pytest.raises(InputError, match="n-grams: expected one or more buckets and a share"):
        NGramSpec(word_share=1.5)


def test_a_note_of_three_thousand_characters_takes_less_than_ten_milliseconds() -> None:
    rng = np.random.default_rng(0)
    model = classifier(spec=NGramSpec(), choices=40)
    letters = "abcdefghijklmnopqrstuvwxyz"
    spent = []
    for _ in range(25):  # words that were never seen, so that nothing is remembered
        note = " ".join("".join(rng.choice(list(letters), 6)) for _ in range(430))
        begun = time.process_time()
        model.logits(note)
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.010  # what else the machine is doing only ever adds
