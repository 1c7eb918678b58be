from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="a base model is measured with torch, the extra 'train'")

import torch
from tokenizers import Tokenizer, normalizers

from smallhold.errors import DataError, InputError
from smallhold.evaluate.language import (
    LanguageModel,
    bits_per_byte,
    encode_exactly,
    evenly_spaced,
    load_language_model,
    sample_texts,
)
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk, TrunkConfig
from smallhold.teach.vocabulary import byte_tokenizer, train_tokenizer

TEXTS = [
    "The heart pumps blood. " * 5,
    "Кровь течёт по сосудам.",
    "",
    "Le cœur bat; le sang circule — « déjà ».\n\n",
    "a",
    "The patient was seen at 10:30 and felt better; the heart was normal. " * 3,
]


def random_trunk(vocab_size: int, *, context: int = 16, seed: int = 0, **changes: object) -> Trunk:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": context, **changes}
    trunk = Trunk(TrunkConfig(vocab_size=vocab_size, **shape)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.mul_(6.0 if parameter.ndim == 2 else 1.0)  # far from uniform, so that a wrong context shows
    return trunk


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=330)


def slow_nats(trunk: Trunk, ids: list[int], bos: int, context: int) -> tuple[float, list[int]]:
    """One forward pass for each token; also how many tokens, the opening mark included, each was predicted from."""
    nats, seen = 0.0, []
    sequence = [bos, *ids]
    first = 0
    while first < len(ids):
        stop = min(len(ids), context if first == 0 else first + context // 2)
        for position in range(first, stop):
            window = torch.tensor([sequence[max(0, stop - context) : position + 1]])
            with torch.no_grad():
                logits = trunk(trunk.model.embed_tokens(window))[0, -1]  # type: ignore[operator]
            nats -= float(torch.log_softmax(logits.double(), -1)[ids[position]])
            seen.append(window.shape[1])
        first = stop
    return nats, seen


@pytest.mark.parametrize("context", [2, 5, 8, 16])
def test_the_slow_twin_agrees(tokenizer: Tokenizer, context: int) -> None:
    trunk = random_trunk(330)
    score = bits_per_byte(trunk, tokenizer, TEXTS, context=context)
    documents = encode_exactly(tokenizer, TEXTS)
    slow = [slow_nats(trunk, ids.tolist(), 1, context) for ids in documents]
    np.testing.assert_allclose(score.nats, [nats for nats, _ in slow], rtol=1e-4)
    assert score.num_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    # Each token once, and none from less than half a window unless its document had no more.
    assert score.num_tokens == sum(len(seen) for _, seen in slow) == sum(map(len, documents))
    for _, seen in slow:
        assert all(num >= min(position + 1, context // 2) for position, num in enumerate(seen))
    expected = sum(nats for nats, _ in slow) / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert score.bits_per_byte == pytest.approx(expected, rel=1e-4)


def test_a_model_that_knows_nothing_costs_the_same_for_each_token() -> None:
    trunk = random_trunk(259, context=8)
    torch.nn.init.zeros_(trunk.lm_head.weight)
    score = bits_per_byte(trunk, byte_tokenizer(), ["abcdefghijklmnopqrst", "é"])
    np.testing.assert_allclose(score.nats, [20 * math.log(259), 2 * math.log(259)], rtol=1e-6)
    assert score.bits_per_byte == pytest.approx(math.log2(259))


def test_a_vocabulary_twice_as_large_and_unused_costs_what_it_takes() -> None:
    """Probability on tokens that text never spells is lost: it is not divided among the others."""
    small, large = random_trunk(259), random_trunk(518)
    for trunk in (small, large):
        torch.nn.init.zeros_(trunk.lm_head.weight)
    one, two = (bits_per_byte(trunk, byte_tokenizer(), TEXTS).bits_per_byte for trunk in (small, large))
    assert two - one == pytest.approx(1.0, abs=1e-6)


def test_a_longer_window_helps_a_model_that_looks_back(tokenizer: Tokenizer) -> None:
    trunk = random_trunk(330, context=32)
    ids = encode_exactly(tokenizer, [TEXTS[0]])[0]
    optimizer = torch.optim.Adam(trunk.parameters(), lr=3e-3)
    inputs, targets = torch.from_numpy(np.append([1], ids[:-1]))[None, :32], torch.from_numpy(ids)[:32]
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(trunk(trunk.model.embed_tokens(inputs))[0], targets)  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    short, long = (bits_per_byte(trunk, tokenizer, [TEXTS[0]], context=n).bits_per_byte for n in (2, 32))
    assert long < 0.5 * short


def test_the_order_and_the_company_of_documents_do_not_matter(tokenizer: Tokenizer) -> None:
    trunk = random_trunk(330)
    together = bits_per_byte(trunk, tokenizer, TEXTS).nats
    np.testing.assert_allclose(bits_per_byte(trunk, tokenizer, TEXTS[::-1]).nats[::-1], together, rtol=1e-5)
    for text, nats in zip(TEXTS, together, strict=True):
        if text:
            assert bits_per_byte(trunk, tokenizer, [text]).nats[0] == pytest.approx(nats, rel=1e-5)
    assert together.tobytes() == bits_per_byte(trunk, tokenizer, TEXTS).nats.tobytes()


def test_progress_ends_at_the_last_token_and_the_mode_is_given_back(tokenizer: Tokenizer) -> None:
    trunk = random_trunk(330).train()
    calls: list[tuple[int, int]] = []
    score = bits_per_byte(trunk, tokenizer, TEXTS * 20, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (score.num_tokens, score.num_tokens)
    assert len(calls) > 1
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert trunk.training


def test_a_tokenizer_that_loses_something_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(DataError, match="text 1 of 2 is not the same after encoding and decoding"):
        bits_per_byte(random_trunk(259), tokenizer, ["lower", "Upper"])


def test_impossible_requests_are_refused(tokenizer: Tokenizer) -> None:
    trunk = random_trunk(330)
    for context in (1, 17):
        with pytest.raises(InputError, match=f"between 2 and 16, the model's own; got {context}"):
            bits_per_byte(trunk, tokenizer, TEXTS, context=context)
    with pytest.raises(DataError, match="got 1 empty ones"):
        bits_per_byte(trunk, tokenizer, [""])


def test_evenly_spaced_keeps_the_share_of_each_source() -> None:
    texts = ["b" * 1000] * 50 + ["a" * 100] * 500
    chosen = evenly_spaced(texts, 20_000)
    assert sum(map(len, chosen)) <= 20_000
    assert sum(map(len, chosen)) > 18_000
    assert 9 <= sum(text[0] == "b" for text in chosen) <= 11
    assert evenly_spaced(texts, 10**6) == texts
    assert evenly_spaced(["é" * 10, "x"], 5) == ["x"]
    with pytest.raises(InputError, match="max_bytes is too small for any text: got 99, the texts have 100 or more"):
        evenly_spaced(texts, 99)


# Checkpoints


def write_checkpoint(folder: Path, trunk: Trunk, tokenizer: Tokenizer, **about: object) -> Path:
    save_trunk(trunk, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "smallhold.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, tokenizer: Tokenizer, is_tied: bool) -> None:
    trunk = random_trunk(330, tie_word_embeddings=is_tied)
    model = load_language_model(write_checkpoint(tmp_path, trunk, tokenizer))
    assert model.bos == 1
    assert not model.trunk.training
    expected = bits_per_byte(trunk, tokenizer, TEXTS).nats
    assert bits_per_byte(model.trunk, model.tokenizer, TEXTS).nats.tobytes() == expected.tobytes()


def test_a_checkpoint_in_half_precision_is_measured_in_single(tmp_path: Path, tokenizer: Tokenizer) -> None:
    trunk = random_trunk(330)
    folder = write_checkpoint(tmp_path, trunk, tokenizer)
    save_trunk(trunk, folder, dtype=torch.float16)
    model = load_language_model(folder)
    assert {p.dtype for p in model.trunk.parameters()} == {torch.float32}
    ours, theirs = (bits_per_byte(one, tokenizer, TEXTS).bits_per_byte for one in (model.trunk, trunk))
    assert ours == pytest.approx(theirs, rel=5e-3)
    assert ours != theirs


def test_parts_of_a_checkpoint_that_do_not_fit_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write_checkpoint(tmp_path, random_trunk(300), tokenizer)
    with pytest.raises(DataError, match=r"expected at most the 300 tokens of config\.json, got 330"):
        load_language_model(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json: truncated or malformed"):
        load_language_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: cannot be read: No such file"):
        load_language_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(DataError, match=r"tensors do not fit config\.json"):
        load_language_model(folder)


@pytest.mark.parametrize("is_tied", [True, False])
def test_transformers_reads_the_checkpoint_agrees_and_trains_on(
    tmp_path: Path, tokenizer: Tokenizer, is_tied: bool
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers reads the checkpoint, the extra 'test'")
    trunk = random_trunk(330, tie_word_embeddings=is_tied, context=64)
    write_checkpoint(tmp_path, trunk, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True, dtype=torch.float32)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    ids = torch.from_numpy(encode_exactly(tokenizer, [TEXTS[5]])[0])[None, :48]
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.eval()(ids).logits,
            trunk(trunk.model.embed_tokens(ids)),  # type: ignore[operator]
            atol=1e-4,
            rtol=1e-4,
        )
    theirs.train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)
    before = theirs(ids, labels=ids).loss
    before.backward()
    optimizer.step()
    assert theirs(ids, labels=ids).loss.item() < before.item() - 1e-3
    # And back: what transformers saves, we read.
    theirs.save_pretrained(tmp_path / "back")
    (tmp_path / "back" / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
    ours = load_language_model(tmp_path / "back").trunk
    with torch.no_grad():
        torch.testing.assert_close(
            ours(ours.model.embed_tokens(ids)),  # type: ignore[operator]
            theirs.eval()(ids).logits,
            atol=1e-4,
            rtol=1e-4,
        )


# Samples


def test_samples_follow_the_models_probabilities() -> None:
    """A head that looks at nothing but its bias direction: the share of each byte in samples is its probability."""
    trunk = random_trunk(259, context=40)
    tokenizer = byte_tokenizer()
    with torch.no_grad():
        trunk.lm_head.weight.zero_()
    model = LanguageModel(trunk, tokenizer, 1)
    texts = sample_texts(model, num_texts=50, num_tokens=40, seed=0)
    assert texts == sample_texts(model, num_texts=50, num_tokens=40, seed=0)
    assert texts != sample_texts(model, num_texts=50, num_tokens=40, seed=1)
    # Three of 259 tokens are marks, so a text lasts 40 tokens with probability (256 / 259) ** 40 = .63.
    digits = sum(text.count(digit) for text in texts for digit in "0123456789")
    num_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    assert 0 < digits < 0.08 * num_bytes
    with pytest.raises(InputError, match="between 1 and 40, the model's context; got 41"):
        sample_texts(model, num_texts=1, num_tokens=41, seed=0)


@pytest.mark.data
def test_stories260k_is_at_home_in_its_own_stories(tmp_path: Path) -> None:
    source = Path(os.environ.get("SMALLHOLD_DATA", "")) / "weights" / "stories260K"
    if "SMALLHOLD_DATA" not in os.environ or not (source / "stories260K.bin").exists():
        pytest.skip("weights/stories260K is missing: set SMALLHOLD_DATA to the folder of the data sets")
    from smallhold.learn.llama2c import convert_llama2c

    convert_llama2c(source / "stories260K.bin", source / "tok512.bin", tmp_path)
    model = load_language_model(tmp_path)
    stories = sample_texts(model, num_texts=4, num_tokens=100, seed=0)
    own = bits_per_byte(model.trunk, model.tokenizer, stories).bits_per_byte
    foreign = bits_per_byte(
        model.trunk, model.tokenizer, ["The glomerular filtration rate falls when the renal artery narrows."]
    ).bits_per_byte
    assert own < 1.2  # some 0.9 on its training ground
    assert foreign > 2 * own
