"""A folder that decides in the browser: the page, the engine as WebAssembly, a verified bundle and its keys.

Any web server can hand it out; nothing but these files is ever asked for. Browsers run WebAssembly and keep a page for
use without a network only from `https://` or from this very machine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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
_OFFLINE = "offline.js"
_PLACEHOLDER = b"VERSION OF ALL FILES"
_SEED = 4


@dataclass(frozen=True, slots=True)
class PageSize:
    """What a visitor downloads.

    Attributes:
        bytes: All files.
        engine_bytes: The engine's module.
        bundle_bytes: The bundle.
        left_out: Files of the bundle that are for other runtimes.
    """

    bytes: int
    engine_bytes: int
    bundle_bytes: int
    left_out: tuple[str, ...]


def write_page(bundle: Path, out: Path, *, trusted_keys: Path, now: datetime, wasm: Path | None = None) -> PageSize:
    """Verify a bundle and write a folder that decides with it in a browser.

    Args:
        bundle: A signed bundle, a directory or a single file.
        out: The folder; it must not exist yet, and appears whole or not at all.
        trusted_keys: Folder of public keys; the page carries them and verifies the bundle by them.
        now: Moment that expiry is judged by.
        wasm: The engine's module; default: where `engine/build.sh wasm32-unknown-unknown` leaves it.

    Raises:
        BundleError: the bundle is not genuine, or the module or the page was not found.
        InputError: `out` exists, or could not be written.
    """
    if out.exists():
        raise InputError(f"{out} exists already: expected a new folder")
    module = wasm or _WASM
    for path, hint in ((module, "engine/build.sh wasm32-unknown-unknown, or give --engine FILE"), (_PAGE, "")):
        if not path.exists():
            raise BundleError(f"{path} was not found", hint=hint or "use a checkout: the page is not installed by pip")
    inside = bundle_for_engine(bundle, trusted_keys=trusted_keys, now=now)
    made = {
        "bundle.zip": inside.archive,
        "keys.pem": inside.keys,
        "patient.json": canonical_json(_patients(bundle, inside.manifest)),
        "smallhold_engine.js": _WRAPPER.read_bytes(),
        "smallhold_engine.wasm": module.read_bytes(),
    }
    sources = {path.name: path.read_bytes() for path in sorted(_PAGE.iterdir()) if path.is_file()} | made
    # The browser compares this one file to learn that any of them is new.
    sources[_OFFLINE] = sources[_OFFLINE].replace(_PLACEHOLDER, _digest(sources).encode(), 1)
    try:
        _write_folder(out, sources)
    except OSError as error:
        raise InputError(f"{out} could not be written: {error}") from error
    return PageSize(
        sum(map(len, sources.values())), len(made["smallhold_engine.wasm"]), len(inside.archive), inside.left_out
    )


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


def _patients(bundle: Path, manifest: Manifest) -> dict[str, Any]:
    """A simulated patient for each task whose readings the simulator measures."""
    name = f"tasks/{icu_risk.NAME}.json"
    if name not in manifest.files:
        return {}
    data = open_bundle_files(bundle).read(name, limit=manifest.files[name].bytes + 1)
    if sha256_hex(data) != manifest.files[name].sha256:
        raise IntegrityError(f"bundle {manifest.name}: {name} was altered after the bundle was verified")
    task = Task.from_bytes(data)
    if task.signal.static != icu_risk.STATIC_FEATURES:
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
