"""A labelling process that is killed, stopped or started twice, against a server that counts what it is asked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from smallhold.teach.endpoint.store import NAME, Store

# So many rows that a process is still at work when this one, on a busy machine, comes to its signal.
MANY = 600
SLOWLY = "[pace]\nconcurrency = 2\n[cap]\nrequests = 2000\ntokens = 100_000_000\n"


def manifest_of(out):
    return json.loads((out / "manifest.json").read_bytes())


def count_labels(out):
    return len((out / "labels.jsonl").read_bytes().splitlines())


def start(desk, teacher, out, more=""):
    recipe = desk.recipe(teacher.url, more)
    words = ["teach", "label", recipe, "--data", desk.data, "--out", out]
    return subprocess.Popen(
        [sys.executable, "-m", "smallhold.cli.main", *map(str, words)],
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, process, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition(), process.communicate() if process.poll() is not None else "too slow"


def spend_after_kill(out):
    """(requests, those whose fate is unknown) that a kill at this moment would leave; the process holds the lock."""
    with TemporaryDirectory() as folder:
        for path in out.glob(f"{NAME}*"):
            shutil.copy(path, folder)
        with Store(Path(folder)) as store:
            spend = store.spend()
    return spend.requests, spend.maybe_paid


def asked(teacher):
    return Counter(json.dumps(body, sort_keys=True) for body in list(teacher.seen))


def test_killed_while_the_server_pauses_it_asks_nothing_twice(desk, teacher, tmp_path):
    """Every request had its answer when SIGKILL came: the sum over both runs is one request a row."""
    teacher.script = ["good"] * 12 + ["retry_after:60"]
    process = start(desk, teacher, tmp_path / "out", "[pace]\nconcurrency = 1\n")
    wait_until(lambda: len(teacher.seen) == 13, process)
    wait_until(lambda: spend_after_kill(tmp_path / "out") == (13, 0), process)
    process.kill()
    process.communicate(timeout=10)
    process = start(desk, teacher, tmp_path / "out")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    counts = asked(teacher)
    total = manifest_of(tmp_path / "out")["num_chosen"]
    assert (len(counts), sum(counts.values())) == (total, total + 1)  # the declined one was asked again, no other
    assert set(teacher.answered.values()) == {1}
    assert manifest_of(tmp_path / "out")["spend"]["maybe_paid_requests"] == 0
    assert count_labels(tmp_path / "out") == total


@pytest.mark.slow
def test_killed_in_flight_again_and_again_only_what_was_in_flight_is_asked_again_and_counted(desk, teacher, tmp_path):
    out, maybe_paid = tmp_path / "out", []
    desk.write(count=MANY)
    for moment in (3, 9, 16):
        teacher.hold.clear()
        process = start(desk, teacher, out, SLOWLY)
        before = len(teacher.seen)
        wait_until(lambda before=before: len(teacher.seen) > before, process)
        teacher.hold.set()
        wait_until(lambda moment=moment: len(teacher.seen) >= moment, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        with Store(out) as store:
            maybe_paid.append(store.spend().maybe_paid)
    process = start(desk, teacher, out, SLOWLY)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    manifest = manifest_of(out)
    repeated = sum(asked(teacher).values()) - len(asked(teacher))
    assert count_labels(out) == manifest["num_chosen"] == len(asked(teacher))
    # A repetition is of a request whose answer had not arrived: two at most at each kill, and the spend knows of all.
    assert repeated <= manifest["spend"]["maybe_paid_requests"] == maybe_paid[-1] <= 3 * 2
    assert manifest["spend"]["requests"] >= sum(asked(teacher).values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_arrive(desk, teacher, tmp_path, number):
    desk.write(count=MANY)
    process = start(desk, teacher, tmp_path / "out", SLOWLY)
    wait_until(lambda: len(teacher.seen) >= 4, process)
    teacher.hold.clear()
    time.sleep(0.2)
    process.send_signal(number)
    time.sleep(0.2)
    teacher.hold.set()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped: stopped on request\nhint: run the same command again to resume" in err
    manifest = manifest_of(tmp_path / "out")
    assert manifest["spend"]["maybe_paid_requests"] == 0
    assert manifest["num_labelled"] == len(teacher.seen) < manifest["num_chosen"]


def test_two_processes_in_one_folder_do_not_both_pay(desk, teacher, tmp_path, smallhold):
    teacher.hold.clear()
    process = start(desk, teacher, tmp_path / "out")
    wait_until(lambda: len(teacher.seen) >= 1, process)
    done = smallhold("teach", "label", desk.folder / "recipe.toml", "--data", desk.data, "--out", tmp_path / "out")
    assert done.code == 1
    assert "another process is labelling into this folder" in done.err
    teacher.hold.set()
    assert process.wait(60) == 0
