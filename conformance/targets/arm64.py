"""The engine on 64-bit ARM, emulated by qemu: with the dot product of bytes, without it, and without vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from conformance.models import Model
from conformance.target import DRIVERS, ENGINE, Target, build_engine, find, of_driver, of_program, run

TRIPLE = "aarch64-unknown-linux-gnu"
CPU = {"QEMU_CPU": "max"}
#: Emulation is some thirty times slower than the processor that it runs on.
POSITIONS = {"scalar": 200}
DEFAULT_POSITIONS = 500


def targets() -> list[Target]:
    """One target a family that the emulated processor has."""
    emulator = (find("qemu-aarch64", "qemu-user"), "-L", "/usr/aarch64-linux-gnu")
    compiler = find("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    release = build_engine(TRIPLE)
    driver = release / "conformance-driver"
    library = ("-L", release, "-lsmallhold_engine", f"-Wl,-rpath,{release}")
    source = ("-O1", "-Wall", "-Wextra", "-Werror", "-I", ENGINE / "include", DRIVERS / "engine.c")
    run([compiler, *source, "-o", driver, *library], deadline_seconds=120)

    def logits_words(family: str, model: Model) -> Sequence[str | Path]:
        return *emulator, driver, model.gguf, family

    def program_words(family: str, bundle: Path, keys: Path) -> Sequence[str | Path]:
        program = release / "smallhold-engine"
        return *emulator, program, bundle, "--trusted-keys", keys, "--kernels", family

    families = run([*emulator, driver], deadline_seconds=60, env=CPU).split()
    return [
        Target(
            name=f"engine, arm64 (qemu), {family}",
            logits=of_driver(partial(logits_words, family), deadline_seconds=900, env=CPU),
            decide=of_program(partial(program_words, family), deadline_seconds=900, env=CPU),
            positions=POSITIONS.get(family, DEFAULT_POSITIONS),
            is_exact_in_pieces=True,
        )
        for family in families
    ]
