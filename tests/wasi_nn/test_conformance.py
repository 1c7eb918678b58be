"""The cases of conformance/wasi_nn, through this project's host with each runtime behind it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.engine_library import build_engine

pytest.importorskip("wasmtime", reason="the host runs on wasmtime: pip install 'smallhold[wasm]'")

from conformance.wasi_nn.run import HERE, run_cases

from smallhold.device.backends.reference import ReferenceSession

CASES = [case["name"] for case in json.loads((HERE / "cases.json").read_text())]


@pytest.mark.parametrize("runtime", ["engine", "onnx_runtime", "reference"])
def test_every_case_passes(runtime: str) -> None:
    if runtime == "engine":
        build_engine()
    rows = list(run_cases(runtime))
    assert [row["case"] for row in rows] == CASES
    assert [row for row in rows if row["status"] != "pass"] == []


@pytest.mark.parametrize(
    ("method", "wrong", "case"),
    [
        ("rewind", lambda self, length: None, "a_session_rewinds"),
        ("fork", lambda self: self, "a_session_becomes_a_copy_of_another"),
        ("append", lambda self, inputs: None, "a_session_in_pieces_is_the_whole"),
    ],
)
def test_a_host_that_does_wrong_is_found(
    method: str, wrong: Callable[..., object], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReferenceSession, method, wrong)
    (row,) = run_cases("reference", case)
    assert row["status"] == "fail"
