"""Engine, model and plan as one WebAssembly module: it verifies itself, and decides as the native program does."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.program import MODELS, Lines
from tests.engine_library import ENGINE, build_engine

pytest.importorskip("wasmtime", reason="the module runs on wasmtime: pip install 'smallhold[wasm]'")

from smallhold.bundle.wasm_app import put_inside
from smallhold.cli.main import main
from smallhold.device.wasi_nn import Limits, Outcome, run_guest
from smallhold.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REQUESTS: list[dict[str, Any]] = [
    {"task": "triage", "text": "Red, itchy patches on both elbows for a month.", "explain": True},
    {"task": "icu-risk", "patient": "7", "static": [0.4, 1, 0, 0, 0, 1, 0, 0, 0]},
    {"task": "icu-risk", "patient": "7", "observe": [["HR", 131.0], ["Temp", 39.1]], "close": 2, "decide": True},
]
SAID = "".join(json.dumps(request) + "\n" for request in REQUESTS)
LIMITS = Limits(seconds=120, fuel=0)
NODE = """
import { readFileSync, openSync } from "node:fs";
import { WASI } from "node:wasi";
const [app, requests] = process.argv.slice(1);
const wasi = new WASI({ version: "preview1", args: ["app"], stdin: openSync(requests) });
const module = await WebAssembly.compile(readFileSync(app));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
"""


@pytest.fixture(scope="module")
def program() -> Path:
    done = subprocess.run(
        [str(ENGINE / "build.sh"), "wasm32-wasip1"], capture_output=True, text=True, timeout=1500, check=False
    )
    if done.returncode == 1 and "apt-get install" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return ENGINE / "target" / "wasm32-wasip1" / "release" / "smallhold-engine.wasm"


@pytest.fixture(scope="module")
def app(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("app") / "hospital.wasm"
    assert made(out) == 0
    return out


def made(out: Path, *more: str) -> int:
    keys = MODELS / "trusted_keys"
    return main(
        ["bundle", "app", str(MODELS / "hospital"), "--wasm", "--out", str(out), "--trusted-keys", str(keys), *more]
    )


def run(wasm: bytes, *args: str, said: str = SAID) -> Outcome:
    return run_guest(wasm, {}, args=["app", *args], stdin=said.encode(), limits=LIMITS)


def check(stdout: str) -> None:
    """What the native program says, to what another order of sums may tip over."""
    build_engine()
    with Lines(MODELS / "hospital") as native:
        for request, line in zip(REQUESTS, stdout.splitlines(), strict=True):
            answer, expected = json.loads(line), native.ask(**request)
            assert answer.keys() == expected.keys()
            for field, item in answer.get("answers", {}).items():
                other = expected["answers"][field]
                assert (item["choice"], item["prediction_set"]) == (other["choice"], other["prediction_set"])
                found, wanted = ([*pair["probabilities"].values()] for pair in (item, other))
                np.testing.assert_allclose(found, wanted, atol=0.01)


def test_the_app_decides_alone_as_the_native_program_does(app: Path) -> None:
    assert app.stat().st_size <= 30_000_000
    outcome = run(app.read_bytes())
    assert (outcome.exit_code, outcome.stderr) == (0, b"")
    check(outcome.stdout.decode())
    outcome = run(app.read_bytes(), "--task", "triage", said='{"text": ""}\n')
    assert outcome.exit_code == 1
    assert json.loads(outcome.stdout)["error"]["kind"]
    assert run(app.read_bytes(), "models/hospital").exit_code == 2
    assert run(app.read_bytes(), "--listen", "127.0.0.1:0").exit_code == 2


def test_the_app_runs_on_another_host(app: Path, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is missing: make system")
    requests = tmp_path / "requests"
    requests.write_text(SAID)
    words = ["node", "--no-warnings", "--input-type=module", "-e", NODE, "--", str(app), str(requests)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    check(done.stdout)


def test_the_program_alone_is_no_app_and_takes_a_granted_bundle(program: Path) -> None:
    from smallhold.device.wasi_nn import Grant

    assert b"expected a bundle" in run(program.read_bytes()).stderr
    grants = [Grant(MODELS, "models")]
    words = ["app", "models/hospital", "--trusted-keys", "models/trusted_keys", "--task", "triage"]
    said = json.dumps(REQUESTS[0]).encode()
    outcome = run_guest(program.read_bytes(), {}, args=words, stdin=said, grants=grants, limits=LIMITS)
    assert (outcome.exit_code, outcome.stderr) == (0, b"")
    assert json.loads(outcome.stdout)["answers"]["condition"]["choice"] == "Psoriasis"


def test_an_app_with_a_changed_byte_does_not_start(app: Path, program: Path) -> None:
    whole = app.read_bytes()
    begin = whole.index(b"PK\x03\x04")
    rng = random.Random(2)
    for place in [begin, len(whole) - 1, *(rng.randrange(begin, len(whole)) for _ in range(3))]:
        data = bytearray(whole)
        data[place] ^= 1 << rng.randrange(8)
        outcome = run(bytes(data))
        assert (outcome.exit_code, outcome.stdout) == (2, b""), place
        assert outcome.stderr.startswith(b"error: ")


def test_what_is_no_program_of_the_engine_is_refused(app: Path, tmp_path: Path, program: Path) -> None:
    engine = program.read_bytes()
    for wrong in (
        b"",
        b"\x7fELF",
        engine[:8],
        engine[:-100],
        engine[:8] + b"\x0a\x01\x00\x0b\x01\x00",
        app.read_bytes(),
    ):
        with pytest.raises(InputError, match="expected the engine's program for WASI"):
            put_inside(wrong, b"data", "x")
    out = tmp_path / "out.wasm"
    for path in (str(tmp_path / "none"), str(tmp_path)):
        assert made(out, "--engine", path) == 1
    assert not out.exists()
