"""What can go wrong on a device: refused bundles, a model that is late, lies or dies, a journal that fails.

Faults are put in below our own code, at the runtime; everything above it is as it ships.
"""

import json
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from smallhold.device.backends.onnx_runtime import OnnxRuntimeSession
from smallhold.device.home import Home
from smallhold.device.journal import Journal, read_entries
from smallhold.device.trust import generate_private_key, key_id
from smallhold.errors import BackendError


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def refused(flow, resigned, tmp_path):
    """refused(story) makes a bundle that must be refused, and the message that says why."""
    stranger = generate_private_key()

    def make(story):
        if story == "removed":
            return tmp_path / "gone", f"no bundle at {tmp_path / 'gone'}"
        if story == "stranger":
            trusted = key_id(Home(flow.home).publisher_key().public_key())[:16]
            signer = key_id(stranger.public_key())[:16]
            message = f"signed by nobody this device trusts: signed by {signer}, trusted are {trusted}"
            return resigned("bundle", key=stranger), message
        if story == "expired":
            path = resigned("bundle", created="2024-01-01T00:00:00Z", expires="2024-06-01T00:00:00Z")
            return path, "bundle icu-risk-tiny 1.0.0 expired at 2024-06-01T00:00:00Z, now is "
        path = tmp_path / "bundle"
        shutil.copytree(flow.bundle, path)
        match story:
            case "flipped":
                flip_a_byte(path / "onnx" / "trunk.onnx")
                return path, "bundle file 'onnx/trunk.onnx' was altered: expected SHA-256 "
            case "flipped manifest":
                flip_a_byte(path / "manifest.json")
                return path, "manifest.json is not the manifest that was signed: it was altered or swapped"
            case "cut":
                data = (path / "gguf" / "trunk.gguf").read_bytes()
                (path / "gguf" / "trunk.gguf").write_bytes(data[:-1])
                return path, f"bundle file 'gguf/trunk.gguf': expected {len(data)} bytes, got {len(data) - 1}"
            case "missing":
                (path / "tokenizer.json").unlink()
                return path, f"bundle {path}: file 'tokenizer.json' is missing (1 in all)"
            case "added":
                (path / "extra.txt").write_text("hello")
                return path, f"bundle {path}: file 'extra.txt' is not in the manifest (1 in all)"
        assert story == "unsigned"
        (path / "manifest.dsse.json").unlink()
        return path, f"bundle {path} is unsigned: it has no manifest.dsse.json"

    return make


STORIES = ("removed", "flipped", "flipped manifest", "cut", "missing", "added", "unsigned", "stranger", "expired")


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("tasks/icu-risk.json", b'{"format":"smallhold.task/2"}'),
        ("tokenizer.json", b"not a tokenizer"),
        ("gguf/icu-risk.encoder.gguf", b"not GGUF"),
        ("onnx/trunk.onnx", b"not ONNX"),
    ],
)
def test_a_genuine_bundle_that_cannot_be_used_leaves_the_floor_alone(resigned, flow, home, smallhold, file, data):
    bundle = resigned("unusable", files={file: data})
    done = smallhold("replay", bundle, "--data", flow.data, "--patients", 2, "--quiet", "--json")
    assert done.code == 3 and "error: the bundle is refused: " in done.err and "Traceback" not in done.err
    result = json.loads(done.out)
    assert result["is_degraded"] and result["decisions"] == 0 and result["degraded_steps"] == result["steps"] > 0


@pytest.mark.parametrize("story", STORIES)
def test_a_bundle_that_is_not_genuine_is_refused_everywhere_with_the_same_words(refused, home, smallhold, story):
    bundle, message = refused(story)
    patient = json.dumps({"events": [[10, "HR", 118]]})
    for words in (["bundle", "verify", bundle], ["device", "install", bundle], ["decide", bundle]):
        done = smallhold(*words, stdin=patient)
        assert (done.code, done.out) == (1, ""), words
        assert done.err.startswith(f"error: {message}"), words
    status = json.loads(smallhold("device", "status", "--json").out)
    assert (status["active"], status["highest_version"]) == (None, None)
    assert sorted(path.name for path in (home / "slots").iterdir()) == ["lock"]  # nothing half-written


