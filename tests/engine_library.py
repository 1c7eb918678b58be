"""The engine's library and program, built from their sources where cargo is."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[1] / "engine"
PROGRAM = ENGINE / "target" / "release" / "smallhold-engine"
#: Largest relative distance of a position's logits where two sides round activations to 8 bits in another order.
MOST_APART = 0.06


@cache
def build_engine() -> None:
    """Build the library that `backends.engine` finds, and the program; skip where there is no cargo."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("cargo is missing, and the engine is built with it: make system, or rustup")
    words = [cargo, "build", "--release", "--offline", "--manifest-path", str(ENGINE / "Cargo.toml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
