"""Which program on which processor computed something: what bit-exact replay depends on.

Floating-point results are the same again for the same software on the same instruction set. Another instruction set
may sum in another order; nobody promises equal bits then, and neither do we.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from smallhold.errors import BackendError
from smallhold.version import __version__


def this_build(backend: str) -> dict[str, str]:
    """Version, runtime and instruction set of this process.

    Args:
        backend: `onnx_runtime`, `engine` or `reference`; empty without a model.

    Returns:
        Members `smallhold`, `numpy`, `machine`, `instruction_set` and, with a model, `backend` and `runtime`.
    """
    build = {
        "smallhold": __version__,
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "instruction_set": _instruction_set(),
    }
    if backend:
        build |= {"backend": backend, "runtime": _runtime(backend)}
    return build


def build_difference(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """The members in which two builds differ, in words; empty when they are the same."""
    names = sorted(name for name in {*recorded, *present} if recorded.get(name) != present.get(name))
    return "; ".join(f"{name}: recorded {recorded.get(name)!r}, here {present.get(name)!r}" for name in names)


def _instruction_set() -> str:
    # What numpy found on this processor; onnxruntime and the engine choose their kernels by the same features.
    found: Any = np.show_config(mode="dicts")
    extensions = found.get("SIMD Extensions", {}) if isinstance(found, dict) else {}
    return " ".join([*extensions.get("baseline", []), *extensions.get("found", [])])


def _runtime(backend: str) -> str:
    if backend == "engine":
        from smallhold.device.backends.engine import kernel_families

        try:
            return f"kernels {' '.join(kernel_families())}"
        except BackendError:
            return "unknown"
    if backend == "onnx_runtime":
        try:
            return version("onnxruntime")
        except PackageNotFoundError:
            return "unknown"
    return f"numpy {np.__version__}"
