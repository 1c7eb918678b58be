"""The stop control: a file. It needs no other process, no lock, no parsing and no free space of any size.

Whoever can run `touch` in the home can stop every release, and `stat()` right before each release is all that the
releasing process does about it. Whatever keeps it from seeing that there is *no* file counts as stopped.
"""

from __future__ import annotations

import os
from pathlib import Path

from smallhold.device.durable_file import fsync_directory
from smallhold.errors import InputError

STOP = "STOP"


def is_stopped(home: Path) -> bool:
    """True unless the home is there, can be looked into, and holds nothing named `STOP`."""
    try:
        home.stat()  # a home that is gone must not look like one without the file
    except (OSError, ValueError):
        return True
    try:
        os.lstat(home / STOP)  # not stat: a link that leads nowhere stops, too
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return True


def stop(home: Path) -> None:
    """Stop every release from now on; stopping what is stopped is harmless.

    Raises:
        InputError: the file cannot be made. Releases then go on: use the pump's own stop.
    """
    path = home / STOP
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        fsync_directory(home)
    except OSError as error:
        if is_stopped(home):
            return
        raise InputError(f"{path} cannot be made: {error}", hint="stop the pump itself, then mend the home") from error


def resume(home: Path) -> bool:
    """Take the stop away; returns whether there was one.

    Raises:
        InputError: it cannot be taken away; releases stay stopped.
    """
    path = home / STOP
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{path} cannot be removed: {error}; releases stay stopped") from error
    fsync_directory(home)
    return True
