"""Put a bundle together: export, calibrate, describe, list, sign."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokenizers import Tokenizer

from smallhold.assist.drift_reference import LEAST_PATIENTS
from smallhold.assist.drift_ward import fit_ward_reference
from smallhold.bundle.calibrate import Calibration, calibrate
from smallhold.bundle.fit_text_task import fit_text_task
from smallhold.bundle.gguf import encoder_gguf, trunk_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.publish import new_bundle
from smallhold.bundle.weights import QUANTIZED_FILE, read_weights
from smallhold.decide.local import TRUNK_FILES, LocalBundle, open_bundle
from smallhold.decide.ngrams import NGramClassifier
from smallhold.decide.task import Task
from smallhold.device.durable_file import write_durably
from smallhold.device.manifest import FileEntry, Manifest
from smallhold.device.trust import sign_manifest
from smallhold.errors import DataError, InputError
from smallhold.evaluate.predict import predict_all
from smallhold.learn.checkpoint import read_checkpoint
from smallhold.records import sha256_hex
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.text_task import TextExample
from smallhold.version import __version__

ENVELOPE = "manifest.dsse.json"
MANIFEST = "manifest.json"
Progress = Callable[[str, int, int], None]
Files = dict[str, tuple[bytes, str, str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalPart:
    """A task that reads signals, and what belongs to it.

    Attributes:
        task: The task as trained; calibration is fitted here.
        trees: File of the baseline trees, or None.
        stays: Patients of the calibration split.
    """

    task: Task
    trees: Path | None = None
    stays: Sequence[Stay]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """A task that reads text, and what belongs to it.

    Attributes:
        task: The task as trained; the weights of its two paths and its calibration are fitted here.
        ngrams: The n-gram classifier, or None; the task names its place in the bundle.
        examples: Texts of the calibration split.
    """

    task: Task
    ngrams: NGramClassifier | None = None
    examples: Sequence[TextExample]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """What goes into a bundle.

    Attributes:
        checkpoint: Folder of the checkpoint, quantized or not: the one trunk of all tasks.
        parts: The tasks, in the order in which the manifest names them.
        name: Name of the bundle.
        version: `1.2.3`.
        expires: When devices stop accepting it, or None.
        training_data: Names of the data sets behind the weights.
        licences: File name to text.
        card: Model card in Markdown.
        max_error: See `calibrate` and `calibrate_field`'s alpha.
    """

    checkpoint: Path
    parts: tuple[SignalPart | TextPart, ...]
    name: str
    version: str
    expires: datetime | None
    training_data: tuple[str, ...]
    licences: dict[str, str]
    card: str
    max_error: float


def build_bundle(
    request: BundleRequest,
    target: Path,
    *,
    is_simulated: bool,
    created: datetime,
    key: Ed25519PrivateKey | None,
    progress: Progress,
) -> tuple[Manifest, dict[str, Calibration]]:
    """Build a bundle directory, or a single file when `target` ends in `.zip`.

    Args:
        request: What goes in.
        target: Where it goes; replaced when it is a bundle already.
        is_simulated: Whether the training data came from the simulator.
        created: Moment to write down.
        key: Publisher's key; None leaves the bundle unsigned.
        progress: Called while the calibration splits are scored.

    Returns:
        The manifest, and task name to what was fitted.

    Raises:
        InputError: `target` exists and is no bundle, or there is no task.
        DataError: the checkpoint cannot be read or a calibration split is too small.
    """
    if not request.parts:
        raise InputError(f"bundle {request.name}: expected one task or more")
    with new_bundle(target) as folder:
        files = _collect(request)
        # Fitted with the very files that ship, so that the weights' rounding is part of what was calibrated.
        _write_files(
            request, files, {part.task.name: part.task for part in request.parts}, folder, is_simulated, created
        )
        draft = open_bundle(folder, unsafe_skip_verification=True)
        fitted = {part.task.name: _fit(part, draft, request.max_error, progress) for part in request.parts}
        tasks = {name: calibration.task for name, calibration in fitted.items()}
        manifest = _write_files(request, files, tasks, folder, is_simulated, created)
        expected = _drift_references(request, folder, progress)
        if expected:
            manifest = _write_files(request, files | expected, tasks, folder, is_simulated, created)
        if key is not None:
            sign_bundle(folder, key)
    return manifest, fitted


def _fit(part: SignalPart | TextPart, draft: LocalBundle, max_error: float, progress: Progress) -> Calibration:
    if isinstance(part, SignalPart):
        local = draft.signal_task(part.task.name)
        return calibrate(part.task, predict_all(local, list(part.stays), progress=progress), max_error=max_error)
    return fit_text_task(draft.text_task(part.task.name), part.examples, alpha=max_error, progress=progress)


def _drift_references(request: BundleRequest, folder: Path, progress: Progress) -> Files:
    """What a ward like the calibration split looks like to each signal task as it ships; see `assist.drift`.

    A split too small to say is left out: such a bundle's ward must be described where it is used.
    """
    found: Files = {}
    for part in request.parts:
        if isinstance(part, SignalPart) and len(part.stays) >= LEAST_PATIENTS:
            name = part.task.name
            progress(f"what {name} expects of a ward", 0, 1)
            local = open_bundle(folder, unsafe_skip_verification=True).signal_task(name)
            reference = fit_ward_reference(local, list(part.stays))
            found[f"drift/{name}.json"] = (reference.to_bytes(), "drift reference", None)
            progress(f"what {name} expects of a ward", 1, 1)
    return found


def sign_bundle(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the DSSE envelope over the manifest of a bundle directory.

    Raises:
        DataError: there is no manifest.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(f"{folder}: no {MANIFEST} to sign", hint="smallhold bundle build RUN --out BUNDLE")
    write_durably(folder / ENVELOPE, [sign_manifest(path.read_bytes(), key)], mode=0o644)


def _collect(request: BundleRequest) -> Files:
    """Everything that does not depend on the calibration: path to bytes, role and runtime."""
    weights = read_weights(request.checkpoint)
    tokenizer_file = request.checkpoint / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises its own untyped exceptions
        raise DataError(f"{tokenizer_file}: missing or malformed: {error}") from error
    files: Files = {
        TRUNK_FILES["onnx_runtime"]: (trunk_onnx(weights), "trunk", "onnx_runtime"),
        "tokenizer.json": (tokenizer_file.read_bytes(), "tokenizer", None),
        "card.md": (request.card.encode(), "model card", None),
        **{f"licences/{name}": (text.encode(), "licence", None) for name, text in request.licences.items()},
    }
    if weights.checkpoint.config.is_plain_llama:  # `reference` computes no other family
        gguf = trunk_gguf(
            weights,
            name=request.name,
            tokens=[tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())],
            merges=_merges(tokenizer),
            special={token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special},
        )
        files[TRUNK_FILES["reference"]] = (gguf, "trunk", "reference")
    for part in request.parts:
        task = part.task
        if isinstance(part, SignalPart):
            if "basis.weight" not in weights.encoder:
                raise DataError(
                    f"checkpoint {request.checkpoint}: the signal encoder is missing", hint="smallhold compress RUN"
                )
            files[task.encoder] = (encoder_gguf(weights, task=task.name), "signal encoder", None)
            if part.trees is not None and task.baseline is not None:
                files[task.baseline] = (part.trees.read_bytes(), "baseline trees", None)
        elif task.text is not None and task.text.ngrams is not None:
            if part.ngrams is None:
                raise InputError(f"task {task.name}: names an n-gram classifier, but none was given")
            files[task.text.ngrams] = (part.ngrams.to_bytes(), "n-gram classifier", None)
    return files


def _merges(tokenizer: Tokenizer) -> list[str]:
    """Merges of a byte-level BPE tokenizer; its file holds them as pairs or as text, by its version."""
    merges = json.loads(tokenizer.to_str())["model"].get("merges", [])
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]


def _write_files(
    request: BundleRequest, common: Files, tasks: dict[str, Task], folder: Path, is_simulated: bool, created: datetime
) -> Manifest:
    files = {**common, **{f"tasks/{name}.json": (task.to_bytes(), "task", None) for name, task in tasks.items()}}
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
        context_length=read_checkpoint(request.checkpoint).config.max_position_embeddings,
        tasks=tuple(tasks),
        is_simulated=is_simulated,
        training_data=request.training_data,
        files={
            name: FileEntry(sha256=sha256_hex(data), bytes=len(data), role=role, runtime=runtime)
            for name, (data, role, runtime) in sorted(files.items())
        },
    )
    write_durably(folder / MANIFEST, [manifest.to_bytes()], mode=0o644)
    return manifest


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
