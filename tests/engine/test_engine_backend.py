"""The engine beside the oracle, torch and transformers; pieces beside the whole; damaged files beside good ones."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="models are made with torch, the extra 'train'")

import torch
from tests.engine_library import MOST_APART, build_engine

from smallhold.bundle.gguf import trunk_gguf, write_gguf
from smallhold.bundle.weights import read_weights
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.decide.local import open_bundle
from smallhold.decide.signal_encoder import SignalEncoder
from smallhold.device.backends import engine
from smallhold.device.backends.engine import EngineBackend, kernel_families
from smallhold.device.backends.reference import ReferenceBackend
from smallhold.errors import BackendError, CapacityError, ShapeError

MODELS = Path(__file__).resolve().parents[2] / "models"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
#: Half of it is Rust's standard library, of which another compiler brings more or less.
MOST_BYTES = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    build_engine()


@pytest.fixture(scope="module", params=[32, 8, 4])
def weights(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], tmp_path_factory) -> bytes:  # type: ignore[no-untyped-def]
    folder = make_checkpoint(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96 if request.param < 32 else 100,  # groups of 32; else no whole vectors either
        num_hidden_layers=3,
        max_position_embeddings=160,
    )
    if request.param < 32:
        twin = tmp_path_factory.mktemp("twin")
        quantize_checkpoint(folder, twin, bits=request.param)
        folder = twin
    return trunk_gguf(read_weights(folder), name="test", tokens=[])


def test_the_library_is_small() -> None:
    assert engine.find_library().stat().st_size <= MOST_BYTES


def all_logits(session, tokens: list[int]) -> np.ndarray:  # type: ignore[no-untyped-def, type-arg]
    return session.score(tokens, list(range(len(tokens))))  # type: ignore[no-any-return]


def test_every_kernel_family_agrees_with_the_oracle(weights: bytes) -> None:
    tokens = np.random.default_rng(0).integers(0, 259, 150).tolist()
    expected = all_logits(ReferenceBackend(weights).session(), tokens)
    assert "scalar" in kernel_families()
    for family in kernel_families():
        found = all_logits(EngineBackend(weights, kernels=family).session(), tokens)
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        # With quantized weights activations are rounded to 8 bits too, which the oracle does not do.
        is_rounded = b"F32" not in weights and np.median(error) > 1e-5
        assert error.max() < (MOST_APART if is_rounded else 1e-4), family
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


def test_pieces_and_the_whole_are_the_same_bits(weights: bytes) -> None:
    rng = np.random.default_rng(1)
    for family in kernel_families():
        backend = EngineBackend(weights, kernels=family)
        tokens = rng.integers(0, 259, 150).tolist()
        whole = all_logits(backend.session(), tokens)
        for cuts in ([1, 2, 3, 31, 32, 33, 64, 65, 149], sorted(rng.choice(149, 6, replace=False) + 1)):
            session, found = backend.session(), []
            for start, end in zip([0, *cuts], [*cuts, 150], strict=True):
                found.append(all_logits(session.fork(), tokens[start:end]))
                session.append(tokens[start:end])
            np.testing.assert_array_equal(np.concatenate(found), whole)


def test_what_nobody_reads_changes_no_bit(weights: bytes) -> None:
    """The last layer leaves out positions before the first one that is asked for; 150 of them are two chunks."""
    rng = np.random.default_rng(7)
    for family, num_threads in [*((family, 1) for family in kernel_families()), (kernel_families()[0], 2)]:
        backend = EngineBackend(weights, kernels=family, num_threads=num_threads)
        for inputs in (rng.integers(0, 259, 150).tolist(), rng.normal(size=(150, 64)).astype(np.float32)):
            whole = all_logits(backend.session(), inputs)
            for at in ([149], [148, 149], [130, 3, 140], [127], [128], [64, 149], [0]):
                np.testing.assert_array_equal(backend.session().score(inputs, at), whole[at])
            session = backend.session()
            session.append(inputs)
            np.testing.assert_array_equal(session.score([], [-1]), whole[-1:])
            session.rewind(100)
            np.testing.assert_array_equal(all_logits(session, inputs[100:]), whole[100:])


def test_threads_change_no_bit(weights: bytes) -> None:
    tokens = np.random.default_rng(2).integers(0, 259, 150).tolist()
    found = []
    for num_threads in (1, 2, 3):
        session = EngineBackend(weights, num_threads=num_threads).session()
        whole = all_logits(session, tokens)
        for token in tokens[:40]:
            session.append([token])
        found.append(np.concatenate([whole, session.score([], [-1]), session.score(tokens[:5], range(5))]))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    with pytest.raises(BackendError, match="expected 1 to 256, got 0"):
        EngineBackend(weights, num_threads=0)


def test_threads_share_the_parts_of_large_matrices(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4)
    quantize_checkpoint(folder, tmp_path / "twin")
    large = trunk_gguf(read_weights(tmp_path / "twin"), name="test", tokens=[])
    found = []
    for num_threads in (1, 2):
        session = EngineBackend(large, num_threads=num_threads).session()
        for token in range(60):
            session.append([token])
        found.append(session.score([], [-1]))
    np.testing.assert_array_equal(found[1], found[0])


def test_a_cache_in_8_bits_is_a_quarter_and_nearly_as_exact(weights: bytes) -> None:
    tokens = np.random.default_rng(3).integers(0, 259, 150).tolist()
    for family in kernel_families():
        exact = EngineBackend(weights, kernels=family).session()
        backend = EngineBackend(weights, kernels=family, cache_bits=8)
        rounded, pieces = backend.session(), backend.session()
        expected, found = all_logits(exact, tokens), all_logits(rounded, tokens)
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert 0 < error.max() < 0.03, family
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98
        for start, end in ((0, 1), (1, 33), (33, 150)):
            np.testing.assert_array_equal(all_logits(pieces.fork(), tokens[start:end]), found[start:end])
            pieces.append(tokens[start:end])
        exact.append(tokens)
        assert pieces.kv_bytes / exact.kv_bytes == (16 + 4) / (4 * 16)  # heads of 16 integers and a step
    with pytest.raises(BackendError, match="cache bits: expected 8 or 32, got 4"):
        EngineBackend(weights, cache_bits=4)


def test_free_text_is_greedy_or_drawn_by_a_seed(weights: bytes) -> None:
    backend = EngineBackend(weights)
    start = backend.session()
    start.append([5, 6, 7])
    greedy = start.fork()
    expected, step = [], start.fork()
    for _ in range(20):
        expected.append(int(step.score([], [-1])[0].argmax()))
        step.append([expected[-1]])
    assert greedy.generate(20) == expected
    assert greedy.length == 23
    np.testing.assert_array_equal(greedy.score([], [-1]), step.score([], [-1]))
    cut = expected.index(expected[10])
    assert start.fork().generate(20, stop=[expected[10]]) == expected[:cut]
    drawn = [start.fork().generate(20, temperature=100.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert start.fork().generate(20, temperature=2.0, top_k=1, seed=3) == expected
    assert start.fork().generate(0) == []
    with pytest.raises(ShapeError, match="top_p"):
        start.fork().generate(1, temperature=1.0, top_p=0.0)
    with pytest.raises(CapacityError, match="160"):
        start.fork().generate(158)
    with pytest.raises(ShapeError):
        backend.session().generate(1)


def test_forks_share_pages_and_nothing_else(weights: bytes) -> None:
    backend = EngineBackend(weights)
    trunk = backend.session()
    trunk.append(list(range(40)))
    forks = [trunk.fork() for _ in range(3)]
    for i, fork in enumerate(forks):
        fork.append([100 + i] * 30)
    del trunk
    for i, fork in enumerate(forks):
        alone = backend.session()
        alone.append([*range(40), *[100 + i] * 30])
        np.testing.assert_array_equal(fork.score([], [-1]), alone.score([], [-1]))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_other_families_agree_with_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers computes the other side, the extra 'test'")
    shape = {
        "vocab_size": 200,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": kind == "qwen2",
    }
    config = transformers.Qwen2Config(**shape) if kind == "qwen2" else transformers.Qwen3Config(head_dim=32, **shape)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.0 if "embed" in name else parameter.shape[1] ** -0.5)
            else:
                parameter.uniform_(0.5, 1.5)
    metadata = {
        "general.architecture": kind,
        f"{kind}.context_length": 128,
        f"{kind}.embedding_length": 64,
        f"{kind}.block_count": 2,
        f"{kind}.feed_forward_length": 96,
        f"{kind}.attention.head_count": 4,
        f"{kind}.attention.head_count_kv": 2,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{kind}.attention.key_length": 32 if kind == "qwen3" else 16,
        f"{kind}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    backend = EngineBackend(write_gguf(metadata, _llama_cpp_names(model.state_dict())))
    tokens = np.random.default_rng(2).integers(0, 200, 100)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    np.testing.assert_allclose(all_logits(backend.session(), tokens.tolist()), expected, rtol=0, atol=1e-3)


def _llama_cpp_names(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    found = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if module in whole:
            target = whole[module]
        else:
            _, _, index, rest = module.split(".", 3)
            target = f"blk.{index}.{parts[rest]}"
        if name == "lm_head.weight" and tensor.data_ptr() == state["model.embed_tokens.weight"].data_ptr():
            continue
        found[f"{target}.{leaf}"] = tensor.numpy().astype(np.float32)
    return found


def test_the_shipped_hospital_decides_alike_on_every_runtime() -> None:
    said = {}
    for backend in ("onnx_runtime", "engine"):
        risk = open_bundle(MODELS / "hospital", trusted_keys=MODELS / "trusted_keys", now=NOW, backend=backend)  # type: ignore[arg-type]
        task = risk.signal_task("icu-risk")
        session = task.session(dict.fromkeys(task.task.signal.static, 0.0))
        rows = []
        for hour in range(12):
            for code, value in (("HR", 90.0 + hour), ("SysABP", 110.0 - 3 * hour), ("GCS", 14.0)):
                session.observe(code, value)
            session.close_bin()
            rows.append(session.decide().answers["in_hospital_death"].probabilities["yes"])
        said[backend] = rows
    assert np.abs(np.array(said["engine"]) - np.array(said["onnx_runtime"])).max() < 0.01


def test_the_signal_encoder_is_that_of_python() -> None:
    data = (MODELS / "hospital" / "gguf" / "icu-risk.encoder.gguf").read_bytes()
    python = SignalEncoder(data)
    library = ctypes.CDLL(str(engine.find_library()))
    encoder, message = ctypes.c_void_p(), ctypes.create_string_buffer(512)
    rng = np.random.default_rng(4)
    channels = rng.normal(size=(9, python.num_channels)).astype(np.float32)
    static = rng.normal(size=python.num_static).astype(np.float32)

    def encode(numbers: np.ndarray, count: int, rows: int) -> np.ndarray:  # type: ignore[type-arg]
        out = np.empty((rows, python.prefix(static).shape[1]), dtype=np.float32)
        place, room = (ctypes.c_void_p(array.ctypes.data) for array in (numbers, out))
        assert library.smallhold_signal_encode(encoder, place, ctypes.c_size_t(count), room, message) == 0
        return out

    for family in kernel_families():
        size = ctypes.c_size_t(len(data))
        code = library.smallhold_signal_from_bytes(data, size, family.encode(), ctypes.byref(encoder), message)
        assert code == 0, message.value
        np.testing.assert_allclose(encode(channels, 9, 9), python.bins(channels), rtol=0, atol=1e-4)
        np.testing.assert_allclose(encode(static, 0, 1), python.prefix(static), rtol=0, atol=1e-4)
        library.smallhold_signal_free(encoder)
    assert library.smallhold_signal_from_bytes(data, ctypes.c_size_t(500), None, ctypes.byref(encoder), message) == 1
    assert b"truncated" in message.value


FLIP = """
import json, sys
import numpy as np
from smallhold.device.backends.engine import EngineBackend
from smallhold.errors import BackendError, SmallholdError
good = bytearray(open(sys.argv[1], "rb").read())
head = int(sys.argv[2])
rng = np.random.default_rng(0)
told = {"refused": 0, "loaded": 0}
files = [bytes(good[:cut]) for cut in [0, 3, 4, 8, 24, *rng.integers(25, head, 60), len(good) - 1]]
for _ in range(400):
    bad = bytearray(good)
    for at in rng.integers(4, head, rng.integers(1, 4)):
        bad[at] = rng.integers(0, 256)
    files.append(bytes(bad))
for data in files:
    try:
        session = EngineBackend(data).session()
        told["loaded"] += 1
        session.append([1, 2])
        session.score([3], [0])
    except SmallholdError:
        told["refused"] += 1
print(json.dumps(told))
"""


def test_damaged_files_are_refused_and_never_crash(weights: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(weights)
    head = weights.rindex(b"weight") + 64  # all lengths, shapes and offsets lie before
    done = subprocess.run(
        [sys.executable, "-c", FLIP, str(path), str(head)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["refused"] > 100 and told["loaded"] > 0


def test_what_is_missing_or_unknown_is_said(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="no family of that name"):
        EngineBackend(weights, kernels="abacus")
    with pytest.raises(BackendError, match=r"no-such\.gguf"):
        EngineBackend(tmp_path / "no-such.gguf")
    monkeypatch.setenv("SMALLHOLD_ENGINE", str(tmp_path / "lib.so"))
    with pytest.raises(BackendError, match=r"was not found.*lib\.so") as caught:
        engine.find_library()
    assert "cargo build" in (caught.value.hint or "")
