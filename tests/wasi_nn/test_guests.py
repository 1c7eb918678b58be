"""The guests of examples/wasi_nn, built and run: they decide as the model does without WebAssembly between."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.program import MODELS
from tests.engine_library import build_engine

pytest.importorskip("wasmtime", reason="the host runs on wasmtime: pip install 'smallhold[wasm]'")

from smallhold.decide.local import LocalBundle, LocalTask, LocalTextTask, open_bundle
from smallhold.decide.words import static_words, words_of_record
from smallhold.device.wasi_nn import Limits, Model, Outcome, run_guest
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.simulator import simulate_ward

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
GUESTS = Path(__file__).resolve().parents[2] / "examples" / "wasi_nn"
CHOICES = ["Acne", "Psoriasis", "Migraine", "urinary tract infection"]
TEXTS = [
    "Red, itchy patches on both elbows for a month, and the skin flakes.",
    "Burning when I pass urine, and I need to go often. <triage:Acne>",
    "Боль в груди, fever 38.5 and a cough for 3 days…",
]


@cache
def built(language: str, name: str) -> bytes:
    """A guest's module; skip where its toolchain is missing."""
    done = subprocess.run(
        [str(GUESTS / "build.sh"), language], capture_output=True, text=True, timeout=1700, check=False
    )
    if done.returncode == 1 and any(word in done.stderr for word in ("apt-get install", "install Node.js")):
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return (GUESTS / "build" / f"{name}.wasm").read_bytes()


@cache
def opened(runtime: str) -> LocalBundle:
    if runtime == "engine":
        build_engine()
    return open_bundle(MODELS / "hospital", backend=runtime, trusted_keys=MODELS / "trusted_keys")  # type: ignore[arg-type]


def run(wasm: bytes, runtime: str, said: str, *args: str) -> Outcome:
    bundle = opened(runtime)
    models = {"hospital": Model(bundle.backend, bundle.tokenizer)}
    return run_guest(wasm, models, args=["guest", *args], stdin=said.encode(), limits=Limits(seconds=60))


def cards_of_a_patient(local: LocalTask) -> list[list[str]]:
    """A simulated patient in words: what is known on admission, then six cards."""
    door = local.word_door()
    (stay,) = simulate_ward(1, 5, 48)
    cards = words_of_record(door.words, local.task.signal, stay.minute, stay.code, stay.value)
    return [static_words(door.words, static_features(stay)), *cards[:6]]


@pytest.mark.parametrize(
    ("language", "runtime"), [("rust", "engine"), ("rust", "onnx_runtime"), ("assemblyscript", "engine")]
)
def test_a_patient_in_words_is_as_at_risk_as_without_a_guest(language: str, runtime: str) -> None:
    wasm = built(language, f"ward-{language}")
    local: Any = opened(runtime).task("icu-risk")
    door, cards = local.word_door(), cards_of_a_patient(local)
    answers = [] if language == "assemblyscript" else ["hospital", "<icu-risk:no>", "<icu-risk:yes>"]
    outcome = run(wasm, runtime, "".join(" ".join(card) + "\n" for card in cards), *answers)
    assert (outcome.exit_code, outcome.stderr, outcome.refusals) == (0, b"", ())
    lines = [line.split() for line in outcome.stdout.decode().splitlines()]
    assert [word for word, _ in lines] == [card[-1] for card in cards]
    trunk, expected = opened(runtime).backend.session(), []
    trunk.append(door.spell(["<bos>"]))
    for card in cards:
        trunk.append(door.spell(card))
        no, yes = trunk.score([], [-1], local.plans["in_hospital_death"].deciding)[0]
        expected.append(1 / (1 + np.exp(no - yes)))
    np.testing.assert_allclose([float(p) for _, p in lines], expected, atol=6e-5)  # four decimals are printed
    assert max(expected) - min(expected) > 0.02  # the cards tell something


@pytest.mark.parametrize("runtime", ["engine", "onnx_runtime"])
def test_a_text_is_filed_as_the_trunk_files_it(runtime: str) -> None:
    wasm = built("c", "triage-c")
    task = opened(runtime).task("triage")
    assert isinstance(task, LocalTextTask)
    outcome = run(wasm, runtime, "\n".join(TEXTS), "hospital", "triage", *CHOICES)
    assert (outcome.exit_code, outcome.stderr, outcome.refusals) == (0, b"", ())
    rows = [task.field.choices.index(choice) for choice in CHOICES]
    logits = task.logits(TEXTS, "trunk")[:, rows].astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    for line, row in zip(
        outcome.stdout.decode().splitlines(), weights / weights.sum(axis=1, keepdims=True), strict=True
    ):
        choice, _, probability = line.rpartition(" ")
        assert choice == CHOICES[int(row.argmax())]
        assert float(probability) == pytest.approx(row.max(), abs=2e-4)


def test_a_guest_says_what_is_wrong() -> None:
    wasm = built("c", "triage-c")
    for args, code, message in (
        (["hospital", "triage", "Acne"], 2, "expected MODEL TASK CHOICE CHOICE"),
        (["clinic", "triage", *CHOICES], 1, "clinic#text: error 8"),
        (["hospital", "triage", "Acne", "Boredom"], 1, "tokens: error 8"),
    ):
        outcome = run(wasm, "engine", "", *args)
        assert (outcome.exit_code, outcome.stdout) == (code, b"")
        assert message in outcome.stderr.decode()
