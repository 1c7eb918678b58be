"""Every method: how it quantizes the checkpoint, and what lies on disk afterwards.

Our own methods run here; peers bring packages that conflict with ours, or that we do not need, and run `peer.py` with
the interpreter of an environment of their own (`make bench-compress` sets them up).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.compress.readers import Kind
from safetensors.numpy import save_file

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.calibration import CalibrationSet
from smallhold.compress.gptq import gptq_layers
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.errors import SmallholdError
from smallhold.learn.checkpoint import load_signal_model

ROOT = Path(__file__).resolve().parents[2]
_DEADLINE_SECONDS = 900
_INT4, _INT8 = "layers, embedding and head int4", "layers, embedding and head int8"


class PeerError(SmallholdError):
    """A peer is not installed, or has failed."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """What a method left.

    Attributes:
        kind: How it is run.
        path: Relative to the method's folder.
        size_bytes: What a device would hold of the trunk: the weights' file; computed where the method writes none.
        about: What is quantized, and how the bytes were counted.
        versions: Packages that made it.
        why_no_speed: Reason for which nothing is timed, or empty.
    """

    kind: Kind
    path: str
    size_bytes: int
    about: str
    versions: dict[str, str]
    why_no_speed: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What every method starts from.

    Attributes:
        checkpoint: Float32, in Hugging Face's layout.
        calibration: Training rows.
    """

    checkpoint: Path
    calibration: CalibrationSet


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        name: As it is shown.
        is_ours: Or a peer's.
        bits: Of the layers; 32 for no quantization.
        make: Writes the artefact into a folder.
    """

    name: str
    is_ours: bool
    bits: int
    make: Callable[[Source, Path], Artefact]


def make_once(method: Method, source: Source, folder: Path) -> Artefact:
    """Make an artefact, or find the one of an earlier call.

    Raises:
        PeerError: the peer is missing or has failed.
    """
    note = folder / "artefact.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = method.make(source, folder)
        note.write_text(json.dumps(asdict(made), indent=1))
    return Artefact(**json.loads(note.read_text()))


def _fp32(source: Source, folder: Path) -> Artefact:
    return _graph(source.checkpoint, folder, "float32")


def _rounded(bits: int) -> Callable[[Source, Path], Artefact]:
    def make(source: Source, folder: Path) -> Artefact:
        quantize_checkpoint(source.checkpoint, folder / "twin", bits=bits)
        return _graph(folder / "twin", folder, _INT4 if bits == 4 else _INT8)

    return make


def _gptq(source: Source, folder: Path) -> Artefact:
    model = load_signal_model(source.checkpoint)
    chosen = gptq_layers(model, source.calibration, bits=4, progress=lambda _done, _total: None)
    quantize_checkpoint(source.checkpoint, folder / "twin", bits=4, chosen=chosen)
    return _graph(folder / "twin", folder, _INT4)


def _graph(checkpoint: Path, folder: Path, about: str) -> Artefact:
    graph = trunk_onnx(read_weights(checkpoint))
    (folder / "model.onnx").write_bytes(graph)
    return Artefact("graph", "model.onnx", len(graph), about, {"onnx": version("onnx")})


def _matmul_nbits(task: str) -> Callable[[Source, Path], Artefact]:
    """ONNX Runtime's own quantizer on our float32 graph, which keeps the signal door."""

    def make(source: Source, folder: Path) -> Artefact:
        (folder / "float32.onnx").write_bytes(trunk_onnx(read_weights(source.checkpoint)))
        return _peer(".venv-peers", task)(source, folder)

    return make


def _peer(environment: str, task: str) -> Callable[[Source, Path], Artefact]:
    """A peer in an environment of its own; it reads and writes files and nothing else."""

    def make(source: Source, folder: Path) -> Artefact:
        python = ROOT / environment / "bin" / "python"
        if not python.exists():
            raise PeerError(f"{environment} is not installed", hint="make bench-compress")
        if source.calibration.tokens is None:
            raise PeerError("peers calibrate on text, and the calibration set has none")
        save_file({"tokens": source.calibration.tokens.numpy()}, folder / "calibration.safetensors")
        words = [str(python), str(Path(__file__).with_name("peer.py")), task, str(source.checkpoint), str(folder)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_DEADLINE_SECONDS, check=False)  # noqa: S603
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"{task}: not done within {_DEADLINE_SECONDS} s") from error
        if done.returncode:
            (folder / "error.txt").write_text(done.stderr)
            raise PeerError(f"{task}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}")
        return Artefact(**json.loads((folder / "peer.json").read_text()))

    return make


METHODS = (
    Method("float32", True, 32, _fp32),
    Method("ours int8", True, 8, _rounded(8)),
    Method("ours int4", True, 4, _rounded(4)),
    Method("ours int4 GPTQ", True, 4, _gptq),
    Method("ORT MatMulNBits int8", False, 8, _matmul_nbits("ort-int8")),
    Method("ORT MatMulNBits int4", False, 4, _matmul_nbits("ort-int4")),
    Method("ORT HQQ int4", False, 4, _matmul_nbits("ort-hqq")),
    Method("genai builder int8", False, 8, _peer(".venv-peers", "genai-int8")),
    Method("genai builder int4", False, 4, _peer(".venv-peers", "genai-int4")),
    Method("genai builder int4 k-quant", False, 4, _peer(".venv-peers", "genai-k-quant")),
    Method("torchao int8", False, 8, _peer(".venv-peers", "torchao-int8")),
    Method("torchao int4", False, 4, _peer(".venv-peers", "torchao-int4")),
    Method("llm-compressor GPTQ int4", False, 4, _peer(".venv-llmc", "llmc-gptq")),
    Method("llm-compressor Wanda 50 %", False, 32, _peer(".venv-llmc", "llmc-wanda")),
)


def machine_versions() -> dict[str, Any]:
    """What runs here."""
    names = ("torch", "onnx", "onnxruntime", "numpy", "tokenizers")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
