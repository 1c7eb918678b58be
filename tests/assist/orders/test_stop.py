import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from smallhold.assist.orders import is_stopped, resume, stop
from smallhold.errors import InputError


def test_a_file_stops_and_its_removal_resumes(tmp_path: Path) -> None:
    assert not is_stopped(tmp_path)
    stop(tmp_path)
    stop(tmp_path)
    assert is_stopped(tmp_path)
    assert resume(tmp_path) and not resume(tmp_path)
    assert not is_stopped(tmp_path)


def test_touch_is_all_it_takes(tmp_path: Path) -> None:
    subprocess.run(["touch", str(tmp_path / "STOP")], check=True, timeout=10)
    assert is_stopped(tmp_path)


def test_anything_of_that_name_stops(tmp_path: Path) -> None:
    for number, make in enumerate((Path.mkdir, lambda p: p.symlink_to("nowhere"), lambda p: os.mkfifo(p))):
        home = tmp_path / str(number)
        home.mkdir()
        make(home / "STOP")
        assert is_stopped(home)


def test_a_home_that_cannot_be_looked_into_counts_as_stopped(tmp_path: Path) -> None:
    assert is_stopped(tmp_path / "gone")
    (tmp_path / "file").touch()
    assert is_stopped(tmp_path / "file")
    (tmp_path / "loop").symlink_to("loop")
    assert is_stopped(tmp_path / "loop")
    assert is_stopped(Path("nul\0byte"))
    assert is_stopped(tmp_path / ("x" * 5000))


def as_nobody(home: Path) -> bool:
    """`is_stopped` as a user who is not root: root may look into everything."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os._exit(0 if is_stopped(home) else 1)
        finally:
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return code == 0


def test_a_locked_home_counts_as_stopped() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / "home"
        home.mkdir(mode=0o755)
        assert not as_nobody(home)
        home.chmod(0)
        try:
            assert as_nobody(home)
        finally:
            home.chmod(0o700)


def test_what_cannot_be_stopped_or_resumed_says_so(tmp_path: Path) -> None:
    stop(tmp_path / "gone")  # it counts as stopped already
    (tmp_path / "STOP").mkdir()
    with pytest.raises(InputError, match="releases stay stopped"):
        resume(tmp_path)
