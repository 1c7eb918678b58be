"""`smallhold bundle build --from`, and what the other verbs say of its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")


@pytest.fixture
def in_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smallhold: Callable) -> Callable:
    monkeypatch.setenv("SMALLHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert smallhold("device", "init").code == 0
    return smallhold


def test_one_command_and_then_verify_inspect_install_and_decide(
    in_home: Callable, make_checkpoint: Callable[..., Path]
) -> None:
    done = in_home("bundle", "build", "--from", make_checkpoint(), "--name", "tiny", "--bits", "4")
    assert done.code == 0, done.err
    assert done.out.startswith("tiny 1.0.0, ")
    assert "no task" in done.out
    assert "next: smallhold serve tiny.bundle" in done.err
    assert "genuine" in in_home("bundle", "verify", "tiny.bundle").out
    shown = in_home("bundle", "inspect", "tiny.bundle").out
    assert "tasks: none; trained on data that it does not name" in shown
    assert in_home("device", "install", "tiny.bundle").code == 0
    refused = in_home("decide", "tiny.bundle", "--text", "x")
    assert refused.code == 1
    assert "error: bundle tiny: has no task, so it decides nothing" in refused.err
    assert "hint: smallhold serve BUNDLE" in refused.err


def test_json_names_what_was_built(in_home: Callable, make_checkpoint: Callable[..., Path]) -> None:
    words = ("--from", make_checkpoint(), "--name", "tiny", "--out", "x.zip", "--unsigned", "--context", "32")
    done = in_home("bundle", "build", *words, "--json")
    report = json.loads(done.out)
    assert (report["bundle"], report["is_signed"], report["context_length"], report["tasks"]) == (
        "x.zip",
        False,
        32,
        {},
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "nowhere", "--name", "x"), "nowhere: there is no such file or directory"),
        (("--from", "nowhere"), "--from needs --name NAME"),
        (("run", "--from", "nowhere", "--name", "x"), "expected a run or --from, got both"),
        (("--from", "nowhere", "--name", "x", "--fp32"), "--fp32 is for a run"),
        (("--from", "hf:nonsense", "--name", "x"), "expected hf:ORG/NAME"),
        (("run", "--out", "b", "--name", "x"), "--name goes with --from"),
        (("run", "--out", "b", "--bits", "16"), "a run ships in 8, 4 or 32 bits"),
        (("run",), "expected RUN and --out BUNDLE, or --from SOURCE and --name NAME"),
        ((), "expected RUN and --out BUNDLE"),
    ],
)
def test_words_that_do_not_go_together_are_refused(in_home: Callable, words: tuple, message: str) -> None:
    done = in_home("bundle", "build", *words)
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err
