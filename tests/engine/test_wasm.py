"""The engine as WebAssembly in Node: the logits of the native library, and its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.engine_library import ENGINE, MOST_APART, build_engine

from smallhold.device.backends.engine import EngineBackend

pytestmark = pytest.mark.slow
TARGET = "wasm32-unknown-unknown"
WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "hospital" / "gguf" / "trunk.gguf"
#: By Debian's binaryen, which does not know relaxed SIMD as browsers do; without it a tenth more.
MOST_BYTES, MOST_BYTES_UNOPTIMIZED = 250_000, 280_000
TOKENS = [(37 * i) % 8000 for i in range(50)]
PROGRAM = """
import { readFileSync } from "node:fs";
const [wrapper, wasm, weights, tokens] = process.argv.slice(1);
const { Engine } = await import(wrapper);
const engine = await Engine.load(readFileSync(wasm));
const gguf = readFileSync(weights);
const found = {};
for (const kernels of engine.kernels()) {
  const model = engine.model(gguf, kernels);
  const session = model.session();
  session.append(JSON.parse(tokens));
  const fork = session.fork();
  fork.append(new Float32Array(model.width).fill(0.5));
  fork.rewind(session.length);
  let refused = "";
  try { session.append([model.vocabSize]); } catch (error) { refused = `${error.kind} ${error.message}`; }
  found[kernels] = { logits: [...session.score([5, 6], [-1, 1])], length: session.length, refused };
  fork.free(); session.free(); model.free();
}
let damaged = "";
try { engine.model(gguf.subarray(0, 5000)); } catch (error) { damaged = `${error.kind} ${error.message}`; }
console.log(JSON.stringify({ found, damaged, takesRelaxed: Engine.hasRelaxedSimd() }));
"""


def build_wasm(*words: str) -> Path:
    """The module, built; skip where the toolchain is missing."""
    if shutil.which("node") is None:
        pytest.skip("node is missing: make system")
    command = [str(ENGINE / "build.sh"), TARGET, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    if done.returncode == 1 and "apt-get install" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return ENGINE / "target" / TARGET / "release" / f"{'_'.join(['smallhold_engine', *words])}.wasm"


def relaxed_flags() -> list[str]:
    """What Node needs to be told for relaxed SIMD: up to version 20 it lies behind a flag."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return ["--experimental-wasm-relaxed-simd"] if int(version.removeprefix("v").split(".")[0]) <= 20 else []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("words", "family"), [((), "simd128"), (("relaxed",), "relaxed-simd")])
def test_node_says_what_the_native_library_says(words: tuple[str, ...], family: str) -> None:
    wasm = build_wasm(*words)
    is_optimized = not words and shutil.which("wasm-opt") is not None
    assert wasm.stat().st_size <= (MOST_BYTES if is_optimized else MOST_BYTES_UNOPTIMIZED)
    wrapper = (ENGINE / "javascript" / "smallhold_engine.js").as_uri()
    code = ["--input-type=module", "-e", PROGRAM, "--"]
    command = ["node", *(relaxed_flags() if words else ()), *code, wrapper, str(wasm), str(WEIGHTS), json.dumps(TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    build_engine()
    native = EngineBackend(WEIGHTS).session()
    native.append(TOKENS)
    expected = native.score([5, 6], [-1, 1])
    assert set(said["found"]) == {family, "scalar"}
    assert said["takesRelaxed"] or not words
    for kernels, found in said["found"].items():
        logits = np.array(found["logits"], dtype=np.float32).reshape(expected.shape)
        # Functions differ in the last digit, which now and then tips an activation over to the next of 8 bits.
        relative = np.linalg.norm(logits - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert relative.max() <= MOST_APART, kernels
        # These tokens mean nothing, so that the two likeliest may be alike: what is first here is almost first there.
        first = np.take_along_axis(expected, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
        assert (expected.max(axis=1) - first).max() < 0.05, kernels
        assert found["length"] == len(TOKENS) and found["refused"].startswith("3 tokens: expected ids below 8264")
    assert said["damaged"].startswith("1 GGUF file is truncated")
