"""llama.cpp on the same GGUF files, over its own library: somebody else's reading of the format."""

from __future__ import annotations

import os
from pathlib import Path

from conformance.models import ROOT
from conformance.target import DRIVERS, Absent, Target, find, of_driver, run

BUILD = "bench/decide/build_llama.sh"
PLACE = ROOT / "runs" / "peers" / "llama"


def targets() -> list[Target]:
    """The library that `bench/decide/build_llama.sh` builds, or one like it in `$SMALLHOLD_LLAMA`."""
    place = Path(os.environ.get("SMALLHOLD_LLAMA", PLACE))
    library, header = place / "build" / "bin" / "libllama.so", place / "include" / "llama.h"
    if not (library.exists() and header.exists()):
        raise Absent(f"expected {shown(library)} and {shown(header)}: {BUILD}, or set SMALLHOLD_LLAMA")
    driver = place / "build" / "conformance-driver"
    compiler = find("cc", "gcc")
    words = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-I", header.parent, DRIVERS / "llama.c", "-o", driver]
    links = ["-L", library.parent, "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{library.parent}"]
    run([*words, *links], deadline_seconds=120)
    return [Target(name="llama.cpp", logits=of_driver(lambda model: (driver, model.gguf), deadline_seconds=600))]


def shown(path: Path) -> Path:
    """A path below the repository, as a reader types it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
