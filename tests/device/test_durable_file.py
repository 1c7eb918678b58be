"""Files appear whole or not at all, and a killed writer's leftovers do not stay."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smallhold.device.durable_file import write_durably

_KILLED_HALF_WAY = """
import sys, time
from pathlib import Path
from smallhold.device.durable_file import write_durably

def chunks():
    yield b"half"
    print("half", flush=True)
    time.sleep(60)

write_durably(Path(sys.argv[1]), chunks())
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    path = tmp_path / "trees[1].npz"  # a name that is also a pattern
    writer = subprocess.Popen([sys.executable, "-c", _KILLED_HALF_WAY, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    leftover = f".{path.name}.{writer.pid}.partial"
    assert names(tmp_path) == [leftover]

    write_durably(path, [b"first"])  # the other is still alive: its file is its own
    assert names(tmp_path) == [leftover, path.name]

    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=20)
    other = tmp_path / f".other.{writer.pid}.partial"
    other.touch()
    write_durably(path, [b"second"])
    assert names(tmp_path) == [other.name, path.name]
    assert path.read_bytes() == b"second"


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def chunks():
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_durably(path, chunks())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["state"]
