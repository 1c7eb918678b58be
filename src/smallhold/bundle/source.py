"""What a bundle is made of when it is not made of a run of ours, whatever the format that it came in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.bundle.weights import QuantizedWeight
from smallhold.errors import DataError
from smallhold.learn.trunk_config import TrunkConfig
from smallhold.records import sha256_hex

_LICENCE_NAMES = ("LICEN[CS]E*", "licen[cs]e*", "COPYING*", "NOTICE*", "USE_POLICY*")
_MOST_LICENCE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An existing model, read.

    Attributes:
        name: Of the file or directory.
        kind: What it is, for the card: `Hugging Face checkpoint`, `GGUF file`, `ONNX graph`.
        config: Shape and features; None of a graph.
        trunk: Parameter name to float32 array; empty of a graph.
        quantized: Name to the very integers of a matrix that was quantized before.
        graph: The ONNX file where the source is one, else empty.
        family: `model_type`, or what else is known.
        context_length: Most positions that it is made for.
        num_parameters: Weights, each once; 0 where a graph does not say.
        tokenizer: `tokenizer.json`.
        digest: SHA-256 of the weights as they were found; see `digest_files`.
        chat: Path inside the bundle to content and role: the template, and the marks that it may name.
        licences: File name to content.
    """

    name: str
    kind: str
    config: TrunkConfig | None
    trunk: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    quantized: dict[str, QuantizedWeight] = field(default_factory=dict)
    graph: bytes = b""
    family: str
    context_length: int
    num_parameters: int
    tokenizer: bytes
    digest: str
    chat: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    licences: dict[str, bytes] = field(default_factory=dict)


def digest_files(paths: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, that of the JSON object of their names and digests."""
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(digests) == 1:
        return next(iter(digests.values()))
    return sha256_hex(json.dumps(digests, sort_keys=True, separators=(",", ":")).encode())


def read_tokenizer(folder: Path) -> bytes:
    """`tokenizer.json` of a directory.

    Raises:
        DataError: it is missing; the message says how to make one.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise DataError(
            f"{folder}: missing: tokenizer.json",
            hint="write one where the model's own tokenizer files are: "
            "transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    return path.read_bytes()


def read_licences(folder: Path) -> dict[str, bytes]:
    """The licence files that lie beside a model."""
    found = {path.name: path for pattern in _LICENCE_NAMES for path in folder.glob(pattern) if path.is_file()}
    return {
        name: path.read_bytes() for name, path in sorted(found.items()) if path.stat().st_size <= _MOST_LICENCE_BYTES
    }


def chat_files(template: Any, marks: dict[str, Any]) -> dict[str, tuple[bytes, str]]:
    """The files of a bundle that say how its model wants to be talked to.

    Args:
        template: Jinja source; a list of named ones, of which the one called `default` counts; or None.
        marks: `bos_token` and `eos_token` as text, as an object that holds it, or None.
    """
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    spelled = {name: mark.get("content") if isinstance(mark, dict) else mark for name, mark in marks.items()}
    spelled = {name: mark for name, mark in spelled.items() if isinstance(mark, str)}
    found = {}
    if isinstance(template, str):
        found["chat_template.jinja"] = (template.encode(), "chat template")
    if spelled:
        data = json.dumps(spelled, ensure_ascii=False, indent=1).encode()
        found["tokenizer_config.json"] = (data, "tokenizer marks")
    return found
