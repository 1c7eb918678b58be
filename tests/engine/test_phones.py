"""Phones: static libraries that are built and not run, and the Kotlin wrapper, run on the desktop's Java machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.engine.program import LONGEST_SECONDS, MODELS, Lines
from tests.engine_library import ENGINE, build_engine

HEADER = ENGINE / "include" / "smallhold_engine.h"
#: Target to what its object format puts before the names of C.
TARGETS = {"aarch64-linux-android": "", "aarch64-apple-ios": "_"}
STRICT = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def tool(*names: str, hint: str) -> str:
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    pytest.skip(f"{names[0]} is missing: {hint}")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_static_library_holds_every_function_of_the_header(target: str) -> None:
    nm = tool("llvm-nm", *(f"llvm-nm-{version}" for version in range(24, 13, -1)), hint="make system")
    script = str(ENGINE / "build.sh")
    built = subprocess.run([script, target], capture_output=True, text=True, timeout=600)
    if built.returncode != 0 and "apt-get install" in built.stderr:
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stderr
    library = ENGINE / "target" / target / "release" / "libsmallhold_engine.a"
    listed = subprocess.run(
        [nm, "--defined-only", "--extern-only", str(library)], capture_output=True, text=True, timeout=60
    )
    defined = {line.split()[-1] for line in listed.stdout.splitlines() if " T " in line}
    declared = set(re.findall(r"\b(smallhold_\w+)\(", HEADER.read_text()))
    assert len(declared) > 10
    assert {TARGETS[target] + name for name in declared} <= defined
    machines = {
        "aarch64-linux-android": b"\x7fELF\x02\x01\x01",
        "aarch64-apple-ios": b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01",
    }
    assert machines[target] in library.read_bytes()


def test_swift_finds_the_header_by_its_module_map(tmp_path: Path) -> None:
    clang = tool(*(f"clang-{version}" for version in range(24, 13, -1)), "clang", hint="make system")
    source = tmp_path / "uses.m"
    source.write_text("@import CSmallholdEngine;\nint kind(void) { return SMALLHOLD_UNTRUSTED; }\n")
    module = ENGINE / "swift" / "Sources" / "CSmallholdEngine" / "module.modulemap"
    words = [clang, "-x", "objective-c", "-fmodules", f"-fmodules-cache-path={tmp_path}", f"-fmodule-map-file={module}"]
    done = subprocess.run([*words, "-fsyntax-only", str(source)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def kotlin(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that asks a bundle through Kotlin, Java's machine and C."""
    kotlinc, java = tool("kotlinc", hint="make system"), tool("java", hint="make system")
    compiler, javac = tool("cc", hint="make system"), tool("javac", hint="make system")
    build_engine()
    folder = tmp_path_factory.mktemp("kotlin")
    jni = Path(javac).resolve().parents[1] / "include"
    sources = [str(ENGINE / "kotlin" / "smallhold_jni.c"), str(ENGINE / "target" / "release" / "libsmallhold_engine.a")]
    words = [compiler, *STRICT, "-shared", "-fPIC", f"-I{jni}", f"-I{jni / 'linux'}", f"-I{HEADER.parent}", *sources]
    done = subprocess.run(
        [*words, "-lpthread", "-ldl", "-lm", "-o", str(folder / "libsmallhold_jni.so")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    app = folder / "app.jar"
    wrappers = sorted(map(str, (ENGINE / "kotlin").glob("*.kt")))
    done = subprocess.run(
        [kotlinc, *wrappers, "-include-runtime", "-d", str(app)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [java, "-Xcheck:jni", f"-Djava.library.path={folder}", "-cp", str(app), "smallhold.engine.ExampleKt"]


def ask(kotlin: list[str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*kotlin, *map(str, words)], capture_output=True, text=True, timeout=LONGEST_SECONDS)


def test_kotlin_is_answered_as_the_program_answers(kotlin: list[str]) -> None:
    (keys,) = (MODELS / "trusted_keys").glob("*.pem")
    requests = [
        {"task": "triage", "text": "fièvre, toux et douleurs: 39 °C \U0001f912", "id": "é\u0000"},
        {"task": "icu-risk", "patient": "7", "static": [0.4, 1, 0, 0, 0, 1, 0, 0, 0]},
        {"task": "icu-risk", "patient": "7", "observe": [["HR", 131.0]], "close": True, "decide": True},
    ]
    done = ask(kotlin, MODELS / "hospital", keys, *map(json.dumps, requests))
    assert (done.returncode, "WARNING" in done.stdout) == (0, False), done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    with Lines(MODELS / "hospital") as lines:
        expected = [lines.ask(**request) for request in requests]
    for item in expected:
        del item["latency_ms"]
    assert answers == expected


def test_kotlin_throws_what_the_library_refuses(kotlin: list[str], tmp_path: Path) -> None:
    stranger, one_file = tmp_path / "nobody.pem", tmp_path / "not.zip"
    stranger.write_text("\n")
    one_file.write_bytes(b"PK")
    for words, said in (
        ((MODELS / "hospital", stranger), "UNTRUSTED: bundle"),
        ((tmp_path / "nowhere", ""), "SYSTEM: bundle"),
        ((one_file, ""), "MALFORMED: ZIP: byte 0"),
    ):
        done = ask(kotlin, *words)
        assert (done.returncode, done.stderr.startswith(said)) == (2, True), done.stderr
