"""Choices that share first tokens: Python over two runtimes and the engine's program give one answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.program import MODELS, Lines, replace_file
from tests.engine_library import build_engine

from smallhold.decide.local import BackendName, LocalBundle, open_bundle
from smallhold.decide.plan import Field
from smallhold.decide.task import Task
from smallhold.decide.text_task import LocalTextTask

pytest.importorskip("torch", reason="the bundle of these tests is built with the extra 'train'")

RHYTHMS = ("atrial fibrillation", "atrial flutter", "sinus rhythm", "sinus", "sinus arrest")
TEXTS = ("the heart races", "a pause of three seconds", "flutter waves", "nothing new")
HOURS = (1, 2, 3, 12)


@pytest.fixture(scope="module", autouse=True)
def program() -> None:
    build_engine()


@pytest.fixture(scope="module")
def folder(text_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tasks of the random bundle ask for the rhythm; nothing is fitted."""
    bundle = tmp_path_factory.mktemp("choices") / "bundle"
    shutil.copytree(text_bundle.path, bundle)
    fields = (Field(name="rhythm", choices=RHYTHMS, positive="sinus arrest"),)
    for name in ("triage", "icu-risk"):
        task = replace(Task.from_bytes((bundle / "tasks" / f"{name}.json").read_bytes()), fields=fields)
        if task.text is not None:
            task = replace(task, text=replace(task.text, ngrams=None, trunk_weight=1.0, ngram_weight=0.0))
        replace_file(bundle, f"tasks/{name}.json", task.to_bytes())
    return bundle


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, LocalBundle]:
    names: tuple[BackendName, ...] = ("engine", "onnx_runtime", "reference")
    return {name: open_bundle(folder, backend=name, unsafe_skip_verification=True) for name in names}


@pytest.fixture(scope="module")
def lines(folder: Path) -> Iterator[Lines]:
    with Lines(folder) as lines:
        yield lines


def assert_one_answer(found: dict[str, list[float]]) -> None:
    np.testing.assert_allclose(found["program"], found["engine"], atol=1e-6)
    # Activations of 8 bits, and of the reference none.
    np.testing.assert_allclose(found["onnx_runtime"], found["engine"], atol=0.02)
    np.testing.assert_allclose(found["reference"], found["engine"], atol=0.05)
    assert sum(found["engine"]) == pytest.approx(1)


def test_a_text_is_answered_alike_everywhere(bundles: dict[str, LocalBundle], lines: Lines) -> None:
    said = []
    for text in TEXTS:
        asked = lines.ask(task="triage", text=text, explain=True)
        answer = asked["answers"]["rhythm"]
        assert tuple(answer["probabilities"]) == RHYTHMS
        found = {"program": list(answer["probabilities"].values())}
        for name, bundle in bundles.items():
            task = bundle.text_task("triage")
            assert (task.plan.num_branches, len(task.plan.passes)) == (4, 2)
            decision = task.decide(text)
            found[name] = list(decision.answers["rhythm"].probabilities.values())
        assert_one_answer(found)
        said.append(found["engine"])
        ours = bundles["engine"].text_task("triage")
        effects = {item.text: item.effect for item in ours.effects(text)}
        assert {item["text"]: item["effect"] for item in asked["evidence"]} == pytest.approx(effects, abs=2e-3)
    assert np.ptp(said, axis=0).max() > 0.05  # the text decides, not the choices alone


def test_a_patient_is_answered_alike_everywhere(
    bundles: dict[str, LocalBundle], lines: Lines, text_bundle: Any
) -> None:
    tasks = {name: bundle.signal_task("icu-risk") for name, bundle in bundles.items()}
    zeros = [0.0] * len(tasks["engine"].task.signal.static)
    sessions = {name: task.session(zeros) for name, task in tasks.items()}
    patient = {"task": "icu-risk", "patient": "7"}
    lines.ask(**patient, static=zeros)
    for hour in range(1, max(HOURS) + 1):
        reading = ("HR", 60.0 + 9 * hour)
        for session in sessions.values():
            session.observe(*reading)
            session.close_bin()
        asked = lines.ask(**patient, observe=[reading], close=True)
        if hour not in HOURS:
            continue
        answer = lines.ask(**patient, decide=True)["answers"]["rhythm"]
        assert lines.ask(**patient, decide=True)["answers"]["rhythm"] == answer
        found = {name: list(s.decide().answers["rhythm"].probabilities.values()) for name, s in sessions.items()}
        assert_one_answer(found | {"program": list(answer["probabilities"].values())})
        assert asked["bins"] == hour
    said = lines.ask(**patient, decide=True, explain=True)["error"]
    assert (said["kind"], said["message"]) == (
        "unsupported",
        "task icu-risk: choices with a common beginning are not explained",
    )


def test_a_trunk_elsewhere_is_told_that_one_pass_is_not_enough(lines: Lines) -> None:
    for members in ({"reads": True}, {"logits": [0.0] * 5}):
        said = lines.ask(task="triage", text="a cough", **members)["error"]
        assert said["kind"] == "unsupported"
        assert "its choices part at 4 places, and a trunk elsewhere is asked once" in said["message"]


@pytest.mark.parametrize("backend", ["engine", "onnx_runtime"])
def test_shipped_bundles_are_read_bit_for_bit_by_one_token(backend: BackendName) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for name in ("hospital", "finance"):
        bundle = open_bundle(MODELS / name, backend=backend, trusted_keys=MODELS / "trusted_keys", now=now)
        for task in map(bundle.task, bundle.manifest.tasks):
            if isinstance(task, LocalTextTask):
                assert task.plan.is_direct
                marker = bundle.tokenizer.token_to_id(task.door.marker)
                for text in TEXTS:
                    inputs = [*bundle.tokenizer.encode(text).ids, marker]
                    raw = task._prefix.fork().score(inputs, [len(inputs) - 1], task.plan.deciding)[0]
                    np.testing.assert_array_equal(task.logits([text], "trunk")[0], raw)
                continue
            session = task.session([0.0] * len(task.task.signal.static))
            for hour in range(6):
                session.observe("HR", 80.0 + hour)
                session.close_bin()
            inputs = np.concatenate([task.encoder.prefix(session.static), task.encoder.bins(session.channels())])
            for plan in task.plans.values():
                assert plan.is_direct
                raw = session._trunk.score([], [-1], plan.deciding)[0]
                np.testing.assert_array_equal(plan.logits(session._trunk), raw)
                found = task.logits(session.channels(), session.static, [2, 6])
                whole = bundle.backend.session().score(inputs, [2, 6], plan.deciding)
                np.testing.assert_array_equal(found[task.task.fields[0].name], whole)
