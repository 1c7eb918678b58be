"""The C interface from C: a program that is compiled with warnings as errors, and linked with either library."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.engine.program import LONGEST_SECONDS, MODELS, Lines
from tests.engine_library import ENGINE, build_engine

RELEASE = ENGINE / "target" / "release"
LIBRARIES = {
    "static": [str(RELEASE / "libsmallhold_engine.a"), "-lpthread", "-ldl", "-lm"],
    "shared": [f"-L{RELEASE}", f"-Wl,-rpath,{RELEASE}", "-lsmallhold_engine"],
}
REQUESTS: list[dict[str, Any]] = [
    {"task": "triage", "text": "fièvre, toux et douleurs: 39 °C", "id": "é\u0000"},
    {"task": "icu-risk", "patient": "7", "static": [0.4, 1, 0, 0, 0, 1, 0, 0, 0]},
    {"task": "icu-risk", "patient": "7", "observe": [["HR", 131.0]], "close": True, "decide": True, "explain": True},
]


@pytest.fixture(scope="module", params=LIBRARIES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler is missing: make system")
    build_engine()
    made = tmp_path_factory.mktemp("c") / "decide"
    source = ENGINE / "examples" / "decide.c"
    words = [compiler, "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", str(source), f"-I{ENGINE / 'include'}"]
    done = subprocess.run(
        [*words, *LIBRARIES[request.param], "-o", str(made)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return made


def ask(program: Path, bundle: Path, keys: Path, *requests: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in (program, bundle, keys, *requests)]
    return subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_SECONDS)


def test_c_is_answered_as_the_program_answers(program: Path, tmp_path: Path) -> None:
    (keys,) = (MODELS / "trusted_keys").glob("*.pem")
    two = tmp_path / "two.pem"  # keys one behind the other
    two.write_text(keys.read_text() + keys.read_text())
    done = ask(program, MODELS / "hospital", two, *map(json.dumps, REQUESTS), '{"task":"none"}')
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    with Lines(MODELS / "hospital") as lines:
        for request, answer in zip(REQUESTS, answers, strict=False):
            expected = lines.ask(**request)
            del expected["latency_ms"]
            assert answer == expected
    assert "expected one of" in answers[-1]["error"]["message"]


def test_c_is_refused_what_nobody_trusted_has_signed(program: Path, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.pem"
    nobody.write_text("")
    done = ask(program, MODELS / "hospital", nobody)
    assert (done.returncode, done.stdout) == (2, "")
    assert "signed by nobody" in done.stderr
    nobody.write_text("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n")
    assert "ed25519" in ask(program, MODELS / "hospital", nobody).stderr
