"""Add specialists to a bundle: its files as they are, and for each specialist a task, an encoder and its trees.

The trunk is not changed: the new bundle holds the very bytes of the old one's, and is signed anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from smallhold.bundle.assemble import MANIFEST, sign_bundle
from smallhold.bundle.calibrate import Calibration
from smallhold.bundle.calibrate_onset import calibrate_onset
from smallhold.bundle.gguf import write_gguf
from smallhold.bundle.publish import new_bundle
from smallhold.bundle.rounding import quantize_weight
from smallhold.bundle.weights import GROUP_SIZE, Weight
from smallhold.decide.local import TRUNK_FILES, LocalBundle, open_bundle
from smallhold.decide.signal_encoder import ARCHITECTURE
from smallhold.decide.task import Task
from smallhold.device.durable_file import write_durably
from smallhold.device.manifest import FileEntry, Manifest
from smallhold.errors import DataError, InputError
from smallhold.evaluate.onset_predict import Progress, predict_onsets
from smallhold.evaluate.onsets import Gate, gate_on
from smallhold.records import sha256_hex
from smallhold.sectors.hospital.onsets import question
from smallhold.sectors.hospital.stays import Stay
from smallhold.version import __version__

_QUANTIZED = ("basis.weight", "up.weight", "down.weight")
Files = dict[str, tuple[bytes, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedSpecialist:
    """One specialist as it was trained.

    Attributes:
        task: Not calibrated yet.
        encoder: Parameter name to float32 array.
        trees: `trees.npz`.
    """

    task: Task
    encoder: dict[str, NDArray[np.float32]]
    trees: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRequest:
    """What is added to what.

    Attributes:
        base: The opened bundle.
        trunk_digest: SHA-256 of the trunk that the specialists were trained over.
        added: The specialists.
        calibration: Patients of the calibration split.
        validation: Patients that the gate judges on.
        name: Of the new bundle.
        version: `1.2.3`.
        created: Moment to write down.
        expires: When devices stop accepting it, or None.
        training_data: Data sets of the specialists; the base's are kept.
        licences: File name to text, beside the base's.
        card: Model card in Markdown, in place of the base's; told of the gate by `%(gate)s`.
        max_error: See `calibrate_onset`.
        seed: Of the gate's bootstrap.
    """

    base: LocalBundle
    trunk_digest: str
    added: Sequence[AddedSpecialist]
    calibration: Sequence[Stay]
    validation: Sequence[Stay]
    name: str
    version: str
    created: datetime
    expires: datetime | None
    training_data: tuple[str, ...]
    licences: dict[str, str]
    card: str
    max_error: float
    seed: int


def add_specialists(
    request: AddRequest, target: Path, *, key: Ed25519PrivateKey | None, progress: Progress
) -> tuple[Manifest, dict[str, Calibration], dict[str, Gate]]:
    """Build the bundle; a specialist that fails the gate is left out.

    Args:
        request: What goes in.
        target: A directory, or a file ending in `.zip`; replaced when it is a bundle already.
        key: Publisher's key; None leaves the bundle unsigned.
        progress: Called while patients are scored.

    Returns:
        The manifest, task name to what was fitted, and task name to what the gate said of it.

    Raises:
        InputError: the bundle has another trunk than the specialists were trained over, or a task of that name; or
            the target exists and is no bundle.
        DataError: the calibration split is too small, or no specialist passes the gate.
    """
    base = request.base
    found = sha256_hex(base.read(TRUNK_FILES["reference"]))
    if found != request.trunk_digest:
        raise InputError(
            f"bundle {base.manifest.name}: its trunk is not the one that the specialists were trained over: expected "
            f"sha256 {request.trunk_digest[:16]}..., got {found[:16]}...",
            hint="smallhold teach train specialists --trunk BUNDLE --out DIR",
        )
    if taken := sorted({item.task.name for item in request.added} & set(base.manifest.tasks)):
        raise InputError(f"bundle {base.manifest.name}: has a task of that name already: {', '.join(taken)}")
    files: Files = {name: (base.read(name), entry.role) for name, entry in base.manifest.files.items()}
    files |= {f"licences/{name}": (text.encode(), "licence") for name, text in request.licences.items()}
    with tempfile.TemporaryDirectory() as scratch:  # what fails the gate must leave nothing behind
        folder = Path(scratch)
        drafted = {item.task.name: item.task for item in request.added}
        own = {item.task.name: _files_of(item) for item in request.added}
        _write(request, files, own, drafted, folder)
        draft = open_bundle(folder, unsafe_skip_verification=True)
        fitted, gates = {}, {}
        for name, task in drafted.items():
            local = draft.signal_task(name)
            gates[name] = gate_on(local, request.validation, seed=request.seed, progress=progress)
            if gates[name].speaks:
                seen = predict_onsets(local, None, question(name), request.calibration, progress=progress)
                fitted[name] = calibrate_onset(task, seen, max_error=request.max_error)
        if not fitted:
            said = " ".join(gate.sentence for gate in gates.values())
            raise DataError(f"no specialist passes the gate on the validation split, so none is added: {said}")
    with new_bundle(target) as folder:
        card = request.card % {"gate": "\n".join(f"- {gate.sentence}" for gate in gates.values())}
        files["card.md"] = (card.encode(), "model card")
        kept = {name: own[name] for name in fitted}
        manifest = _write(request, files, kept, {name: item.task for name, item in fitted.items()}, folder)
        if key is not None:
            sign_bundle(folder, key)
    return manifest, fitted, gates


def specialist_gguf(encoder: dict[str, NDArray[np.float32]], *, task: str) -> bytes:
    """A trained encoder as the file that `decide.signal_encoder` reads: matrices in 8 bits, the rest in float32."""
    tensors: dict[str, Weight] = {}
    for name, array in encoder.items():
        if name in _QUANTIZED:
            padded = np.pad(array, ((0, 0), (0, -array.shape[1] % GROUP_SIZE)))
            tensors[name] = quantize_weight(padded.astype(np.float32))
        else:
            tensors[name] = np.ascontiguousarray(array, dtype=np.float32)
    metadata = {
        "general.architecture": ARCHITECTURE,
        "general.name": task,
        "smallhold.signal.channels": encoder["basis.weight"].shape[1] // 4,
    }
    return write_gguf(metadata, tensors)


def _files_of(item: AddedSpecialist) -> Files:
    task = item.task
    files: Files = {task.encoder: (specialist_gguf(item.encoder, task=task.name), "signal encoder")}
    if task.baseline is not None:
        files[task.baseline] = (item.trees, "baseline trees")
    return files


def _write(request: AddRequest, common: Files, own: dict[str, Files], tasks: dict[str, Task], folder: Path) -> Manifest:
    base = request.base.manifest
    files = dict(common)
    for part in own.values():
        files |= part
    files |= {f"tasks/{name}.json": (task.to_bytes(), "task") for name, task in tasks.items()}
    for name, (data, _) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [data], mode=0o644)
    entries = {
        name: FileEntry(
            sha256=sha256_hex(data),
            bytes=len(data),
            role=role,
            runtime=base.files[name].runtime if name in base.files else None,
        )
        for name, (data, role) in sorted(files.items())
    }
    manifest = replace(
        base,
        name=request.name,
        version=request.version,
        created=_time(request.created),
        expires=None if request.expires is None else _time(request.expires),
        minimum_runtime=__version__,
        tasks=(*base.tasks, *tasks),
        training_data=tuple(sorted({*base.training_data, *request.training_data})),
        files=entries,
    )
    write_durably(folder / MANIFEST, [manifest.to_bytes()], mode=0o644)
    return manifest


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