@pytest.mark.parametrize("story", ["removed", "flipped", "expired"])
def test_replay_with_a_refused_bundle_goes_on_with_the_floor_alone_and_says_so(flow, refused, home, smallhold, story):
    bundle, message = refused(story)
    done = smallhold("replay", bundle, "--data", flow.data, "--patients", 4, "--json")
    assert done.code == 3
    assert f"error: the bundle is refused: {message}" in done.err
    assert "the deterministic scores go on alone; every alert is marked degraded" in done.err
    result = json.loads(done.out)
    assert (result["bundle"], result["is_degraded"], result["decisions"]) == (None, True, 0)
    assert result["bundle_error"].startswith(message)
    assert_floor_alone(home, result)


def assert_floor_alone(home: Path, result: dict) -> None:
    """Every alert came from a deterministic source and is marked degraded, and the journal is whole."""
    assert sum(sources.get("floor", 0) for sources in result["alerts"].values()) > 0
    assert not any("model" in sources for sources in result["alerts"].values())
    steps = [
        json.loads(payload) for _, payload in read_entries(home / "journal.db", 0, "step", key=Home(home).device_key())
    ]
    assert len(steps) == result["steps"]
    bins = [step for step in steps if "window" in step]
    assert all(step["is_degraded"] and "risk" not in step for step in bins)
    # In the first hour nobody knows yet that the model will not answer, unless it could not even be loaded.
    known_ms = 0 if result["bundle"] is None else 3_600_000
    changes = [
        c for step in steps for c in step.get("changes", ()) if c["change"] == "raised" and c["t_ms"] >= known_ms
    ]
    raised = [change["alert"] for change in changes if change["alert"]["source"] == "floor"]
    assert raised and all(alert["is_degraded"] for alert in raised)


def test_an_older_bundle_is_refused_by_install(flow, home, smallhold, resigned):
    assert smallhold("device", "install", resigned("new", version="1.1.0")).code == 0
    done = smallhold("device", "install", flow.bundle)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "error: bundle icu-risk-tiny 1.0.0 is older than 1.1.0, which this device has run\n"
        "hint: to return to the bundle before the last install: smallhold device rollback\n"
    )
    done = smallhold("device", "install", resigned("twin", version="1.1.0", training_data=("simulated_ward", "x")))
    assert done.code == 1
    assert "is another bundle with the version that this device has run" in done.err
    assert json.loads(smallhold("device", "status", "--json").out)["highest_version"] == "1.1.0"


def test_a_bundle_that_needs_newer_software_is_refused(home, smallhold, resigned):
    done = smallhold("bundle", "verify", resigned("future", minimum_runtime="99.0.0"))
    assert done.code == 1
    assert "error: bundle icu-risk-tiny 1.0.0 needs smallhold 99.0.0 or newer, this is " in done.err


@pytest.fixture
def replayed(flow, home, smallhold):
    """replayed(*words) replays four patients and gives the result and how it ended."""

    def replay(*words):
        words = words if "--deadline-ms" in words else (*words, "--deadline-ms", 10_000)
        done = smallhold("replay", flow.bundle, "--data", flow.data, "--patients", 4, "--json", *words)
        return json.loads(done.out), done

    return replay


def test_a_model_that_is_always_late_leaves_the_floor_alone(home, replayed, monkeypatch):
    run = OnnxRuntimeSession._run

    def slow(self, *args):
        time.sleep(0.02)
        return run(self, *args)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", slow)
    result, _ = replayed("--deadline-ms", 2)
    assert (result["is_degraded"], result["decisions"], result["model_failures"]) == (True, 0, 4 * 48)
    assert_floor_alone(home, result)


