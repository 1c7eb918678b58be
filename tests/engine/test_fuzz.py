"""The fuzz targets build, and their seeds and what a corpus holds do no harm; `make fuzz` looks for more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from tests.engine_library import ENGINE

TARGETS = sorted(path.stem for path in (ENGINE / "fuzz").glob("*.c") if "LLVMFuzzerTestOneInput" in path.read_text())


@pytest.mark.slow
def test_every_target_survives_its_seeds() -> None:
    for name in ("cargo", "bash"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is missing: make system, or rustup")
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [str(ENGINE / "fuzz" / "fuzz.sh"), "0"], env=environment, capture_output=True, text=True, timeout=590
    )
    if "no clang" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(TARGETS) == 11
    assert done.stdout.count("DONE") == len(TARGETS), done.stdout
