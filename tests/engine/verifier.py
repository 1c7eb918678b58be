"""The engine's example `verify`, built and running."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from tests.engine_library import ENGINE


@cache
def build_verifier() -> Path:
    """Build the example; skip where there is no cargo."""
    if shutil.which("cargo") is None:
        pytest.skip("the engine is built with cargo, which is not installed")
    command = ["cargo", "build", "--release", "--offline", "--quiet", "--example", "verify", "--message-format=json"]
    done = subprocess.run(command, cwd=ENGINE, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    messages = map(json.loads, done.stdout.splitlines())
    return Path([m["executable"] for m in messages if m.get("target", {}).get("name") == "verify"][-1])


class Verifier:
    """A running process that answers one question after the other."""

    def __init__(self, *words: object) -> None:
        command = [str(word) for word in (build_verifier(), *words)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, *fields: bytes) -> tuple[str, str]:
        """`ok` and a digest, or a kind of failure and its sentence."""
        self.process.stdin.write(b"".join(struct.pack("<I", len(field)) + field for field in fields))
        self.process.stdin.flush()
        line = self.process.stdout.readline().decode()
        assert line.endswith("\n"), "the verifier has ended"
        kind, _, sentence = line[:-1].partition(" ")
        return kind, sentence


@contextmanager
def running(*words: object) -> Iterator[Verifier]:
    """A verifier that ends well when it is asked nothing more."""
    verifier = Verifier(*words)
    try:
        yield verifier
    finally:
        verifier.process.stdin.close()
        verifier.process.stdout.close()
        assert verifier.process.wait(timeout=60) == 0
