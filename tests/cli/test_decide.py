from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smallhold.decide.bounded_string import StringField
from smallhold.decide.task import Task
from smallhold.device.manifest import Manifest
from smallhold.device.trust import generate_private_key, save_public_key, sign_manifest
from smallhold.records import sha256_hex

pytest.importorskip("torch", reason="the bundle of these tests is built with the extra 'train'")

TEXT = "since days itchy scales at night"


@pytest.fixture
def ask(text_bundle: Any, smallhold: Callable[..., Any]) -> Callable[..., Any]:
    """ask("--json", stdin="cough") puts the question of the task triage."""

    def call(*words: object, task: str = "triage", stdin: str | None = None) -> Any:
        trust = ("--trusted-keys", text_bundle.trusted_keys)
        return smallhold("decide", text_bundle.path, "--task", task, *trust, *words, stdin=stdin)

    return call


def test_a_text_comes_as_an_argument_from_a_file_or_from_standard_input(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    note = tmp_path / "note.txt"
    note.write_text(TEXT, encoding="utf-8")
    answers = []
    for done in (ask("--json", "--text", TEXT), ask("--json", "--input", note), ask("--json", stdin=TEXT)):
        said = json.loads(done.out)
        assert done.code == (3 if said["has_abstained"] else 0)
        answers.append({name: item for name, item in said.items() if name != "latency_ms"})
    assert answers[0] == answers[1] == answers[2]
    said = answers[0]
    assert max(said["probabilities"], key=said["probabilities"].__getitem__) == "psoriasis"
    assert said["tokens"] == len(TEXT)
    assert {"itchy", "scales"} <= {item["text"] for item in said["evidence"]}
    assert said["field"] == "condition"


def test_what_the_trunk_wrote_is_said_to_be_written(
    text_bundle: Any, smallhold: Callable[..., Any], tmp_path: Path
) -> None:
    path = "tasks/triage.json"
    shutil.copytree(text_bundle.path, tmp_path / "bundle")
    string = StringField(name="dose", alphabet="0123456789", max_bytes=4)
    data = replace(Task.from_bytes((tmp_path / "bundle" / path).read_bytes()), strings=(string,)).to_bytes()
    (tmp_path / "bundle" / path).write_bytes(data)
    manifest = Manifest.from_bytes((tmp_path / "bundle" / "manifest.json").read_bytes())
    entry = replace(manifest.files[path], sha256=sha256_hex(data), bytes=len(data))
    manifest = replace(manifest, files={**manifest.files, path: entry})
    key = generate_private_key()
    (tmp_path / "keys").mkdir()
    save_public_key(key.public_key(), tmp_path / "keys" / "publisher.pem")
    (tmp_path / "bundle" / "manifest.json").write_bytes(manifest.to_bytes())
    (tmp_path / "bundle" / "manifest.dsse.json").write_bytes(sign_manifest(manifest.to_bytes(), key))
    words = ("decide", tmp_path / "bundle", "--task", "triage", "--trusted-keys", tmp_path / "keys", "--text", TEXT)
    written = json.loads(smallhold(*words, "--json").out)["strings"]["dose"]
    assert set(written) == {"text", "mean_logprob", "has_ended", "is_generated"}
    assert written["is_generated"] is True
    assert f"dose: {written['text']!r} (written by the model, not checked" in smallhold(*words).out


def test_people_read_choices_evidence_and_what_was_left_out(ask: Callable[..., Any]) -> None:
    done = ask("--text", TEXT + " and in the morning it is gone again")
    assert "condition = psoriasis: 0." in done.out
    assert "answer: " in done.out
    assert "log-odds)" in done.out
    assert "remark: the text is longer than the 48 tokens that the trunk read" in done.err
    assert "not a medical device" in done.err


@pytest.mark.parametrize(
    ("words", "task", "stdin", "message"),
    [
        ((), "triage", " \n", "expected at least one word"),
        (("--text", "a", "--input", "b"), "triage", None, "--text and --input: expected one of them"),
        (("--text", "a", "--hours", "3"), "triage", None, "--hours: task triage reads text, not readings"),
        (("--text", "a"), "icu-risk", None, "--text: task icu-risk reads readings, not text"),
        (("--text", "a"), "gout", None, "no task 'gout', only icu-risk, triage"),
    ],
)
def test_what_does_not_go_together_is_refused(
    ask: Callable[..., Any], words: tuple, task: str, stdin: str | None, message: str
) -> None:
    done = ask(*words, task=task, stdin=stdin)
    assert done.code == 1
    assert message in done.err


def test_a_file_that_is_no_text_is_refused(ask: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "scan.jpg").write_bytes(b"\xff\xd8\xff")
    done = ask("--input", tmp_path / "scan.jpg")
    assert done.code == 1
    assert "scan.jpg: not UTF-8 text" in done.err


def test_the_signal_task_of_the_same_bundle_is_asked_as_before(ask: Callable[..., Any]) -> None:
    patient = {"age": 71, "sex": "F", "height_cm": 160, "icu_type": "medical", "events": [[10, "HR", 118]]}
    done = ask("--json", "--hours", "1", task="icu-risk", stdin=json.dumps(patient))
    assert done.code in (0, 3)
    assert json.loads(done.out)["accepted"] == 1
