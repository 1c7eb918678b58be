"""Seeds for every fuzz target, from committed bundles and from a trunk of 13 kB that is made here.

    python engine/fuzz/seeds.py FOLDER

Writes FOLDER/parts (what the targets put around a fuzzer's bytes), FOLDER/seeds/TARGET, and FOLDER/words.dict: every
text that the engine's sources compare with.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.bundle.gguf import write_gguf
from smallhold.bundle.weights import QuantizedWeight, Weight
from smallhold.device.zip_layout import encode_zip

ENGINE = Path(__file__).resolve().parents[1]
GOLDEN = ENGINE.parent / "conformance" / "v1"
MODELS = ENGINE.parent / "models"
WIDTH, HEADS, CONTEXT = 32, 4, 64
#: Of the trunk with a vocabulary, which is opened for every input: what it computes costs next to nothing.
NARROW = 8
CHANNELS = [
    "last", "bin_mean", "log_age", "is_measured", "change_6", "first", "mean", "min", "max", "mean_12", "log_count",
]  # fmt: skip

Metadata = dict[str, Any]
Tensors = dict[str, Weight]


def main() -> None:
    """Write everything into the folder that is named."""
    if len(sys.argv) != 2:
        sys.exit("usage: python engine/fuzz/seeds.py FOLDER")
    folder = Path(sys.argv[1])
    parts, seeds = make_parts(), make_seeds()
    for name, data in parts.items():
        write(folder / "parts" / name, data)
    for target, files in seeds.items():
        for i, data in enumerate(files):
            write(folder / "seeds" / target / f"{i:02}", data)
    write(folder / "words.dict", dictionary())


def write(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and move it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(data)
    scratch.replace(path)


def make_parts() -> dict[str, bytes]:
    """Files of a bundle that opens, and what the golden key has signed."""
    bundle = GOLDEN / "bundle"
    return {
        "trunk.gguf": trunk(),
        "encoder.gguf": encoder(),
        "sessions.gguf": weights("llama", 8, vocab=64),
        "ngrams.npz": ngrams(),
        "text.json": text_task("x", ngrams="ngrams/x.npz"),
        "text-alone.json": text_task("x", ngrams=None),
        "signal.json": signal_task("x"),
        "signal-y.json": signal_task("y"),
        "golden.pem": (GOLDEN / "trusted_keys" / "golden-v1.pem").read_bytes(),
        "golden.json": (bundle / "manifest.json").read_bytes(),
        "golden.dsse.json": (bundle / "manifest.dsse.json").read_bytes(),
    }


def make_seeds() -> dict[str, list[bytes]]:
    """Inputs to begin with, by target."""
    bundle, parts = GOLDEN / "bundle", make_parts()
    members = {name: parts[part] for name, part in
               {"manifest.json": "golden.json", "manifest.dsse.json": "golden.dsse.json"}.items()}  # fmt: skip
    small = {"a": b"one", "b/c.txt": b"", "manifest.json": b"{}"}
    tasks = [path.read_bytes() for sector in ("hospital", "finance") for path in (MODELS / sector / "tasks").glob("*")]
    golden_requests = requests_of((GOLDEN / "cases.jsonl").read_text().splitlines()[0])
    return {
        "weights": [
            weights("llama", 8), weights("llama", 4), weights("llama", 0), weights("llama", 16),
            weights("qwen2", 8), weights("qwen3", 0), (bundle / "gguf" / "trunk.gguf").read_bytes(),
        ],
        "vocabulary": [trunk(), trunk(pre="smollm"), trunk(pre="llama-bpe"), trunk(pre="qwen2")],
        "signal": [encoder(), encoder(bits=0)],
        "sessions": calls(),
        "plan": [
            text_task("x", ngrams="ngrams/x.npz"), text_task("x", ngrams=None), signal_task("x"),
            text_task("x", ngrams=None, choices=("dry cough", "dry skin", "dry", "rash")),
            text_task("x", ngrams=None, strings=[{"name": "dose", "alphabet": "01.", "max_bytes": 6, "prompt": "mg "}]),
            signal_task("x", fields=[field("death", ["no", "yes"], knots=True), field("stay", ["a", "b", "c"])]),
            *(task for task in tasks if len(task) < 4000),
        ],
        "ngrams": [ngrams(), ngrams(name="buckets_with_punctuation"), ngrams(choices=1)],
        "requests": [b"\n".join(lines) for lines in (request_lines(), golden_requests)],
        "bundle": [archive(members), archive(small), archive({}), described(small), described(small, b"\x1e\0\xff")],
        "manifest": [manifest(parts), manifest(parts, expires="2026-01-01T00:00:00Z"), parts["golden.json"]],
        "envelope": [parts["golden.dsse.json"]],
        "keys": [
            parts["golden.pem"], parts["golden.pem"] + (MODELS / "trusted_keys").glob("*.pem").__next__().read_bytes(),
        ],
    }  # fmt: skip


def calls() -> list[bytes]:
    """Calls as `sessions.c` reads them: what, which session, and what it is given."""
    append, score, write = (
        bytes([2, 0, 4, 1, 2, 3, 4]),
        bytes([3, 0, 2, 5, 6, 7, 2]),
        bytes([4, 0, 64, 255, 9, 8, 5, 12, 0]),
    )
    greedy, fork, rewind, free = (
        bytes([4, 1, 0, 255, 0, 0, 5, 16, 1]),
        bytes([6, 0, 1]),
        bytes([5, 1, 3]),
        bytes([7, 0]),
    )
    threads, eight_bits = bytes([0, 0, 3]), bytes([1, 0, 8])
    return [
        append + score + write + fork + rewind + greedy + free + append,
        threads + eight_bits + append + fork + bytes([2, 1, 3, 7, 8, 9]) + bytes([6, 1, 2]) + greedy,
        5 * (bytes([2, 0, 16]) + bytes(range(16))) + score,  # past the context
        bytes([2, 0, 1, 255]) + bytes([5, 0, 200]) + bytes([1, 0, 7]),  # refused
    ]


def dictionary() -> bytes:
    """Texts of the sources that stand in quotes, in libFuzzer's form."""
    words = {
        "PK\\x03\\x04",
        "PK\\x01\\x02",
        "PK\\x05\\x06",
        "\\x93NUMPY\\x01\\x00",
        "<f4",
        "<f2",
        "|i1",
        "\\\\ud83d\\\\ude00",
    }
    for path in sorted((ENGINE / "src").rglob("*.rs")):
        source = path.read_text().split("#[cfg(test)]")[0]
        words |= set(re.findall(r'"([A-Za-z0-9_.<>:/ -]{2,32})"', source))
    return "".join(f'"{word}"\n' for word in sorted(words)).encode()


