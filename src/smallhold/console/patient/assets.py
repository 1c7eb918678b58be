"""The files of the page: what the package holds, the rules of the sector, and the model where a folder brings one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from smallhold.console.patient.pairing import LANGUAGES
from smallhold.errors import InputError
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital.symptoms import rules_bytes

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
    "wasm": "application/wasm",
    "zip": "application/zip",
    "pem": "application/x-pem-file",
}
_MODEL_FILES = ("bundle.zip", "keys.pem", "smallhold_engine.js", "smallhold_engine.wasm")
_WORKER = "sw.js"
_VERSION = b'"VERSION OF ALL FILES"'
_FILES = b'["FILES"]'


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is handed out."""

    data: bytes
    media_type: str


def load_assets(
    model_folder: Path | None, *, emergency_number: str = "112", has_server_model: bool = False
) -> Mapping[str, Asset]:
    """Name to file; the empty name is the page itself. They belong together: one version names them all.

    Raises:
        InputError: the model's folder lacks a file.
    """
    root = files("smallhold.console.patient").joinpath("static")
    found = {item.name: item.read_bytes() for item in root.iterdir() if item.is_file()}
    found |= {f"i18n-{language}.json": root.joinpath("i18n", f"{language}.json").read_bytes() for language in LANGUAGES}
    found["symptoms.json"] = rules_bytes()
    if model_folder is not None:
        for name in _MODEL_FILES:
            try:
                found[name] = (model_folder / name).read_bytes()
            except OSError as error:
                raise InputError(
                    f"{model_folder / name}: cannot be read: {error.strerror or error}",
                    hint="smallhold bundle page BUNDLE --trusted-keys DIR --out FOLDER writes such a folder",
                ) from error
    config = {
        "has_device_model": model_folder is not None,
        "has_server_model": has_server_model,
        "emergency_number": emergency_number,
        "languages": list(LANGUAGES),
    }
    found["config.json"] = canonical_json(config)
    version = sha256_hex(canonical_json({name: sha256_hex(data) for name, data in found.items()}))
    # The worker compares this one file to learn that any of them is new.
    kept = ["./", *sorted(set(found) - {_WORKER, "index.html"})]
    worker = found[_WORKER]
    if worker.count(_VERSION) != 1 or worker.count(_FILES) != 1:
        raise InputError(f"{_WORKER}: expected one place for the version and one for the files")
    found[_WORKER] = worker.replace(_VERSION, canonical_json(version)).replace(_FILES, canonical_json(kept))
    found[""] = found.pop("index.html")
    return {name: Asset(data, _TYPES[(name or ".html").rpartition(".")[2]]) for name, data in found.items()}
