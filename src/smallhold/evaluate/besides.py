"""The bundle that is measured, and others measured beside it on the same rows: 4 bits, or an ablation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from smallhold.decide.local import LocalBundle, LocalTask
from smallhold.decide.text_task import LocalTextTask
from smallhold.errors import InputError
from smallhold.evaluate.result import MODELS, Beside, BundleInfo


def describe_bundle(bundle: LocalBundle) -> BundleInfo:
    """Which bundle was measured."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "files": [{"path": p, "bytes": e.bytes, "role": e.role} for p, e in sorted(manifest.files.items())],
        "total_bytes": _total_bytes(bundle),
        "training_data": list(manifest.training_data),
    }


def describe_besides(besides: Mapping[str, LocalTask | LocalTextTask]) -> list[Beside]:
    """Which other bundles were measured beside it."""
    return [
        {
            "name": name,
            "bundle": f"{other.bundle.manifest.name} {other.bundle.manifest.version}",
            "digest": other.bundle.manifest.digest,
            "total_bytes": _total_bytes(other.bundle),
        }
        for name, other in besides.items()
    ]


def require_new_names(names: Iterable[str]) -> None:
    """Refuse names that a model of every report has already.

    Raises:
        InputError: a name is taken, or is nothing.
    """
    for name in names:
        if name in MODELS or not name.strip():
            taken = f"taken by the {MODELS[name]}" if name in MODELS else "empty"
            raise InputError(f"--beside {name!r}: this name is {taken}", hint="choose another: --beside NAME=BUNDLE")


def require_same_hours(local: LocalTask, besides: Mapping[str, LocalTask]) -> None:
    """Refuse bundles whose task is measured at other hours.

    Raises:
        InputError: one is.
    """
    for name, other in besides.items():
        if other.task.horizons != local.task.horizons:
            raise InputError(
                f"--beside {name}: expected a task measured at the hours {list(local.task.horizons)}, "
                f"got {list(other.task.horizons)}"
            )


def _total_bytes(bundle: LocalBundle) -> int:
    return sum(entry.bytes for entry in bundle.manifest.files.values())
