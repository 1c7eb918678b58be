"""Existing models as bundles: what goes in comes out, signed, and what cannot be run is refused precisely."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")
pytest.importorskip("onnx", reason="graphs are written with onnx, the extra 'train'")

import onnx
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from smallhold.bundle.bring import bundle_from_checkpoint
from smallhold.bundle.gguf import trunk_gguf, write_gguf
from smallhold.bundle.rounding import encode_weight
from smallhold.bundle.weights import ModelWeights, QuantizedWeight, read_weights
from smallhold.decide.local import LocalBundle, open_bundle
from smallhold.device.gguf import read_gguf
from smallhold.device.home import Home, init
from smallhold.errors import BundleError, DataError, InputError, IntegrityError, RecipeError, UnknownTaskError
from smallhold.learn.checkpoint import read_checkpoint
from smallhold.learn.model import Trunk
from smallhold.records import sha256_hex

IDS = [1, 5, 77, 200, 258, 3, 9, 40]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    init(made)
    return made


@pytest.fixture
def source(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A grouped-query Llama with everything that may lie beside a model on the hub."""
    made = make_checkpoint(num_key_value_heads=2)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes((made / name).read_bytes())
    (folder / "LICENSE").write_text("Do as you like.\n")
    marks = {
        "bos_token": {"content": "<bos>", "lstrip": False},
        "eos_token": "<eos>",
        "chat_template": "{{ messages }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    return folder


@pytest.fixture
def bring(tmp_path: Path, home: Home) -> Callable[..., Path]:
    def make(source: Path, out: str = "out.bundle", **options: object) -> Path:
        options = {"home": home, "name": "brought", "progress": lambda caption, done, total: None, **options}
        return bundle_from_checkpoint(source, tmp_path / out, **options)  # type: ignore[arg-type]

    return make


def opened(path: Path, home: Home) -> LocalBundle:
    return open_bundle(path, trusted_keys=home.trust, now=datetime.now(UTC))


def logits_of(bundle: LocalBundle) -> np.ndarray:
    return bundle.backend.session().score(IDS, list(range(len(IDS))))


def torch_logits(folder: Path) -> np.ndarray:
    checkpoint = read_checkpoint(folder)
    trunk = Trunk(checkpoint.config).eval()
    state = {name: torch.from_numpy(array) for name, array in checkpoint.trunk.items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    trunk.load_state_dict(state)
    with torch.no_grad():
        return trunk(trunk.embed(torch.tensor([IDS])))[0].numpy()


def test_a_directory_becomes_a_signed_bundle_that_computes_the_same(
    source: Path, bring: Callable[..., Path], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    steps: list[str] = []
    path = bring(source, bits=32, progress=lambda caption, done, total: steps.append(caption))
    bundle = opened(path, home)
    np.testing.assert_allclose(logits_of(bundle), torch_logits(source), rtol=0, atol=1e-4)
    manifest = bundle.manifest
    assert (manifest.name, manifest.version, manifest.tasks, manifest.training_data) == ("brought", "1.0.0", (), ())
    assert manifest.base_digest == sha256_hex((source / "model.safetensors").read_bytes())
    assert {name: entry.role for name, entry in manifest.files.items()} == {
        "onnx/trunk.onnx": "trunk",
        "tokenizer.json": "tokenizer",
        "card.md": "model card",
        "chat_template.jinja": "chat template",
        "tokenizer_config.json": "tokenizer marks",
        "licences/LICENSE": "licence",
    }
    assert bundle.read("chat_template.jinja") == b"{{ messages }}"
    assert json.loads(bundle.read("tokenizer_config.json")) == {"bos_token": "<bos>", "eos_token": "<eos>"}
    card = bundle.read("card.md").decode()
    for said in ("checkpoint `model`", manifest.base_digest, "| llama |", "float32", "`licences/LICENSE`"):
        assert said in card
    assert str(source.parent) not in card
    assert list(dict.fromkeys(steps)) == [
        "reading the model", "encoding the weights", "writing the graph", "trying it out",
    ]  # fmt: skip


@pytest.mark.parametrize(("bits", "least", "most"), [(16, 0.4, 0.6), (8, 0.2, 0.5), (4, 0.1, 0.45)])
def test_fewer_bits_make_a_smaller_graph(
    source: Path, bring: Callable[..., Path], home: Home, bits: int, least: float, most: float
) -> None:
    whole = (bring(source, "whole", bits=32) / "onnx/trunk.onnx").stat().st_size
    small = bring(source, "small", bits=bits)
    assert least < (small / "onnx/trunk.onnx").stat().st_size / whole < most
    expected = torch_logits(source)
    error = np.linalg.norm(logits_of(opened(small, home)) - expected) / np.linalg.norm(expected)
    assert error < {16: 1e-2, 8: 0.1, 4: 0.5}[bits]


def test_a_bundle_without_a_task_says_so(source: Path, bring: Callable[..., Path], home: Home) -> None:
    with pytest.raises(UnknownTaskError, match="brought: has no task, so it decides nothing") as caught:
        opened(bring(source), home).task("icu-risk")
    assert caught.value.hint == "smallhold serve BUNDLE"


def test_the_oracle_has_no_file_in_it(source: Path, bring: Callable[..., Path], home: Home) -> None:
    with pytest.raises(BundleError, match="has no file for the runtime reference"):
        open_bundle(bring(source), backend="reference", trusted_keys=home.trust)


def test_one_file_unsigned_and_a_shorter_context(source: Path, bring: Callable[..., Path]) -> None:
    path = bring(source, "one.zip", home=None, context=16)
    bundle = open_bundle(path, unsafe_skip_verification=True)
    assert bundle.manifest.context_length == bundle.backend.context_length == 16
    assert "manifest.dsse.json" not in bundle.files.names()
    assert "16 positions of the model's 64" in bundle.read("card.md").decode()


def gguf_of(folder: Path, bits: int) -> bytes:
    weights = read_weights(folder)
    trunk = {name: encode_weight(name, weight, bits) for name, weight in weights.checkpoint.trunk.items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    return trunk_gguf(
        ModelWeights(weights.checkpoint, trunk, {}), name="x", tokens=tokens, special={"<pad>", "<bos>", "<eos>"}
    )


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_a_gguf_file_gives_the_bundle_of_the_checkpoint_that_it_was_made_of(
    source: Path, bring: Callable[..., Path], home: Home, bits: int
) -> None:
    file = source.parent / "model.gguf"
    file.write_bytes(gguf_of(source, bits))
    theirs, ours = opened(bring(file, "gguf", bits=bits), home), opened(bring(source, "plain", bits=bits), home)
    # The very weights: rounding what was rounded before changes nothing but, in 4 bits, the sign of some scales.
    np.testing.assert_allclose(logits_of(theirs), logits_of(ours), rtol=0, atol=1e-4 if bits == 4 else 0)
    text = "Fever of 39.5, two days; naïve?"
    assert theirs.tokenizer.encode(text).ids == ours.tokenizer.encode(text).ids
    assert theirs.tokenizer.decode(theirs.tokenizer.encode(text).ids) == text
    assert theirs.manifest.base_digest == sha256_hex(file.read_bytes())
    assert "GGUF file `model.gguf`" in theirs.read("card.md").decode()
    assert json.loads(theirs.read("tokenizer_config.json"))["eos_token"] == "<eos>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen2"}, "general.architecture: expected 'llama', got 'qwen2'"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model: expected 'gpt2'"),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre: expected one of gpt-2, smollm, llama-bpe, qwen2"),
        ({"tokenizer.ggml.merges": ["abc"]}, "tokens, token_type and merges do not fit together"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type: expected none or linear, got 'yarn'"),
        ({"llama.expert_count": 8}, "a mixture of experts is not supported"),
        ({"llama.block_count": 3}, "tensor blk.2.attn_norm.weight is missing"),
        ({"llama.block_count": 1}, "tensors that plain Llama does not have: blk.1"),
        ({"llama.feed_forward_length": 63}, "gate_proj.weight: expected .63, 32., got .64, 32."),
        ({"llama.attention.head_count": None}, "lacks 'llama.attention.head_count'"),
        ({"llama.attention.head_count": "x"}, "describes no model"),
    ],
)
def test_a_gguf_file_of_another_kind_is_refused_by_name(
    source: Path, bring: Callable[..., Path], change: dict, message: str
) -> None:
    gguf = read_gguf(gguf_of(source, 32))
    meta = {name: value for name, value in (gguf.metadata | change).items() if value is not None}
    file = source.parent / "model.gguf"
    file.write_bytes(write_gguf(meta, dict(gguf.tensors)))
    with pytest.raises((DataError, RecipeError), match=message):
        bring(file)


def test_divisors_of_frequencies_in_a_gguf_file_count(source: Path, bring: Callable[..., Path], home: Home) -> None:
    gguf = read_gguf(gguf_of(source, 32))
    file = source.parent / "model.gguf"
    file.write_bytes(write_gguf(gguf.metadata, {**gguf.tensors, "rope_freqs.weight": np.full(4, 8, np.float32)}))
    config = json.loads((source / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    (source / "config.json").write_text(json.dumps(config))
    ours, theirs = opened(bring(source, "plain", bits=32), home), opened(bring(file, "gguf", bits=32), home)
    np.testing.assert_allclose(logits_of(theirs), logits_of(ours), rtol=0, atol=1e-5)


def test_a_damaged_gguf_file_is_refused(source: Path, bring: Callable[..., Path]) -> None:
    file = source.parent / "model.gguf"
    file.write_bytes(gguf_of(source, 32)[:5000])
    with pytest.raises(DataError, match=r"model\.gguf: "):
        bring(file)


def test_a_graph_of_ours_is_taken_as_it_is(source: Path, bring: Callable[..., Path], home: Home) -> None:
    first = bring(source, bits=8)
    second = bring(first / "onnx" / "trunk.onnx", "again")
    assert (first / "onnx/trunk.onnx").read_bytes() == (second / "onnx/trunk.onnx").read_bytes()
    assert "as in the graph" in opened(second, home).read("card.md").decode()
    with pytest.raises(InputError, match="made for 64 positions, got 32"):
        bring(first / "onnx" / "trunk.onnx", "third", context=32)


def test_a_graph_with_another_cache_is_refused_with_the_reason(source: Path, bring: Callable[..., Path]) -> None:
    float32, names = onnx.TensorProto.FLOAT, ["input_ids", "attention_mask", "past_key_values.0.key"]
    inputs = [onnx.helper.make_tensor_value_info(name, float32, ["a", "b"]) for name in names]
    output = onnx.helper.make_tensor_value_info("logits", float32, ["a", "b"])
    node = onnx.helper.make_node("Identity", ["input_ids"], ["logits"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, [output]))
    folder = source.parent / "genai"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(DataError, match="one pair of cache tensors a layer, as onnxruntime-genai") as caught:
        bring(folder)
    assert "has the inputs input_ids, attention_mask, past_key_values.0.key" in str(caught.value)
    (folder / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match="is not an ONNX file"):
        bring(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "--name: expected letters"),
        ({"bits": 5}, "--bits: expected one of 4, 8, 16, 32, got 5"),
        ({"context": 0}, "--context: expected 1 position or more, got 0"),
        ({"context": 65}, "made for at most 64 positions, got 65"),
    ],
)
def test_impossible_arguments_are_refused(
    source: Path, bring: Callable[..., Path], options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bring(source, **options)


def test_a_version_is_three_numbers(source: Path, bring: Callable[..., Path]) -> None:
    with pytest.raises(IntegrityError, match="version"):
        bring(source, version="1.0")


def test_rows_that_no_group_divides_are_refused_in_few_bits(
    make_checkpoint: Callable[..., Path], bring: Callable[..., Path], home: Home
) -> None:
    folder = make_checkpoint(hidden_size=40, num_attention_heads=4)
    with pytest.raises(InputError, match="rows of 40 weights do not split into groups of 32") as caught:
        bring(folder, bits=4)
    assert caught.value.hint == "use --bits 16 or 32"
    opened(bring(folder, bits=16), home)


def test_weights_that_are_no_numbers_are_refused(source: Path, bring: Callable[..., Path]) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.norm\.weight: holds NaN or infinity"):
        bring(source)


def test_a_tokenizer_of_another_model_is_refused(source: Path, bring: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.add_tokens(["<more>"])
    tokenizer.save(str(source / "tokenizer.json"))
    with pytest.raises(DataError, match="has a token 259, and the model has 259"):
        bring(source)
    (source / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"missing: tokenizer\.json"):
        bring(source)


def test_a_source_that_is_none_is_refused(source: Path, bring: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file or directory"):
        bring(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected a directory with config\.json and safetensors"):
        bring(tmp_path / "empty")


def test_nothing_is_left_when_it_fails_and_nothing_foreign_is_replaced(
    source: Path, bring: Callable[..., Path], tmp_path: Path, home: Home
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())

    def stop(caption: str, done: int, total: int) -> None:
        if caption == "trying it out":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(source, progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="exists and is no bundle"):
        bring(source, "mine")
    with pytest.raises(InputError, match="no key at"):
        bring(source, home=Home(tmp_path / "other-home"))
    assert bring(source).exists()
    assert bring(source, version="1.0.1").exists()  # a bundle of ours is replaced
    assert opened(tmp_path / "out.bundle", home).manifest.version == "1.0.1"


def test_weights_beyond_one_file_are_refused_before_they_are_written(source: Path) -> None:
    from smallhold.bundle.onnx_graph import trunk_onnx

    weights = read_weights(source)
    huge = np.broadcast_to(np.float32(0), (2**15, 2**15))  # 4 GiB that take no memory
    with pytest.raises(InputError, match=r"take 4\.0 GiB, and one ONNX file holds at most 2 GiB"):
        trunk_onnx(replace(weights, trunk={**weights.trunk, "lm_head.weight": huge}))


@pytest.mark.parametrize("bits", [8, 4])
def test_integers_that_were_chosen_before_are_kept(source: Path, bring: Callable[..., Path], bits: int) -> None:
    """A second rounding to the nearest would undo what data-driven rounding (GPTQ) has chosen."""
    name = "model.layers.0.mlp.up_proj.weight"
    weights = load_file(source / "model.safetensors")
    rounded = encode_weight(name, weights[name], bits)
    assert isinstance(rounded, QuantizedWeight)
    chosen = QuantizedWeight(np.clip(rounded.values, -5, 5), rounded.scale, bits)  # no group reaches its end of scale
    weights[name] = chosen.dequantize()
    save_file(weights, source / "model.safetensors")
    stored = {f"trunk/{name}.values": chosen.values, f"trunk/{name}.scale": chosen.scale}
    save_file(stored | {f"trunk/{name}.bits": np.array([bits])}, source / "quantized.safetensors")

    def holds_chosen(bundle: Path) -> bool:
        graph = onnx.load(bundle / "onnx" / "trunk.onnx")
        scales = np.sort(chosen.scale.astype(np.float32).reshape(-1))
        found = (onnx.numpy_helper.to_array(item).reshape(-1) for item in graph.graph.initializer)
        return any(item.dtype == np.float32 and np.isin(scales, item).all() for item in found)

    assert holds_chosen(bring(source, bits=bits))
    assert not holds_chosen(bring(source, "other.bundle", bits=12 - bits))
    (source / "quantized.safetensors").unlink()
    assert not holds_chosen(bring(source, "rounded.bundle", bits=bits))
