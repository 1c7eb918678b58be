"""Who takes part: how each is started, what it is compared as, and why one is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.decide import models
from bench.decide.engine_program import EngineProgram
from bench.decide.llama_server import LlamaServer, Way
from bench.decide.measure import Running
from bench.decide.process import ContestantError, Outcome, Process
from bench.decide.workload import BUNDLE, GGUF, ROOT, Workload

HERE = Path(__file__).resolve().parent
LLAMA = ROOT / "runs" / "peers" / "llama"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
RELEASE = ROOT / "engine" / "target" / "release"
ENGINE = Path(os.environ.get("SMALLHOLD_ENGINE", RELEASE / "libsmallhold_engine.so"))
PROGRAM = ENGINE.with_name("smallhold-engine")
SERVER, LIBRARY = LLAMA / "build" / "bin" / "llama-server", LLAMA / "build" / "bin" / "libllama.so"
ONNX = BUNDLE / "onnx" / "trunk.onnx"
#: `{"in_hospital_death":"no"}`, behind the token that decides.
JSON = '{"in_hospital_death":"no"}'
_READY_SECONDS = 120.0
_NO_FLASH = ", -fa off"
_WAYS: tuple[tuple[Way, str, str], ...] = (
    ("json", "JSON", "llama-server stock"),
    ("json, free", "JSON without grammar", "llama-server stock"),
    ("one token", "one token", "llama-server best"),
)


class Driven:
    """`driver.c` or `worker.py`, asked by group."""

    def __init__(self, command: Sequence[str | Path], *, log: Path) -> None:
        """Start it, and wait until it is ready."""
        self._process = Process(command, log=log)
        self.pid = self._process.pid
        try:
            self._process.hear(_READY_SECONDS)
        except BaseException:
            self.stop()
            raise

    def run(self, group: int) -> Outcome:
        """Answer a group of events."""
        self._process.tell(str(group))
        said = self._process.hear()
        margins = [yes - no for no, yes in said["logits"]]
        return Outcome(sum(said["cpu_ns"]) / 1e9, [ns / 1e6 for ns in said["wall_ns"]], margins)

    def first(self) -> None:
        """Answer the first group; its own process says how long a first event takes."""
        self.run(0)

    def stop(self) -> None:
        """End it."""
        self._process.stop()


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row.

    Attributes:
        name: As tables say it.
        role: What it is compared as; several of one role are variants, of which the fastest counts.
        start: Starts it.
        threads: That it computes with.
        command: Answers one event in a new process and ends, for the cold start; else that is asked of a new one.
        files: What has to lie on the device: files and folders.
        kinds: Workloads that it answers.
        is_exact: It computes with the weights of the shipped file, so that its decisions have to be equal.
    """

    name: str
    role: str
    start: Callable[[], Running]
    threads: int = 1
    command: tuple[str | Path, ...] = ()
    files: tuple[Path, ...] = ()
    kinds: tuple[str, ...] = ("stream", "window")
    is_exact: bool = True


@dataclass(slots=True)
class Field:
    """Everybody who takes part, and who is missing and why."""

    contestants: list[Contestant] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


