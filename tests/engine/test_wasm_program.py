"""A bundle in WebAssembly, verified and asked in Node: the answers of the native program."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.program import MODELS, Lines
from tests.engine.test_wasm import build_wasm
from tests.engine_library import ENGINE, build_engine

from smallhold.device.bundle_files import write_bundle_zip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REQUESTS: list[dict[str, Any]] = [
    {"task": "triage", "text": "Боль в груди, fever 38.5 and a cough for 3 days…", "explain": True},
    {"task": "note-specialty", "text": "The patient was seen for follow-up of a knee arthroscopy."},
    {"task": "icu-risk", "patient": "7", "static": [0.4, 1, 0, 0, 0, 1, 0, 0, 0]},
    {"task": "icu-risk", "patient": "7", "observe": [["HR", 131.0], ["Temp", 39.1]], "close": 2, "decide": True},
    {"task": "icu-risk", "patient": "7", "observe": [["MAP", 58.0]], "close": True, "decide": True, "explain": True},
    {"task": "icu-risk", "patient": "w", "static": [0.4, 1, 0, 0, 0, 1, 0, 0, 0], "words": True},
    {"task": "icu-risk", "patient": "w", "observe": [["HR", 131.0]], "close": 3, "decide": True},
]
SCRIPT = """
import { readFileSync } from "node:fs";
const [wrapper, wasm, bundle, keys, requests] = process.argv.slice(1);
const { Engine } = await import(wrapper);
const engine = await Engine.load(readFileSync(wasm));
const bytes = readFileSync(bundle), pem = readFileSync(keys, "utf8");
const program = engine.program(bytes, { keys: pem });
const answers = JSON.parse(requests).map((request) => program.ask(request));
const refused = (run) => {
  try { run(); return "nothing"; } catch (error) { return `${error.kind} ${error.message}`; }
};
const altered = new Uint8Array(bytes); altered[altered.length >> 1] ^= 1;
const said = {
  altered: refused(() => engine.program(altered, { keys: pem })),
  unknown: refused(() => engine.program(bytes, { keys: "" })),
  none: refused(() => engine.program(bytes, {})),
  patient: refused(() => program.ask({ task: "icu-risk", patient: "8", close: true })),
  cut: refused(() => engine.program(bytes.subarray(0, 1000), { keys: pem })),
};
for (let i = 0; i < 20; i++) engine.program(bytes, { keys: null }).free();  // room is given back
const used = engine.exports.memory.buffer.byteLength;
program.free();
console.log(JSON.stringify({ answers, said, used }));
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if shutil.which("node") is None:
        pytest.skip("node is missing: make system")
    wasm, bundle = build_wasm(), tmp_path_factory.mktemp("bundle") / "hospital.bundle"
    write_bundle_zip(MODELS / "hospital", bundle)
    (keys,) = (MODELS / "trusted_keys").glob("*.pem")
    wrapper = (ENGINE / "javascript" / "smallhold_engine.js").as_uri()
    words = ["node", "--input-type=module", "-e", SCRIPT, "--", wrapper, wasm, bundle, keys, json.dumps(REQUESTS)]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_node_decides_as_the_native_program_does(said: dict[str, Any], tmp_path: Path) -> None:
    build_engine()
    with Lines(MODELS / "hospital") as program:
        for request, answer in zip(REQUESTS, said["answers"], strict=True):
            expected = program.ask(**request)
            assert answer.keys() == expected.keys() - {"latency_ms"}
            for field, item in answer.get("answers", {}).items():
                other = expected["answers"][field]
                assert (item["choice"], item["prediction_set"]) == (other["choice"], other["prediction_set"])
                found, wanted = ([*pair["probabilities"].values()] for pair in (item, other))
                # An activation that was tipped over to the next of 8 bits.
                np.testing.assert_allclose(found, wanted, atol=0.01)


def test_node_refuses_what_is_not_trusted(said: dict[str, Any]) -> None:
    assert said["said"]["altered"].startswith(("7 ", "1 "))
    assert said["said"]["unknown"].startswith("7 ")
    assert "keys: expected" in said["said"]["none"]
    assert "not open" in said["said"]["patient"]
    assert said["said"]["cut"].startswith("1 ")


def test_memory_is_given_back(said: dict[str, Any]) -> None:
    assert said["used"] < 6 * sum(path.stat().st_size for path in (MODELS / "hospital").rglob("*") if path.is_file())
