"""Strings that the trunk writes: the engine's program writes what Python writes."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.engine.program import Lines, replace_file
from tests.engine.test_wasm import build_wasm
from tests.engine_library import ENGINE, build_engine

from smallhold.bundle.assemble import sign_bundle
from smallhold.bundle.web_page import write_page
from smallhold.decide.bounded_string import StringField
from smallhold.decide.local import BackendName, open_bundle
from smallhold.decide.task import Task
from smallhold.device.trust import generate_private_key, save_public_key
from smallhold.device.zip_layout import encode_zip
from smallhold.errors import BundleError

pytest.importorskip("torch", reason="the bundle of these tests is built with the extra 'train'")

STRINGS = (
    StringField(name="dose_mg", alphabet="0123456789.", max_bytes=8, prompt="\ndose: "),
    StringField(name="drug", alphabet="abcdefghijklmnopqrstuvwxyz -", max_bytes=5),
)
ASKING = """
import { readFileSync } from "node:fs";
const [wrapper, wasm, bundle] = process.argv.slice(1);
const { Engine } = await import(wrapper);
const engine = await Engine.load(readFileSync(wasm));
try { engine.program(readFileSync(bundle), { keys: null }); } catch (error) { console.log(error.message); }
"""
NOW = datetime(2030, 1, 1, tzinfo=UTC)
TEXTS = ("metoprolol 47.5 mg in the morning", "no drug", "two tablets")


@pytest.fixture(scope="module", autouse=True)
def program() -> None:
    build_engine()


@pytest.fixture(scope="module")
def folder(text_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("strings") / "bundle"
    shutil.copytree(text_bundle.path, bundle)
    task = Task.from_bytes((bundle / "tasks" / "triage.json").read_bytes())
    text = replace(task.text, max_tokens=40)  # type: ignore[type-var]
    replace_file(bundle, "tasks/triage.json", replace(task, text=text, strings=STRINGS).to_bytes())
    return bundle


def test_the_program_writes_what_python_writes(folder: Path, text_bundle: Any) -> None:
    names: tuple[BackendName, ...] = ("engine", "onnx_runtime")
    engine, onnx_runtime = (open_bundle(folder, backend=name, unsafe_skip_verification=True) for name in names)
    with Lines(folder) as lines, Lines(text_bundle.path) as plain:
        said = {text: lines.ask(task="triage", text=text) for text in TEXTS}
        for text in TEXTS:
            answer = plain.ask(task="triage", text=text)
            assert "strings" not in answer
            assert {**said[text], "latency_ms": 0} == {
                **answer,
                "strings": said[text]["strings"],
                "latency_ms": 0,
            }
        for asked in ({"reads": True}, {"logits": [0.0] * 3}):
            error = lines.ask(task="triage", text="a", **asked)["error"]
            assert (error["kind"], "writes strings" in error["message"]) == ("unsupported", True)
    for text in TEXTS:
        ours, theirs = (bundle.text_task("triage").decide(text).strings for bundle in (engine, onnx_runtime))
        assert list(said[text]["strings"]) == list(ours) == ["dose_mg", "drug"]
        for name, written in ours.items():
            expected = asdict(written)
            assert said[text]["strings"][name] == {**expected, "mean_logprob": pytest.approx(written.mean_logprob)}
            assert said[text]["strings"][name]["is_generated"] is True
            # Of random weights many a token is nearly as probable as another; here none is at the edge.
            assert theirs[name].text == written.text
            assert theirs[name].mean_logprob == pytest.approx(written.mean_logprob, abs=0.05)
    assert len({json.dumps(item["strings"]) for item in said.values()}) == len(TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphabet": "00"}, "alphabet of different printable ASCII characters"),
        ({"max_bytes": 257}, "max_bytes: expected 1 to 256, got 257"),
        ({"name": "condition"}, "strings: expected names of their own"),
        ({"max_bytes": 64}, "context of"),
    ],
)
def test_what_python_refuses_the_program_refuses(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(folder, bundle)
    value = json.loads((bundle / "tasks" / "triage.json").read_bytes())
    value["strings"] = [{**asdict(STRINGS[1]), **change}]
    replace_file(bundle, "tasks/triage.json", json.dumps(value).encode())
    lines = Lines(bundle)
    _, error = lines.process.communicate(timeout=60)
    assert (lines.process.returncode, message in error.decode()) == (2, True), error
    with pytest.raises(Exception, match=message):
        open_bundle(bundle, backend="engine", unsafe_skip_verification=True).task("triage")


@pytest.mark.timeout(1800)
def test_the_module_for_browsers_refuses_strings_and_says_so(folder: Path, tmp_path: Path) -> None:
    wasm = build_wasm()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    (tmp_path / "bundle.zip").write_bytes(b"".join(encode_zip(sizes, lambda name: [files[name].read_bytes()])))
    wrapper = (ENGINE / "javascript" / "smallhold_engine.js").as_uri()
    command = ["node", "--input-type=module", "-e", ASKING, "--", wrapper, str(wasm), str(tmp_path / "bundle.zip")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "strings: this build of the engine decides and writes none" in done.stdout


def test_a_page_is_refused_before_it_is_written(folder: Path, tmp_path: Path) -> None:
    bundle, keys, key = tmp_path / "bundle", tmp_path / "keys", generate_private_key()
    shutil.copytree(folder, bundle)
    sign_bundle(bundle, key)
    keys.mkdir()
    save_public_key(key.public_key(), keys / "own.pem")
    with pytest.raises(BundleError, match="task triage writes strings, which the engine's module for browsers cannot"):
        write_page(bundle, tmp_path / "page", trusted_keys=keys, now=NOW, wasm=build_wasm())
    assert not (tmp_path / "page").exists()