class Starter:
    """Commands of every contestant, for one workload."""

    def __init__(
        self, folder: Path, workload: Workload, spell: Callable[[str], list[int]], margin: Callable[[float], float]
    ) -> None:
        """Compile the drivers and write the events.

        Args:
            folder: Where everything that is made goes.
            workload: What is asked.
            spell: Text to token ids.
            margin: From a calibrated probability back to the logits' margin.
        """
        self.folder, self.answer, self.margin = folder, spell(JSON), margin
        self.ask(workload, "events.txt")
        self._compile("engine", ENGINE, ["-I", ROOT / "engine" / "include"])
        self._compile("llama", LIBRARY, ["-I", LLAMA / "include"])

    def ask(self, workload: Workload, name: str) -> None:
        """What contestants that are started from now on are asked."""
        self.workload, self.events = workload, self.folder / name
        workload.write(self.events)

    def driver(self, runtime: str, model: Path, *, threads: int = 1, flash: bool = True) -> tuple[str | Path, ...]:
        """Command of the driver of a library."""
        return (
            *(self._driver(runtime), "--model", model, "--events", self.events),
            *("--threads", str(threads), "--flash", str(int(flash))),
        )

    def worker(
        self, runtime: str, model: Path, *, threads: int = 1, python: Path = Path(sys.executable)
    ) -> tuple[str | Path, ...]:
        """Command of a runtime that Python drives."""
        return (
            *(python, HERE / "worker.py", runtime, "--model", model, "--events", self.events),
            *("--threads", str(threads)),
        )

    def driven(self, name: str, command: tuple[str | Path, ...]) -> Callable[[], Running]:
        """Starts a driver or worker."""
        return lambda: Driven(command, log=self.log(name))

    def server(
        self, name: str, way: Way, *, model: Path = GGUF, threads: int = 1, flags: Sequence[str] = ()
    ) -> Callable[[], Running]:
        """Starts llama-server."""
        return lambda: LlamaServer(
            SERVER, model, self.workload, way, answer=self.answer, log=self.log(name), threads=threads, flags=flags
        )

    def program(self, name: str, *, words: bool) -> Callable[[], Running]:
        """Starts our program."""
        return lambda: EngineProgram(PROGRAM, self.workload, self.margin, words=words, log=self.log(name))

    def log(self, name: str) -> Path:
        """Where a contestant's messages go."""
        return self.folder / "logs" / f"{name.replace(' ', '-').replace(',', '')}.txt"

    def _driver(self, runtime: str) -> Path:
        return self.folder / "bin" / f"driver-{runtime}"

    def _compile(self, runtime: str, library: Path, flags: Sequence[str | Path]) -> None:
        if not library.exists():
            return
        program = self._driver(runtime)
        program.parent.mkdir(parents=True, exist_ok=True)
        command = ["cc", "-O2", "-Wall", "-Wextra", *flags, HERE / "driver.c", HERE / f"runtime_{runtime}.c"]
        command += ["-o", program, library, f"-Wl,-rpath,{library.parent}", f"-Wl,-rpath-link,{library.parent}"]
        done = subprocess.run(  # noqa: S603 - the compiler on our own files
            [str(word) for word in command], capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode:
            raise ContestantError(f"{program.name} does not compile: {done.stderr[-400:]}")


def hospital_field(starter: Starter) -> Field:
    """Everybody on the trained model."""
    found = Field()
    _add_ours(found, starter)
    _add_llama(found, starter)
    _add_genai(found, starter)
    weights = models.checkpoint(starter.folder / "models" / "float32")
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    command = starter.worker("transformers", weights)
    files = (site / "torch", site / "transformers", weights)
    found.contestants.append(
        Contestant("transformers", "transformers", starter.driven("transformers", command), 1, command, files)
    )
    return found


def _add_ours(found: Field, starter: Starter) -> None:
    if not ENGINE.exists() or not PROGRAM.exists():
        found.missing["engine"] = "not built: cargo build --release --manifest-path engine/Cargo.toml"
    else:
        four = models.four_bits(starter.folder / "models" / "trunk-q4_0.gguf")
        files = (ENGINE, GGUF)
        add = found.contestants.append
        for threads in (1, 2):
            name = f"engine{_threads(threads)}"
            command = starter.driver("engine", GGUF, threads=threads)
            add(Contestant(name, "engine", starter.driven(name, command), threads, command, files))
        name = "engine from Python"
        command = starter.worker("engine", GGUF)
        add(Contestant(name, "engine from Python", starter.driven(name, command), 1, command, files))
        name = "engine 4 bits"
        command = starter.driver("engine", four)
        add(Contestant(name, name, starter.driven(name, command), 1, command, (ENGINE, four), is_exact=False))
        for name, words in (("engine program, words", True), ("engine program, signal tokens", False)):
            start = starter.program(name, words=words)
            add(Contestant(name, name, start, 1, (), (PROGRAM, GGUF), ("stream",), is_exact=words))
    for threads in (1, 2):
        name = f"ONNX Runtime{_threads(threads)}"
        command = starter.worker("onnx_runtime", ONNX, threads=threads)
        import onnxruntime

        files = (Path(onnxruntime.__file__).parent, ONNX)
        found.contestants.append(
            Contestant(name, "ONNX Runtime", starter.driven(name, command), threads, command, files)
        )


def _add_llama(found: Field, starter: Starter) -> None:
    if not LIBRARY.exists():
        found.missing["our logic on llama.cpp"] = f"{LIBRARY.name} is not built: bench/decide/build_llama.sh"
    if not SERVER.exists():
        found.missing["llama-server"] = "not built: bench/decide/build_llama.sh"
    libraries = tuple(sorted(LIBRARY.parent.glob("*.so")))
    for threads in (1, 2):
        if SERVER.exists():
            _add_server(found, starter, threads, libraries)
        for flash, note in ((True, ""), (False, _NO_FLASH)):
            if LIBRARY.exists():
                name = f"our logic on llama.cpp{note}{_threads(threads)}"
                command = starter.driver("llama", GGUF, threads=threads, flash=flash)
                start, files = starter.driven(name, command), (*libraries, GGUF)
                found.contestants.append(Contestant(name, "our logic on llama.cpp", start, threads, command, files))
    if LIBRARY.exists():
        four = models.four_bits(starter.folder / "models" / "trunk-q4_0.gguf")
        name = "our logic on llama.cpp 4 bits"
        command = starter.driver("llama", four)
        start, files = starter.driven(name, command), (*libraries, four)
        found.contestants.append(Contestant(name, name, start, 1, command, files, is_exact=False))


def _add_server(found: Field, starter: Starter, threads: int, libraries: tuple[Path, ...]) -> None:
    for way, label, role in _WAYS:
        # Stock is what one gets without looking for flags; the API is used best without a log of requests, and with
        # whichever attention is faster.
        lean = ("--log-disable",)
        variants: tuple[tuple[tuple[str, ...], str], ...] = (((), ""),)
        if role == "llama-server best":
            variants = ((lean, ""), ((*lean, "-fa", "off"), _NO_FLASH))
        for flags, note in variants:
            name = f"llama-server, {label}{note}{_threads(threads)}"
            start = starter.server(name, way, threads=threads, flags=flags)
            found.contestants.append(Contestant(name, role, start, threads, (), (SERVER, *libraries, GGUF)))


def _add_genai(found: Field, starter: Starter) -> None:
    if not PEERS.exists() or not (PEERS.parents[1] / "stamp").exists():
        found.missing["onnxruntime-genai"] = "not installed: make .venv-peers/stamp"
        return
    source = models.checkpoint(starter.folder / "models" / "float32")
    library = next((PEERS.parents[1] / "lib").glob("python3*/site-packages"))
    for precision in ("int8",):
        try:
            model = models.genai(starter.folder / "models" / "genai", precision, PEERS, source)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            found.missing[f"onnxruntime-genai {precision}"] = str(error)
            continue
        files = (library / "onnxruntime_genai", library / "onnxruntime", model)
        for runtime, label in (("genai", "our logic"), ("genai-guided", "guided JSON")):
            for threads in (1, 2):
                name = f"genai {precision}, {label}{_threads(threads)}"
                command = starter.worker(runtime, model, threads=threads, python=PEERS)
                found.contestants.append(
                    Contestant(name, "genai", starter.driven(name, command), threads, command, files)
                )


def _threads(threads: int) -> str:
    return "" if threads == 1 else f", {threads} threads"