def test_a_model_that_hangs_is_passed_over_and_comes_back(home, replayed, monkeypatch):
    run, append = OnnxRuntimeSession._run, Journal.append
    calls, written, is_freed = [], [], threading.Event()

    def hangs_once(self, *args):
        if self.length == 3 and not calls:  # the first time is the append of a bin; explaining comes after it
            calls.append(None)
            assert is_freed.wait(120)
        return run(self, *args)

    def frees_it_later(self, *args, **options):
        written.append(None)
        if len(written) == 700:
            is_freed.set()
        return append(self, *args, **options)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", hangs_once)
    monkeypatch.setattr(Journal, "append", frees_it_later)
    result, _ = replayed("--deadline-ms", 5000)
    assert result["is_degraded"] and result["decisions"] + result["model_failures"] == 4 * 48
    bins = [
        json.loads(payload) for _, payload in read_entries(home / "journal.db", 0, "step", key=Home(home).device_key())
    ]
    bins = [step for step in bins if "window" in step]
    errors = [step["model_error"] for step in bins]
    first = next(i for i, error in enumerate(errors) if error is not None)
    assert errors[first] == "late: no answer within 5 s"
    assert errors[first + 1] == "refused: the model is still busy with an earlier, late call"
    assert errors[-1] is None and "risk" in bins[-1]  # what it owed was handed over, and it answers again


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_gives_no_numbers_leaves_the_floor_alone(home, replayed, monkeypatch, value):
    run = OnnxRuntimeSession._run
    monkeypatch.setattr(OnnxRuntimeSession, "_run", lambda self, *args: run(self, *args) * 0 + np.float32(value))
    result, _ = replayed()
    assert (result["decisions"], result["model_failures"]) == (0, 4 * 48)
    assert_floor_alone(home, result)


@pytest.mark.parametrize("error", [BackendError("ONNX Runtime failed: no memory"), RuntimeError("segment lost")])
def test_a_runtime_that_breaks_leaves_the_floor_alone(home, replayed, monkeypatch, error):
    def breaks(self, *args):
        raise error

    monkeypatch.setattr(OnnxRuntimeSession, "_run", breaks)
    result, _ = replayed()
    assert (result["decisions"], result["model_failures"]) == (0, 4 * 48)
    assert_floor_alone(home, result)
    steps = [
        json.loads(payload) for _, payload in read_entries(home / "journal.db", 0, "step", key=Home(home).device_key())
    ]
    assert all(str(error) in step["model_error"] for step in steps if "window" in step)


def test_the_same_alarms_sound_with_and_without_a_model(replayed, home, smallhold, flow, tmp_path):
    # What the floor finds is found whatever the model says: no alert of the floor is lost to a working model.
    with_model, _ = replayed("--journal", tmp_path / "with.db")
    done = smallhold("replay", tmp_path / "gone", "--data", flow.data, "--patients", 4, "--json")
    alone = json.loads(done.out)
    scores = [
        [json.loads(p)["scores"] for _, p in read_entries(path, 0, "step", key=Home(home).device_key())]
        for path in (tmp_path / "with.db", home / "journal.db")
    ]
    totals = [[item["scores"] for item in part] for part in scores]
    assert totals[0] == totals[1]
    assert sum(map(sum, (s.values() for s in with_model["alerts"].values()))) > 0
    assert alone["observations"] == with_model["observations"]


def test_a_journal_that_cannot_be_opened_stops_the_replay_before_the_first_patient(flow, home, smallhold):
    (home / "journal.db").mkdir()
    done = smallhold("replay", flow.bundle, "--data", flow.data, "--patients", 1, "--json")
    assert (done.code, done.out) == (1, "")
    assert f"{home / 'journal.db'}" in done.err


def test_a_journal_that_fails_midway_does_not_silence_the_alarms(replayed, home, monkeypatch):
    append, written = Journal.append, []

    def full_disk(self, *args, **options):
        if self.path != home / "journal.db":  # a server of an earlier test may still be ending
            return append(self, *args, **options)
        written.append(None)
        if len(written) == 100:  # another program damages the file under our feet: the real error path of the store
            with sqlite3.connect(home / "journal.db") as other:
                other.execute("DROP TABLE payloads")
        return append(self, *args, **options)

    monkeypatch.setattr(Journal, "append", full_disk)
    result, done = replayed()
    assert done.code == 1
    assert "error: the journal could not be written, and what came after is not on record: " in done.err
    assert result["journal_error"] is not None
    assert len(written) == 100  # nothing is written behind a gap
    assert sum(map(sum, (s.values() for s in result["alerts"].values()))) > 0
    assert result["steps"] > 1000  # and the ward was watched to the end


def test_a_replay_needs_the_keys_of_a_home(flow, smallhold, tmp_path):
    done = smallhold("replay", flow.bundle, "--data", flow.data, "--home", tmp_path / "nowhere")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: no key at {tmp_path / 'nowhere/keys/device.pem'}\nhint: smallhold device init\n"