def numbers(rows: int, columns: int, *, bits: int, seed: int) -> Weight:
    """Random weights: 8 or 4 bits, or 16 or 0 for float16 and float32."""
    rng = np.random.default_rng(seed)
    if bits in (8, 4):
        top = 2 ** (bits - 1)
        values = rng.integers(1 - top, top, (rows, columns)).astype(np.int8)
        return QuantizedWeight(values, np.full((rows, columns // 32), 0.05 / top, np.float16), bits)
    found = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
    return found.astype(np.float16) if bits == 16 else found


def weights(family: str, bits: int, *, vocab: int = 8, width: int = WIDTH, more: Metadata | None = None) -> bytes:
    """A trunk of one layer."""
    kv = width // 2
    metadata: Metadata = {
        "general.architecture": family,
        f"{family}.context_length": CONTEXT,
        f"{family}.embedding_length": width,
        f"{family}.block_count": 1,
        f"{family}.feed_forward_length": width,
        f"{family}.attention.head_count": HEADS,
        f"{family}.attention.head_count_kv": HEADS // 2,
        f"{family}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{family}.rope.freq_base": 10_000.0,
        **(more or {}),
    }
    shapes = {"token_embd": (vocab, width), "blk.0.attn_q": (width, width), "blk.0.attn_k": (kv, width)}
    shapes |= {"blk.0.attn_v": (kv, width), "blk.0.attn_output": (width, width), "blk.0.ffn_gate": (width, width)}
    shapes |= {"blk.0.ffn_up": (width, width), "blk.0.ffn_down": (width, width)}
    if family == "qwen3":
        shapes["output"] = (vocab, width)
    tensors: Tensors = {
        f"{name}.weight": numbers(*shape, bits=bits, seed=i) for i, (name, shape) in enumerate(shapes.items())
    }
    ones: NDArray[np.float32] = np.ones(width, np.float32)
    tensors |= {f"{name}.weight": ones for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")}
    if family == "qwen2":
        tensors |= {"blk.0.attn_q.bias": ones, "blk.0.attn_k.bias": ones[:kv], "blk.0.attn_v.bias": ones[:kv]}
    if family == "qwen3":
        head = ones[: width // HEADS]
        tensors |= {"blk.0.attn_q_norm.weight": head, "blk.0.attn_k_norm.weight": head}
        tensors |= {"rope_freqs.weight": ones[: width // HEADS // 2]}
    return write_gguf(metadata, tensors)


def alphabet() -> list[str]:
    """The bytes of GPT-2's byte-level alphabet."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(shifted)) for byte in range(256)]


def trunk(pre: str = "gpt-2") -> bytes:
    """A trunk with a vocabulary that text, signal and word tasks called x or y can be asked with."""
    special = ["<bos>", "<eos>", "<x>", "<x:no>", "<x:yes>", "<y:no>", "<y:yes>", "<hour:01>", "<hour:03>"]
    special += [f"<HR:{i:02}>" for i in range(16)] + [f"<age:{i}>" for i in range(8)]
    merged = ["ed", "Ġa", "Ġb", "th", "Ġth", "39"]
    tokens = [*alphabet(), *merged, *special]
    return weights(
        "llama",
        16,
        vocab=len(tokens),
        width=NARROW,
        more={
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
            "tokenizer.ggml.merges": ["e d", "Ġ a", "Ġ b", "t h", "Ġ th", "3 9"],
        },
    )


def encoder(bits: int = 8, width: int = NARROW) -> bytes:
    """An encoder of one parameter and one static feature."""
    inputs = 4 * len(CHANNELS)
    columns = -(-inputs // 32) * 32 if bits else inputs
    tensors: Tensors = {
        "basis.weight": numbers(width, columns, bits=bits, seed=1),
        "up.weight": numbers(2 * width, width, bits=16, seed=2),
        "down.weight": numbers(width, 2 * width, bits=16, seed=3),
        "static.weight": numbers(width, 1, bits=0, seed=4),
    }
    for name, rows in (("basis", width), ("up", 2 * width), ("down", width), ("static", width)):
        tensors[f"{name}.bias"] = np.zeros(rows, np.float32)
    return write_gguf({"general.architecture": "smallhold-signal", "smallhold.signal.channels": len(CHANNELS)}, tensors)


def ngrams(name: str = "buckets", choices: int = 2) -> bytes:
    """A classifier of 8 and 8 buckets."""
    out = io.BytesIO()
    arrays: dict[str, NDArray[Any]] = {
        name: np.array([8, 8], np.int64),
        "word_share": np.float64(0.5),
        "idf": np.ones(16, np.float16),
        "values": np.arange(16 * choices, dtype=np.int8).reshape(16, choices),
        "scale": np.full(choices, 0.01, np.float32),
        "bias": np.zeros(choices, np.float32),
    }
    np.savez(out, allow_pickle=False, **arrays)
    return out.getvalue()


def field(name: str, choices: list[str], *, knots: bool = False) -> dict[str, Any]:
    """A field of a task file."""
    return {
        "abstain_below": 0.1,
        "alert_threshold": 0.4,
        "bias": [] if knots else [0.1] * len(choices),
        "choices": choices,
        "conformal": None if knots else {"groups": [{"least": [0.1] * len(choices), "name": "1"}]},
        "knots": [[-1.0, -2.0], [1.0, 3.0]] if knots else [],
        "name": name,
        "positive": choices[1],
        "temperature": 1.5,
    }


def text_task(name: str, *, ngrams: str | None, choices: tuple[str, ...] = ("rash", "cough"), **more: Any) -> bytes:
    """A task that reads text."""
    text = {
        "marker": "<x>",
        "max_tokens": 16,
        "ngram_weight": 0.5 if ngrams else 0,
        "ngrams": ngrams,
        "trunk_weight": 1,
    }
    fields = [field("kind", list(choices))]
    rest = {"format": "smallhold.task/1", "name": name, "question": "Which?", "text": text}
    return task({"fields": fields, **rest, **more})


def signal_task(name: str, *, fields: list[dict[str, Any]] | None = None) -> bytes:
    """A task that reads one parameter and one static feature, by both doors."""
    grid = {"scores": [-2.0, 0.0, 2.0], "values": [40.0, 80.0, 180.0]}
    return task(
        {
            "encoder": "gguf/x.encoder.gguf",
            "fields": fields or [field("death", ["no", "yes"])],
            "format": "smallhold.task/1",
            "name": name,
            "num_bins": 6,
            "question": "Will it?",
            "signal": {
                "bin_minutes": 60, "channels": CHANNELS, "grids": [grid], "parameters": ["HR"], "static": ["age"],
            },
            "words": {"card_ends": [1, 3], "parameters": ["HR"], "static": ["age"]},
        }
    )  # fmt: skip


def task(members: dict[str, Any]) -> bytes:
    """A task file."""
    return json.dumps(members).encode()


def request_lines() -> list[bytes]:
    """Requests through every door of the tasks x (text) and y (readings)."""
    requests: list[dict[str, Any]] = [
        {"about": True},
        {"task": "x", "text": "Red, itchy patches", "explain": True, "id": 7},
        {"task": "y", "patient": "7", "static": [1]},
        {"task": "y", "patient": "7", "observe": [["HR", 118]], "close": True, "decide": True, "explain": True},
        {"task": "y", "patient": "8", "static": {"age": 0.5}, "words": True, "close": 3, "decide": True},
        {"task": "y", "patient": "7", "static": None},
    ]
    return [json.dumps(request).encode() for request in requests]


def requests_of(case: str) -> list[bytes]:
    """The first hours of a golden patient, of whom the tiny task knows one parameter."""
    events = json.loads(case)["events"][:60]
    opened: list[dict[str, Any]] = [{"task": "y", "patient": "g", "static": [0.3]}]
    hours = [
        [[name, value] for minute, name, value in events if name == "HR" and minute // 60 == hour] for hour in range(6)
    ]
    opened += [{"task": "y", "patient": "g", "observe": hour, "close": True, "decide": True} for hour in hours]
    return [json.dumps(request).encode() for request in opened]


def archive(members: dict[str, bytes]) -> bytes:
    """One file in a bundle's layout."""
    sizes = {name: len(members[name]) for name in sorted(members)}
    return b"".join(encode_zip(sizes, lambda name: [members[name]]))


def described(members: dict[str, bytes], *damages: bytes) -> bytes:
    """The same as `bundle.c` builds it."""
    head = bytes([0, len(damages)]) + b"".join(damages)
    body = [
        bytes([len(name)]) + name.encode() + len(data).to_bytes(2, "little") + data for name, data in members.items()
    ]
    return head + b"".join(body)


def manifest(parts: dict[str, bytes], expires: str | None = None) -> bytes:
    """A manifest of the bundle that `manifest.c` builds."""
    files = {"gguf/trunk.gguf": parts["trunk.gguf"], "tasks/x.json": parts["text-alone.json"]}
    return manifest_of(files, tasks=["x"], expires=expires)


def manifest_of(files: dict[str, bytes], *, tasks: list[str], expires: str | None = None) -> bytes:
    """A manifest of files and tasks."""

    def entry(data: bytes) -> dict[str, Any]:
        return {"bytes": len(data), "role": "part", "runtime": None, "sha256": hashlib.sha256(data).hexdigest()}

    value = {
        "base_digest": "0" * 64,
        "context_length": CONTEXT,
        "created": "2025-01-01T00:00:00Z",
        "expires": expires,
        "files": {name: entry(data) for name, data in files.items()},
        "format_version": 1,
        "is_simulated": True,
        "minimum_runtime": "0.1.0",
        "name": "fuzz",
        "tasks": tasks,
        "training_data": [],
        "version": "1.0.0",
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()
