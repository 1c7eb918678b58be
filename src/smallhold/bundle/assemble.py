"""Put a bundle together: export, calibrate, describe, list, sign.

A bundle appears under its name whole or not at all; it is built in a folder beside it and moved.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokenizers import Tokenizer

from smallhold.bundle.calibrate import Calibration, calibrate
from smallhold.bundle.gguf import encoder_gguf, trunk_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import QUANTIZED_FILE, read_weights
from smallhold.decide.local import TRUNK_FILES, open_bundle
from smallhold.decide.task import Task
from smallhold.device.bundle_files import open_bundle_files, write_bundle_zip
from smallhold.device.durable_file import write_durably
from smallhold.device.manifest import FileEntry, Manifest
from smallhold.device.trust import sign_manifest, unsafe_read_manifest
from smallhold.errors import DataError, InputError, SmallholdError
from smallhold.evaluate.predict import Predictions, predict_all
from smallhold.records import sha256_hex
from smallhold.sectors.hospital.stays import Stay
from smallhold.version import __version__

ENVELOPE = "manifest.dsse.json"
MANIFEST = "manifest.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """What goes into a bundle.

    Attributes:
        checkpoint: Folder of the checkpoint, quantized or not.
        trees: File of the baseline trees, or None.
        task: The task as trained; calibration is fitted here.
        name: Name of the bundle.
        version: `1.2.3`.
        expires: When devices stop accepting it, or None.
        training_data: Names of the data sets behind the weights.
        licences: File name to text.
        card: Model card in Markdown.
        max_error: See `calibrate`.
    """

    checkpoint: Path
    trees: Path | None
    task: Task
    name: str
    version: str
    expires: datetime | None
    training_data: tuple[str, ...]
    licences: dict[str, str]
    card: str
    max_error: float


def build_bundle(
    request: BundleRequest,
    calibration_stays: list[Stay],
    target: Path,
    *,
    is_simulated: bool,
    created: datetime,
    key: Ed25519PrivateKey | None,
    progress: Progress,
) -> tuple[Manifest, Calibration]:
    """Build a bundle directory, or a single file when `target` ends in `.zip`.

    Args:
        request: What goes in.
        calibration_stays: Patients of the calibration split.
        target: Where it goes; replaced when it is a bundle already.
        is_simulated: Whether the training data came from the simulator.
        created: Moment to write down.
        key: Publisher's key; None leaves the bundle unsigned.
        progress: Called while the calibration split is scored.

    Raises:
        InputError: `target` exists and is no bundle.
        DataError: the checkpoint cannot be read or the calibration split is too small.
    """
    if target.exists() and not _is_bundle(target):
        raise InputError(f"{target}: exists and is no bundle, so it is not replaced", hint="choose another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.building-*"):  # of a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.building-", dir=target.parent) as scratch:
        folder = Path(scratch) / "bundle"
        manifest = _write_files(request, request.task, folder, is_simulated, created)
        draft = open_bundle(folder, unsafe_skip_verification=True).task(request.task.name)
        predictions: Predictions = predict_all(draft, calibration_stays, progress=progress)
        fitted = calibrate(request.task, predictions, max_error=request.max_error)
        manifest = _write_files(request, fitted.task, folder, is_simulated, created)
        if key is not None:
            sign_bundle(folder, key)
        if target.suffix == ".zip":
            write_bundle_zip(folder, target)
        else:
            _replace_folder(folder, target)
    return manifest, fitted


def sign_bundle(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the DSSE envelope over the manifest of a bundle directory.

    Raises:
        DataError: there is no manifest.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(f"{folder}: no {MANIFEST} to sign", hint="smallhold bundle build RUN --out BUNDLE")
    write_durably(folder / ENVELOPE, [sign_manifest(path.read_bytes(), key)], mode=0o644)


def _write_files(request: BundleRequest, task: Task, folder: Path, is_simulated: bool, created: datetime) -> Manifest:
    weights = read_weights(request.checkpoint)
    if "basis.weight" not in weights.encoder:
        raise DataError(
            f"checkpoint {request.checkpoint}: the signal encoder is missing", hint="smallhold compress RUN"
        )
    tokenizer_file = request.checkpoint / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises its own untyped exceptions
        raise DataError(f"{tokenizer_file}: missing or malformed: {error}") from error
    tokens = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    files: dict[str, tuple[bytes, str, str | None]] = {
        TRUNK_FILES["onnx_runtime"]: (trunk_onnx(weights), "trunk", "onnx_runtime"),
        TRUNK_FILES["reference"]: (trunk_gguf(weights, name=request.name, tokens=tokens), "trunk", "reference"),
        task.encoder: (encoder_gguf(weights, task=task.name), "signal encoder", None),
        "tokenizer.json": (tokenizer_file.read_bytes(), "tokenizer", None),
        f"tasks/{task.name}.json": (task.to_bytes(), "task", None),
        "card.md": (request.card.encode(), "model card", None),
    }
    if request.trees is not None and task.baseline is not None:
        files[task.baseline] = (request.trees.read_bytes(), "baseline trees", None)
    for name, text in request.licences.items():
        files[f"licences/{name}"] = (text.encode(), "licence", None)
    for name, (data, _, _) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [data], mode=0o644)
    base = request.checkpoint / (
        QUANTIZED_FILE if (request.checkpoint / QUANTIZED_FILE).exists() else "model.safetensors"
    )
    manifest = Manifest(
        name=request.name,
        version=request.version,
        created=_time(created),
        expires=None if request.expires is None else _time(request.expires),
        minimum_runtime=__version__,
        base_digest=sha256_hex(base.read_bytes()),
        context_length=weights.checkpoint.config.max_position_embeddings,
        tasks=(task.name,),
        is_simulated=is_simulated,
        training_data=request.training_data,
        files={
            name: FileEntry(sha256=sha256_hex(data), bytes=len(data), role=role, runtime=runtime)
            for name, (data, role, runtime) in sorted(files.items())
        },
    )
    write_durably(folder / MANIFEST, [manifest.to_bytes()], mode=0o644)
    return manifest


def _is_bundle(path: Path) -> bool:
    """Whether what lies there is a bundle of ours; anything else is never replaced."""
    try:
        files = open_bundle_files(path)
        listed = set(unsafe_read_manifest(files).files) | {MANIFEST, ENVELOPE}
    except SmallholdError:
        return False
    return files.names() <= listed  # somebody's notes beside our files are not ours to delete


def _replace_folder(source: Path, target: Path) -> None:
    """Move a finished folder into place; an older bundle steps aside first, goes last, and comes back on failure."""
    if not target.exists():
        source.replace(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.replace(old)
    try:
        source.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
