"""A folder that decides in the browser: the page, the engine as WebAssembly, a verified bundle and its keys.

Any web server can hand it out; nothing but these files is ever asked for. Browsers run WebAssembly and keep a page for
use without a network only from `https://` or from this very machine.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from smallhold.bundle.app import bundle_for_engine
from smallhold.decide.task import Task
from smallhold.device.bundle_files import open_bundle_files
from smallhold.device.manifest import Manifest
from smallhold.errors import BundleError, InputError, IntegrityError
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward

_ROOT = Path(__file__).parents[3]
_PAGE = _ROOT / "browser"
_WRAPPER = _ROOT / "engine" / "javascript" / "smallhold_engine.js"
_WASM = _ROOT / "engine" / "target" / "wasm32-unknown-unknown" / "release" / "smallhold_engine.wasm"
_WEBGPU = _PAGE / "webgpu"
_RUNTIME = _WEBGPU / "node_modules" / "onnxruntime-web" / "dist"
_RUNTIME_FILES = {
    "ort.webgpu.js": "ort.webgpu.bundle.min.mjs",  # some servers do not know .mjs
    "ort-wasm-simd-threaded.asyncify.wasm": "ort-wasm-simd-threaded.asyncify.wasm",
}
_RUNTIME_LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
_GRAPH = "onnx/trunk.onnx"
_RELAXED = _WASM.with_name("smallhold_engine_relaxed.wasm")
_OFFLINE = "offline.js"
_PLACEHOLDER = b"VERSION OF ALL FILES"
_MORE_FILES = b"...[], // MORE FILES, written too"
_WITHOUT_WEBGPU = b"const HAS_WEBGPU = false;"
_WITHOUT_RELAXED = b"const HAS_RELAXED = false;"
_SEED = 4


@dataclass(frozen=True, slots=True)
class PageSize:
    """What a visitor downloads.

    Attributes:
        bytes: All files.
        engine_bytes: The engine's module.
        bundle_bytes: The bundle.
        webgpu_bytes: What reads texts on WebGPU; 0 without.
        left_out: Files of the bundle that are for other runtimes.
    """

    bytes: int
    engine_bytes: int
    bundle_bytes: int
    webgpu_bytes: int
    left_out: tuple[str, ...]


def write_page(
    bundle: Path,
    out: Path,
    *,
    trusted_keys: Path,
    now: datetime,
    wasm: Path | None = None,
    with_webgpu: bool = False,
) -> PageSize:
    """Verify a bundle and write a folder that decides with it in a browser.

    Args:
        bundle: A signed bundle, a directory or a single file.
        out: The folder; it must not exist yet, and appears whole or not at all.
        trusted_keys: Folder of public keys; the page carries them and verifies the bundle by them.
        now: Moment that expiry is judged by.
        wasm: The engine's module; default: where `engine/build.sh wasm32-unknown-unknown` leaves it, and the one for
            hosts with relaxed SIMD too where that was built.
        with_webgpu: Also put the bundle's ONNX trunk and ONNX Runtime Web there (see `make webgpu`), for texts on a
            graphics processor where that is faster.

    Raises:
        BundleError: the bundle is not genuine, a task of it writes strings, which the module cannot, or the module, the
            page, or what WebGPU needs was not found.
        InputError: `out` exists, or could not be written.
    """
    if out.exists():
        raise InputError(f"{out} exists already: expected a new folder")
    module = wasm or _WASM
    for path, hint in ((module, "engine/build.sh wasm32-unknown-unknown, or give --engine FILE"), (_PAGE, "")):
        if not path.exists():
            raise BundleError(f"{path} was not found", hint=hint or "use a checkout: the page is not installed by pip")
    inside = bundle_for_engine(bundle, trusted_keys=trusted_keys, now=now)
    tasks = _tasks(bundle, inside.manifest)
    made = {
        "bundle.zip": inside.archive,
        "keys.pem": inside.keys,
        "patient.json": canonical_json(_patients(tasks)),
        "smallhold_engine.js": _WRAPPER.read_bytes(),
        "smallhold_engine.wasm": module.read_bytes(),
    }
    relaxed = {path.name: path.read_bytes() for path in [_RELAXED] if wasm is None and path.is_file()}
    webgpu = _webgpu_files(bundle, inside.manifest) if with_webgpu else {}
    sources = {path.name: path.read_bytes() for path in sorted(_PAGE.iterdir()) if path.is_file()}
    sources |= made | relaxed | webgpu
    for is_there, without in ((relaxed, _WITHOUT_RELAXED), (webgpu, _WITHOUT_WEBGPU)):
        if is_there:
            _replace(sources, "worker.js", without, without.replace(b"false", b"true"))
    _replace(sources, _OFFLINE, _MORE_FILES, f"...{json.dumps(sorted(relaxed | webgpu))},".encode())
    # The browser compares this one file to learn that any of them is new.
    _replace(sources, _OFFLINE, _PLACEHOLDER, _digest(sources).encode())
    try:
        _write_folder(out, sources)
    except OSError as error:
        raise InputError(f"{out} could not be written: {error}") from error
    return PageSize(
        sum(map(len, sources.values())),
        len(made["smallhold_engine.wasm"]),
        len(inside.archive),
        sum(map(len, webgpu.values())),
        inside.left_out,
    )


def _replace(files: dict[str, bytes], name: str, old: bytes, new: bytes) -> None:
    if files[name].count(old) != 1:
        raise BundleError(f"browser/{name}: expected one {old.decode()!r}")
    files[name] = files[name].replace(old, new)


def _webgpu_files(bundle: Path, manifest: Manifest) -> dict[str, bytes]:
    """ONNX Runtime Web with its licences, and the trunk that it runs, as the manifest says it."""
    if _GRAPH not in manifest.files:
        raise BundleError(f"bundle {manifest.name}: has no {_GRAPH}, which WebGPU needs")
    # The wheel of ONNX Runtime carries the texts that the package for browsers refers to.
    licences = Path(str(distribution("onnxruntime").locate_file("onnxruntime")))
    paths = {f"onnxruntime-{name}": licences / name for name in _RUNTIME_LICENCES}
    paths |= {name: _RUNTIME / file for name, file in _RUNTIME_FILES.items()}
    paths["webgpu_trunk.js"] = _WEBGPU / "webgpu_trunk.js"
    for path in paths.values():
        if not path.is_file():
            raise BundleError(f"{path} was not found", hint="make webgpu installs ONNX Runtime Web, by npm")
    files = {name: path.read_bytes() for name, path in paths.items()}
    return files | {"trunk.onnx": _read(bundle, manifest, _GRAPH)}


def _read(bundle: Path, manifest: Manifest, name: str) -> bytes:
    """A file of the bundle as its manifest has it."""
    entry = manifest.files[name]
    data = open_bundle_files(bundle).read(name, limit=entry.bytes + 1)
    if sha256_hex(data) != entry.sha256:
        raise IntegrityError(f"bundle {manifest.name}: {name} was altered after the bundle was verified")
    return data


def _write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, data in files.items():
            (made / name).write_bytes(data)
        made.chmod(0o755)
        made.replace(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _digest(files: Mapping[str, bytes]) -> str:
    digests = {name: sha256_hex(data) for name, data in files.items()}
    return sha256_hex(canonical_json(digests))


def _tasks(bundle: Path, manifest: Manifest) -> dict[str, Task]:
    """The bundle's tasks by name, each one that the module can carry out."""
    found = {}
    for name in manifest.tasks:
        found[name] = Task.from_bytes(_read(bundle, manifest, f"tasks/{name}.json"))
        if found[name].strings:
            raise BundleError(
                f"bundle {manifest.name}: task {name} writes strings, which the engine's module for browsers cannot",
                hint="take `strings` out of the task; the program, the library and Python write them",
            )
    return found


def _patients(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """A simulated patient for each task whose readings the simulator measures."""
    task = tasks.get(icu_risk.NAME)
    if task is None or task.signal.static != icu_risk.STATIC_FEATURES:
        return {}
    (stay,) = simulate_ward(1, _SEED, task.num_bins)
    hours: list[list[tuple[str, float]]] = [[] for _ in range(task.num_bins)]
    for minute, code, value in zip(stay.minute, stay.code, stay.value, strict=True):
        place = max(-(-int(minute) // task.signal.bin_minutes) - 1, 0)
        if place < task.num_bins and PARAMETERS[code].name in task.signal.parameters:
            hours[place].append((PARAMETERS[code].name, float(value)))
    static = icu_risk.static_features(stay).tolist()
    patient = {"name": stay.record_id, "static": static, "hours": hours, "positive": task.fields[0].positive}
    return {task.name: patient}
