"""What a runtime offers to be compared, and what the targets share: building the engine and running a driver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from conformance.compare import FloatArray
from conformance.models import ROOT, Model
from conformance.prompts import Prompt, encode
from smallhold.device.backends import Backend

ENGINE = ROOT / "engine"
DRIVERS = Path(__file__).parent / "drivers"
WRAPPER = ENGINE / "javascript" / "smallhold_engine.js"
Words = Sequence[str | Path]
Request = dict[str, Any]


class Absent(Exception):  # noqa: N818 - no error: a target that is not here
    """A target that cannot run on this machine; the message says what is missing and what installs it."""


class Failed(Exception):  # noqa: N818 - a verdict about the target, no error of ours
    """A target that was there and broke; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One runtime on one kind of processor.

    Attributes:
        name: For tables; equal from run to run.
        logits: Logits (T, V) of each prompt in turn; a prompt of several parts is appended part by part.
        decide: Answers to the requests that `engine/src/program.rs` describes, asked of a bundle with its keys; None
            where the runtime has no way to a decision.
        tolerance: Key of `tolerance.json` beside the golden bundles.
        positions: Asked about each of the two large models; fewer where the runtime is slow.
        takes_embeddings: Whether it has the door of embeddings.
        families: Whether it computes Qwen2 and Qwen3 too.
        is_exact_in_pieces: Whether the same bits are promised of a prompt in pieces and the whole.
        beside: Expected logits of prompts from elsewhere, for the oracle that cannot be judged by itself.
    """

    name: str
    logits: Callable[[Model, Sequence[Prompt]], Iterator[FloatArray]]
    decide: Callable[[Path, Path, Sequence[Request]], list[Request]] | None = None
    tolerance: str = "engine"
    positions: int = 10_000
    takes_embeddings: bool = True
    families: bool = True
    is_exact_in_pieces: bool = False
    beside: Callable[[Model, Sequence[Prompt]], Iterator[FloatArray]] | None = None


def of_backend(open_backend: Callable[[Model], Backend]) -> Callable[[Model, Sequence[Prompt]], Iterator[FloatArray]]:
    """Logits of what has sessions in Python."""

    def logits(model: Model, prompts: Sequence[Prompt]) -> Iterator[FloatArray]:
        backend = open_backend(model)
        for prompt in prompts:
            session, found = backend.session(), []
            for i, part in enumerate(prompt.parts):
                found.append(session.score(part, list(range(len(part)))))
                if i + 1 < len(prompt.parts):
                    session.append(part)
            yield np.concatenate(found)

    return logits


def of_driver(
    words: Callable[[Model], Words], *, deadline_seconds: float, env: Mapping[str, str] | None = None
) -> Callable[[Model, Sequence[Prompt]], Iterator[FloatArray]]:
    """Logits of a program that reads prompts in a file, its last argument, and writes float32 to standard output.

    Args:
        words: Its command, without the file.
        deadline_seconds: For all prompts together.
        env: Added to the environment.
    """

    def logits(model: Model, prompts: Sequence[Prompt]) -> Iterator[FloatArray]:
        with TemporaryDirectory() as folder:
            job, complaints = Path(folder) / "prompts", Path(folder) / "complaints"
            job.write_bytes(encode(prompts))
            command = [str(word) for word in (*words(model), job)]
            with complaints.open("wb") as errors:
                process = subprocess.Popen(  # noqa: S603 - a command of our own
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                    env={**os.environ, **(env or {})},
                )  # fmt: skip
            guard = threading.Timer(deadline_seconds, process.kill)
            guard.start()
            try:
                assert process.stdout is not None  # noqa: S101 - it was asked for
                for prompt in prompts:
                    wanted = len(prompt) * model.vocab_size * 4
                    data = process.stdout.read(wanted)
                    if len(data) < wanted:
                        late = "" if guard.is_alive() else f" within {deadline_seconds:.0f} s"
                        said = complaints.read_text(errors="replace").strip()[-500:]
                        raise Failed(f"{command[0]}: expected {wanted} bytes of logits{late}, got {len(data)}: {said}")
                    yield np.frombuffer(data, "<f4").reshape(len(prompt), model.vocab_size)
            finally:
                guard.cancel()
                process.kill()
                process.communicate()

    return logits


def of_program(
    words: Callable[[Path, Path], Words], *, deadline_seconds: float, env: Mapping[str, str] | None = None
) -> Callable[[Path, Path, Sequence[Request]], list[Request]]:
    """Decisions of a program that answers JSON lines: `words(bundle, keys)` is its command."""

    def decide(bundle: Path, keys: Path, requests: Sequence[Request]) -> list[Request]:
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        said = run(words(bundle, keys), stdin=lines, deadline_seconds=deadline_seconds, env=env)
        return [json.loads(line) for line in said.splitlines()]

    return decide


def run(words: Words, *, deadline_seconds: float, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command.

    Raises:
        Failed: it ended with another code than 0, or not in time.
    """
    command = [str(word) for word in words]
    try:
        done = subprocess.run(  # noqa: S603 - a command of our own
            command, input=stdin, capture_output=True, text=True, timeout=deadline_seconds, check=False,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]}: not done within {deadline_seconds:.0f} s") from error
    if done.returncode:
        raise Failed(f"{command[0]}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def find(program: str, package: str) -> str:
    """A program on the path.

    Raises:
        Absent: it is not there.
    """
    found = shutil.which(program)
    if found is None:
        raise Absent(f"{program} is missing: apt-get install {package}, or make system")
    return found


def build_engine(target: str = "native") -> Path:
    """Build the engine, and give the folder of what was built.

    Raises:
        Absent: the toolchain for it is missing.
        Failed: it does not compile.
    """
    find("cargo", "cargo-web")
    done = subprocess.run(  # noqa: S603 - our own script
        [str(ENGINE / "build.sh"), target], capture_output=True, text=True, timeout=1800, check=False
    )
    if done.returncode == 1 and "apt-get install" in done.stderr:
        raise Absent(done.stderr.strip())
    if done.returncode:
        raise Failed(f"engine/build.sh {target}: {done.stderr.strip()[-500:]}")
    inside = () if target == "native" else (target,)
    return ENGINE.joinpath("target", *inside, "release")
