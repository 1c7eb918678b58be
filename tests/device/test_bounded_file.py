"""What a user names is read whole, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from smallhold.device.bounded_file import read_bounded
from smallhold.errors import InputError


def test_a_file_is_read_up_to_its_bound_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5, what="program") == b"12345"
    with pytest.raises(InputError, match=r"program .*program: expected at most 4 bytes"):
        read_bounded(path, 4, what="program")
    with pytest.raises(InputError, match=r"guest .*none cannot be read: No such file"):
        read_bounded(tmp_path / "none", 4, what="guest")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_bounded(tmp_path, 4, what="guest")
    with pytest.raises(InputError, match="expected at most 1,000 bytes"):
        read_bounded(Path("/dev/zero"), 1000, what="guest")
