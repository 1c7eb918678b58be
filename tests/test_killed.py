"""SIGKILL at any moment: nothing that was journalled or trained is lost, and running it again resumes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from smallhold.device.home import Home
from smallhold.device.journal import read_entries
from smallhold.device.journal_store import last_seq
from smallhold.device.journal_verify import verify
from smallhold.errors import JournalError

NUM_KILLS = 20
_LONGEST_SECONDS = 90.0


def start(*words: object, home: Path) -> subprocess.Popen[str]:
    """A `smallhold` command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "smallhold.cli.main", *map(str, words)],
        env={**os.environ, "SMALLHOLD_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*words: object, home: Path) -> str:
    out, err = start(*words, home=home).communicate(timeout=_LONGEST_SECONDS)
    return out + err


def journalled(path: Path) -> int:
    """Entries that are committed in a journal that another process is writing; 0 before it begins."""
    try:
        return last_seq(path) + 1 if path.exists() else 0
    except JournalError:
        return 0  # the file is there, its tables not yet


def payloads(path: Path, home: Path) -> Counter[str]:
    """Every step of a journal, stopwatch readings and the run's name apart."""
    found: Counter[str] = Counter()
    for _, payload in read_entries(path, 0, "step", key=Home(home).device_key()):
        step = json.loads(payload)
        step["latency_ms"] = {}
        if "risk" in step:
            step["risk"]["latency_ms"] = 0
        found[json.dumps(step, sort_keys=True)] += 1
    return found


@pytest.mark.slow
def test_a_replay_killed_twenty_times_says_the_same_as_one_that_was_not(flow, home, tmp_path):
    words = ("replay", flow.bundle, "--data", flow.data, "--patients", 4, "--quiet", "--deadline-ms", 20_000)
    whole, broken = tmp_path / "whole.db", tmp_path / "broken.db"
    finish(*words, "--journal", whole, home=home)
    total = journalled(whole)
    public_key = Home(home).device_key().public_key()
    rng = random.Random(5)
    # Moments are counted in journal entries, so that they fall into the work and not into the start of Python; equal
    # or small steps between them also hit the stretch in which a resumed run derives its earlier steps again.
    # The last quarter is spared: a process that hears of its moment late would find the run ended.
    moments = sorted(rng.randrange(total * 3 // 4) for _ in range(NUM_KILLS))
    kept = 0
    for moment in moments:
        process = start(*words, "--journal", broken, home=home)
        deadline = time.monotonic() + _LONGEST_SECONDS
        while journalled(broken) <= moment and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=_LONGEST_SECONDS)
        assert process.returncode == -signal.SIGKILL, out + err
        assert journalled(broken) >= max(kept, moment)
        kept = journalled(broken)
        report = verify(broken, public_key, None)
        assert report.is_intact, report.problem
    said = finish(*words, "--journal", broken, home=home)
    assert "resumed" in said
    assert verify(broken, public_key, None).is_intact
    assert payloads(broken, home) == payloads(whole, home)
    kinds = Counter(entry.kind for entry, _ in read_entries(broken, key=Home(home).device_key()))
    assert (kinds["replay-start"], kinds["replay-end"]) == (1, 1)  # one run, however often it was begun


def test_a_replay_that_is_asked_to_stop_says_how_to_go_on(flow, home):
    words = ("replay", flow.bundle, "--data", flow.data, "--patients", 15, "--quiet", "--json")
    process = start(*words, home=home)
    deadline = time.monotonic() + _LONGEST_SECONDS
    while journalled(home / "journal.db") < 50 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=_LONGEST_SECONDS)
    assert (process.returncode, out) == (130, "")
    assert "error: replay stopped after" in err
    assert err.endswith("hint: run the same command again to resume\n")


@dataclass(frozen=True)
class Training:
    """How one small training is called."""

    words: tuple[object, ...]
    home: Path

    def start(self, out: Path) -> subprocess.Popen[str]:
        return start(*self.words, "--out", out, home=self.home)


@pytest.fixture
def training(flow, home):
    return Training(("teach", "train", flow.recipe, "--data", flow.data, "--threads", 1), home)


def weights(run: Path) -> bytes:
    return (run / "checkpoint" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_was_stopped_ends_with_the_same_weights(training, flow, tmp_path, number):
    run = tmp_path / "run"
    # One stop in the teacher, one before the student's first slice, one within it.
    for made in ("teacher/out_of_fold_12h.npz", "teacher/trees.npz", "training/state.safetensors"):
        process = training.start(run)
        deadline = time.monotonic() + _LONGEST_SECONDS
        while not (run / made).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        out, err = process.communicate(timeout=_LONGEST_SECONDS)
        if process.returncode == 0:
            continue  # it was done before the signal came: the student takes less than a second
        assert process.returncode in (-number, 130), out + err
        assert not (run / "run.json").exists()
    done = training.start(run)
    out, err = done.communicate(timeout=_LONGEST_SECONDS)
    assert done.returncode == 0, out + err
    assert weights(run) == weights(flow.run)
    assert not [path.name for path in run.rglob("*") if path.suffix in (".tmp", ".partial")]
