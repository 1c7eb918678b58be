"""The engine on 64-bit ARM, emulated by qemu: what the native library computes, and the program's answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine_library import ENGINE, MOST_APART, PROGRAM, build_engine

from smallhold.device.backends.engine import EngineBackend

pytestmark = pytest.mark.slow
TARGET = "aarch64-unknown-linux-gnu"
RELEASE = ENGINE / "target" / TARGET / "release"
BUNDLE = Path(__file__).resolve().parents[2] / "models" / "hospital"
WEIGHTS = BUNDLE / "gguf" / "trunk.gguf"
TOKENS = [(37 * i) % 8000 for i in range(50)]
# With the dot product of bytes, and without: Cortex-A53 is of the phones of 2013 and the Raspberry Pi 3.
FAMILIES = {"max": ["dotprod", "neon", "scalar"], "cortex-a53": ["neon", "scalar"]}
CALLER = """
#include <stdio.h>
#include <stdlib.h>
#include "smallhold_engine.h"

static char message[SMALLHOLD_MESSAGE_BYTES];

static void check(int code) {
  if (code) { fprintf(stderr, "%s\\n", message); exit(1); }
}

int main(int count, char **words) { /* weights, kernels, tokens ... : logits on standard output */
  if (count == 1) return puts(smallhold_kernels()) < 0;
  const smallhold_model *model;
  smallhold_info info;
  check(smallhold_model_open(words[1], words[2], &model, &info, message));
  smallhold_session *session = smallhold_session_new(model);
  uint32_t tokens[256], more[] = {5, 6};
  for (int i = 3; i < count; i++) tokens[i - 3] = (uint32_t)atoi(words[i]);
  check(smallhold_session_append(session, tokens, NULL, (size_t)(count - 3), message));
  int64_t at[] = {-1, 1};
  float *logits = calloc(2 * info.vocab_size, sizeof(float));
  check(smallhold_session_score(session, more, NULL, 2, at, 2, NULL, 0, logits, message));
  fwrite(logits, sizeof(float), 2 * info.vocab_size, stdout);
  smallhold_session_free(session);
  smallhold_model_free(model);
  return 0;
}
"""


def run(*words: str | Path, cpu: str = "max", stdin: bytes = b"", timeout: float = 300) -> bytes:
    done = subprocess.run(
        [str(word) for word in words],
        input=stdin,
        env={**os.environ, "QEMU_CPU": cpu},
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-2000:] + done.stderr[-2000:]).decode()
    return done.stdout


def emulate(*words: str | Path, cpu: str = "max", stdin: bytes = b"") -> bytes:
    return run("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", *words, cpu=cpu, stdin=stdin)


@pytest.fixture(scope="module")
def build() -> Path:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is missing: make system")
    script = ENGINE / "build.sh"
    done = subprocess.run([str(script), TARGET], capture_output=True, text=True, timeout=1500, check=False)
    if done.returncode == 1 and "apt-get install" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    build_engine()
    return script


@pytest.fixture(scope="module")
def caller(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("arm64") / "caller.c"
    source.write_text(CALLER)
    library: list[str | Path] = ["-L", RELEASE, "-lsmallhold_engine", f"-Wl,-rpath,{RELEASE}"]
    warnings = ["-O1", "-Wall", "-Wextra", "-Werror"]
    program = source.with_suffix("")
    run("aarch64-linux-gnu-gcc", *warnings, "-I", ENGINE / "include", source, "-o", program, *library)
    return program


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("cpu", "names"), [("max", []), ("cortex-a53", ["kernels"])])
def test_the_tests_of_the_code_pass(build: Path, cpu: str, names: list[str]) -> None:
    said = run(build, TARGET, "test", *names, cpu=cpu, timeout=1500).decode()
    assert "kernels::tests::every_family_computes_what_the_slow_twin_does ... ok" in said


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cpu", FAMILIES)
def test_the_library_says_what_the_native_one_says(caller: Path, cpu: str) -> None:
    families = emulate(caller, cpu=cpu).decode().split()
    assert families == FAMILIES[cpu]
    session = EngineBackend(WEIGHTS, kernels="scalar").session()
    session.append(TOKENS)
    expected = session.score([5, 6], [-1, 1])
    said = {}
    for family in families:
        data = emulate(caller, WEIGHTS, family, *map(str, TOKENS), cpu=cpu)
        said[family] = np.frombuffer(data, dtype=np.float32).reshape(expected.shape)
        # Sums of another order differ in the last digit, which now and then tips an activation to the next of 8 bits.
        relative = np.linalg.norm(said[family] - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert relative.max() <= MOST_APART, family
        assert (said[family].argmax(axis=1) == expected.argmax(axis=1)).all()
    np.testing.assert_array_equal(said["scalar"], expected)
    for family in families[:-1]:
        np.testing.assert_array_equal(said[family], said["neon"])


@pytest.mark.timeout(1800)
def test_the_program_answers_as_the_native_one(build: Path) -> None:
    requests = [
        {"task": "triage", "text": "Red, itchy patches on both elbows. Зуд."},
        {"task": "icu-risk", "patient": "7", "static": [0.0] * 9},
        *({"task": "icu-risk", "patient": "7", "observe": [["HR", 90 + hour]], "close": True} for hour in range(3)),
        {"task": "icu-risk", "patient": "7", "decide": True},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests).encode()
    words: list[str | Path] = [BUNDLE, "--task", "triage", "--task", "icu-risk", "--host-has-verified"]

    def answers(said: bytes) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
        for answer in found:
            assert answer.pop("latency_ms") >= 0
        return found

    program = RELEASE / PROGRAM.name
    native = answers(run(PROGRAM, *words, "--kernels", "scalar", stdin=lines))
    assert len(native) == len(requests)
    assert answers(emulate(program, *words, "--kernels", "scalar", stdin=lines)) == native
    fastest = answers(emulate(program, *words, stdin=lines))
    assert fastest == answers(emulate(program, *words, cpu="cortex-a53", stdin=lines))
    for name, place in (("condition", 0), ("in_hospital_death", -1)):
        found, expected = fastest[place]["answers"][name], native[place]["answers"][name]
        assert found["choice"] == expected["choice"]
        difference = [abs(found["probabilities"][key] - p) for key, p in expected["probabilities"].items()]
        assert max(difference) < 0.01
