"""The engine's program decides as Python does, through every door, and refuses what it cannot answer."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.program import LONGEST_SECONDS, MODELS, Lines, replace_file
from tests.engine_library import PROGRAM, build_engine

from smallhold.decide.local import LocalBundle, open_bundle
from smallhold.decide.plan import Answer
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.errors import BundleError
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay

TEXTS = (
    "Red, itchy patches on both elbows for a month; they bleed when scratched.",
    "Боль в груди и одышка, температура 38.5",
    "Douleurs articulaires, fièvre élevée et éruption cutanée depuis une semaine.",
    "$AAPL beats estimates, shares up +3% https://example.org/x?y=1 #stocks",
    "ΟΔΥΣΣΕΥΣ straße İstanbul ǅ ﬁ ½ ² ٣ 漢字 👩‍⚕️ a\u00a0b\u2003c",
    "My card has not arrived yet. " * 200,
    "<triage:Acne> <bos> I have a cough",
    "x",
    " ".join(f"word{i} itch" for i in range(50)),  # a hundred words: pieces begin at halves
)


@pytest.fixture(scope="module", autouse=True)
def program() -> None:
    build_engine()


@pytest.fixture(scope="module")
def bundles() -> dict[str, LocalBundle]:
    keys = MODELS / "trusted_keys"
    now = datetime(2030, 1, 1, tzinfo=UTC)
    return {
        name: open_bundle(MODELS / name, backend="engine", trusted_keys=keys, now=now)
        for name in ("hospital", "finance")
    }


@pytest.fixture(scope="module")
def lines() -> Iterator[dict[str, Lines]]:
    with Lines(MODELS / "hospital") as hospital, Lines(MODELS / "finance") as finance:
        yield {"hospital": hospital, "finance": finance}


def assert_same(said: dict[str, Any], answer: Answer, *, most: float = 1e-7) -> None:
    assert list(said["probabilities"]) == list(answer.probabilities)
    found, expected = (np.array(list(item.values())) for item in (said["probabilities"], answer.probabilities))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=most)
    assert said["choice"] == answer.choice
    assert said["has_abstained"] == answer.has_abstained
    assert tuple(said["prediction_set"]) == answer.prediction_set


@pytest.mark.parametrize(
    ("sector", "task"),
    [
        ("hospital", "triage"),
        ("hospital", "note-specialty"),
        ("hospital", "evidence"),
        ("finance", "news-sentiment"),
        ("finance", "support-intent"),
    ],
)
def test_texts_are_answered_as_python_answers_them(bundles, lines, sector, task):
    local = bundles[sector].text_task(task)
    for text in TEXTS:
        said = lines[sector].ask(task=task, text=text, explain=True)
        decision = local.decide(text)
        answer = decision.answers[local.field.name]
        assert_same(said["answers"][local.field.name], answer)
        assert (said["tokens"], said["is_cut"]) == (decision.tokens, decision.is_cut)
        expected = {item.text: item.effect for item in local.effects(text, answer.choice)}
        assert {item["text"] for item in said["evidence"]} == set(expected)
        if len(expected) == len(said["evidence"]):  # no piece is there twice
            for item in said["evidence"]:
                assert item["effect"] == pytest.approx(expected[item["text"]], abs=2e-3)
        strengths = [abs(item["effect"]) for item in said["evidence"]]
        assert strengths == sorted(strengths, reverse=True)


# Characters of Unicode 14, which every Python that is supported knows; a newer one may know more letters.
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(min_codepoint=1, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cn")), min_size=1))
def test_any_text_is_answered_as_python_answers_it(bundles, lines, text):
    for sector, task in (("hospital", "triage"), ("finance", "news-sentiment")):
        local = bundles[sector].text_task(task)
        said = lines[sector].ask(task=task, text=text)
        if not text.strip():
            assert "white space" in said["error"]["message"]
        else:
            assert_same(said["answers"][local.field.name], local.decide(text).answers[local.field.name])


def readings_by_bin(stay: Stay, parameters: Sequence[str], bins: int) -> list[list[tuple[str, float]]]:
    found: list[list[tuple[str, float]]] = [[] for _ in range(bins)]
    for minute, code, value in zip(stay.minute, stay.code, stay.value, strict=True):
        place = max(-(-int(minute) // 60) - 1, 0)
        if place < bins:
            found[place].append((parameters[code], float(value)))
    return found


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[5]])
def test_a_trunk_elsewhere_reads_what_it_is_told(bundles, lines, text):
    asked = {"task": "triage", "text": text}
    expected = lines["hospital"].ask(**asked)
    reads = lines["hospital"].ask(**asked, reads=True)
    assert reads.keys() == {"task", "reads", "deciding", "latency_ms"}
    assert len(reads["reads"]) == expected["tokens"] + 3
    session = OnnxRuntimeBackend(MODELS / "hospital" / "onnx" / "trunk.onnx").session()
    session.append(reads["reads"])
    logits = session.score([], [-1])[0][reads["deciding"]]
    found = lines["hospital"].ask(**asked, logits=logits.tolist())
    for field, answer in expected["answers"].items():
        other = found["answers"][field]
        assert (other["choice"], other["prediction_set"]) == (answer["choice"], answer["prediction_set"])
        assert other["probabilities"] == pytest.approx(answer["probabilities"], abs=0.01)
    assert {**found, "answers": 0, "latency_ms": 0} == {**expected, "answers": 0, "latency_ms": 0}
    # It is these logits that decide: turned round, they say something else.
    assert lines["hospital"].ask(**asked, logits=(-logits).tolist())["answers"] != found["answers"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"text": "a cough", "logits": [1.0]}, "logits: expected 24 finite numbers, got 1"),
        ({"text": "a cough", "logits": [None] * 24}, "logits: expected a list of numbers"),
        ({"text": "a cough", "logits": [1e300] * 24}, "logits: expected 24 finite numbers"),
        ({"text": "a cough", "logits": [1.0] * 24, "explain": True}, "explain: takes many passes"),
        ({"text": " ", "reads": True}, "at least one word"),
        ({"text": "a cough", "reads": 1}, "reads: expected true or false"),
        ({"task": "icu-risk", "patient": "7", "reads": True}, "reads readings, not text"),
    ],
)
def test_a_trunk_elsewhere_is_not_believed_everything(lines, members, said):
    assert said in lines["hospital"].ask(**{"task": "triage", **members})["error"]["message"]


@pytest.mark.parametrize("words", [False, True])
def test_a_patient_is_followed_as_python_follows_it(bundles, lines, words):
    local = bundles["hospital"].signal_task("icu-risk")
    for stay in simulate_ward(3, seed=4):
        static = icu_risk.static_features(stay)
        session = local.word_session(static) if words else local.session(static)
        ask = lines["hospital"].ask
        names = dict(zip(local.task.signal.static, static.tolist(), strict=True))
        patient = {"task": "icu-risk", "patient": stay.record_id}
        assert ask(**patient, static=names if words else static.tolist(), words=words)["bins"] == 0
        for hour, readings in enumerate(readings_by_bin(stay, local.task.signal.parameters, 48), start=1):
            for code, value in readings:
                session.observe(code, value)
            session.close_bin()
            said = ask(**patient, observe=readings, close=True, decide=True, explain=not words and hour % 12 == 0)
            assert said["bins"] == hour
            answers = session.decide()
            answer = answers["in_hospital_death"] if words else answers.answers["in_hospital_death"]
            # An embedding that differs in its last bit may tip an activation into the next of its 8-bit steps.
            assert_same(said["answers"]["in_hospital_death"], answer, most=0 if words else 2e-3)
            is_alert = answer.probabilities["yes"] >= local.task.fields[0].alert_threshold
            assert words or said["answers"]["in_hospital_death"]["is_alert"] == is_alert
            if "evidence" in said:
                expected = session.effects("in_hospital_death")
                found = {item["code"]: item["effect"] for item in said["evidence"]}
                assert found == pytest.approx(expected, abs=0.02)
        assert "48 bins" in ask(**patient, close=True)["error"]["message"]
        assert "error" not in ask(**patient, static=None)
        assert "not open" in ask(**patient, decide=True)["error"]["message"]


def test_what_the_open_bin_holds_explains_nothing_yet(bundles, lines):
    session = bundles["hospital"].signal_task("icu-risk").session([0.0] * 9)
    patient = {"task": "icu-risk", "patient": "open bin"}
    lines["hospital"].ask(**patient, static=[0.0] * 9)
    session.observe("HR", 118)
    session.close_bin()
    session.observe("Temp", 39.5)
    lines["hospital"].ask(**patient, observe=[["HR", 118]], close=True)
    said = lines["hospital"].ask(**patient, observe=[["Temp", 39.5]], explain=True)
    assert {item["code"] for item in said["evidence"]} == set(session.effects("in_hospital_death")) == {"HR"}


def test_long_numbers_do_not_make_long_answers(lines):
    said = lines["hospital"].ask(id=[1e308] * 1000, task="triage", text="itchy")
    assert said["id"] == [1e308] * 1000
    line = json.dumps({"id": [1e308] * 1000, "task": "triage"}).encode()
    assert len(json.dumps(lines["hospital"].ask_line(line))) < 2 * len(line)


BAD_LINES = {
    b"": "value",
    b"[1]": "expected an object",
    b'{"task":"triage","text":"a","text":"b"}': "twice",
    b'{"task":"triage","txt":"a"}': "unknown member",
    b'{"text":"a"}': "expected one of evidence, icu-risk",
    b'{"task":"triag","text":"a"}': "triag",
    b'{"task":"triage"}': 'a member "text"',
    b'{"task":"triage","text":7}': "expected text",
    b'{"task":"triage","text":" \\u2003"}': "white space",
    b'{"task":"triage","text":"\\ud800"}': "surrogate",
    b'{"task":"icu-risk","text":"a"}': "readings",
    b'{"task":"triage","text":"a","close":true}': "reads text",
    b'{"task":"icu-risk","patient":"q","static":null,"observe":"garbage"}': "a list",
    b'{"task":"icu-risk","patient":"q","words":true}': "static",
    b'{"task":"icu-risk","patient":"q","close":true,"words":"zzz"}': "true or false",
    b'{"task":"icu-risk","patient":"' + 257 * b"q" + b'","static":[0,0,0,0,0,0,0,0,0]}': "256 bytes",
    b'{"task":"icu-risk"}': '"patient"',
    b'{"task":"icu-risk","patient":"p"}': "not open",
    b'{"task":"icu-risk","patient":"p","static":[1]}': "expected numbers for age",
    b'{"task":"icu-risk","patient":"p","static":{"age":0}}': "expected numbers for age",
    b'{"task":"icu-risk","patient":"p","static":[0,0,0,0,0,0,0,0,"x"]}': "expected numbers for age",
    b'{"task":"icu-risk","patient":"q","observe":[["HR"]]}': "[parameter, value]",
    b'{"task":"icu-risk","patient":"q","observe":[["HR",1e400]]}': "range",
    b'{"task":"icu-risk","patient":"q","observe":[["HR",80],["XX",1]],"close":true}': "unknown parameter",
    b'{"task":"icu-risk","patient":"q","close":-1}': "close",
    b'{"task":"icu-risk","patient":"q","close":1e15}': "48",
    b'{"task":"icu-risk","patient":"q","decide":1}': "true or false",
}


def test_a_bad_line_is_refused_and_changes_nothing():
    with Lines(MODELS / "hospital") as program:
        assert program.ask(task="icu-risk", patient="q", static=[0.0] * 9)["bins"] == 0
        assert "close a bin" in program.ask(task="icu-risk", patient="q", decide=True)["error"]["message"]
        for line, words in BAD_LINES.items():
            if line:
                said = program.ask_line(line)
                assert words in said["error"]["message"], (line, said)
        assert "expected a value" in program.ask_line(b'"' + (1 << 20) * b"x" + b'"')["error"]["message"]
        first = program.ask(id=[1, "a"], task="icu-risk", patient="q", observe=[["HR", 80]], close=True, decide=True)
        assert (first["id"], first["bins"]) == ([1, "a"], 1)
        assert program.finish() == 1
    with Lines(MODELS / "hospital") as program:
        program.ask(task="icu-risk", patient="q", static=[0.0] * 9)
        again = program.ask(task="icu-risk", patient="q", observe=[["HR", 80]], close=True, decide=True)
        assert again["answers"] == first["answers"]
        assert program.finish() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected a bundle"),
        ([MODELS / "hospital"], "--trusted-keys DIRECTORY, or --host-has-verified"),
        ([MODELS / "hospital", "--host-has-verified", "--task", "none"], "none"),
        ([MODELS / "hospital", "--host-has-verified", "--kernels", "none"], "none"),
        ([MODELS / "hospital", "--host-has-verified", "--listen", "0.0.0.0:0"], "loopback"),
        ([MODELS / "hospital", "--host-has-verified", "--listen"], "expected a value"),
        ([MODELS / "hospital", "--host-has-verified", "--threads", "two"], "--threads two: expected a number"),
        ([MODELS / "hospital", "--host-has-verified", "--threads", "0"], "expected 1 to 256, got 0"),
        ([MODELS / "hospital", "--host-has-verified", "--colour"], "--colour"),
        ([MODELS / "nowhere", "--host-has-verified"], "nowhere"),
    ],
)
def test_a_program_that_cannot_start_says_why(words, said):
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=LONGEST_SECONDS, input="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


def test_a_bundle_is_used_when_a_trusted_key_has_signed_it(tmp_path):
    bundle, keys, nobody = tmp_path / "bundle", MODELS / "trusted_keys", tmp_path / "nobody"
    shutil.copytree(MODELS / "hospital", bundle)
    nobody.mkdir()
    request = json.dumps({"task": "triage", "text": "itchy"}) + "\n"

    def run(keys: Path) -> subprocess.CompletedProcess[str]:
        words = [PROGRAM, bundle, "--task", "triage", "--trusted-keys", keys]
        return subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_SECONDS, input=request)

    done = run(keys)
    assert (done.returncode, done.stderr) == (0, "")
    assert "choice" in done.stdout
    assert "signed by nobody" in run(nobody).stderr
    assert "nowhere" in run(tmp_path / "nowhere").stderr
    card = bundle / "card.md"
    card.write_text(card.read_text().replace("not", "now", 1))
    done = run(keys)
    assert (done.returncode, done.stdout) == (2, "")
    assert "card.md" in done.stderr


def test_a_task_under_another_name_is_refused_by_both(tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(MODELS / "hospital", bundle)
    replace_file(bundle, "tasks/triage.json", (bundle / "tasks" / "evidence.json").read_bytes())
    words = [PROGRAM, bundle, "--host-has-verified"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_SECONDS, input="")
    assert (done.returncode, "holds the task" in done.stderr) == (2, True)
    with pytest.raises(BundleError, match="holds the task 'evidence'"):
        open_bundle(bundle, backend="engine", unsafe_skip_verification=True).task("triage")


def test_damaged_files_of_a_task_are_refused_and_never_a_crash(tmp_path):
    rng = random.Random(0)
    bundle = tmp_path / "bundle"
    shutil.copytree(MODELS / "hospital", bundle)
    request = (
        json.dumps({"task": "triage", "text": "itchy"}) + "\n"
        + json.dumps({"task": "icu-risk", "patient": "1", "static": [0.0] * 9, "close": 1, "decide": True}) + "\n"
    )  # fmt: skip
    for name in ("tasks/triage.json", "tasks/icu-risk.json", "ngrams/triage.npz", "gguf/icu-risk.encoder.gguf"):
        whole = (MODELS / "hospital" / name).read_bytes()
        for round_ in range(40):
            data = bytearray(whole)
            if round_ % 4 == 0:
                del data[rng.randrange(len(data)) :]
            else:  # heads and tails hold what describes the rest
                for _ in range(rng.randrange(1, 4)):
                    place = rng.choice(
                        [rng.randrange(len(data)), rng.randrange(200), len(data) - 1 - rng.randrange(200)]
                    )
                    data[place] = rng.randrange(256)
            replace_file(bundle, name, bytes(data))
            words = [PROGRAM, bundle, "--host-has-verified", "--task", "triage", "--task", "icu-risk"]
            done = subprocess.run(words, input=request, capture_output=True, text=True, timeout=LONGEST_SECONDS)
            assert done.returncode in (0, 1, 2), (name, round_, done.returncode, done.stderr)
            assert "panicked" not in done.stderr
        replace_file(bundle, name, whole)


def test_threads_answer_alike() -> None:
    answers = []
    for count in ("1", "2"):
        with Lines(MODELS / "hospital", "--task", "triage", "--threads", count) as lines:
            answers.append([lines.ask(text=text)["answers"] for text in TEXTS])
    assert answers[0] == answers[1]
