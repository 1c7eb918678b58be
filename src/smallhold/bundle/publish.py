"""A bundle appears under its name whole or not at all: it is built in a folder beside it and moved."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smallhold.device.bundle_files import open_bundle_files, write_bundle_zip
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME
from smallhold.device.trust import unsafe_read_manifest
from smallhold.errors import InputError, SmallholdError


@contextmanager
def new_bundle(target: Path) -> Iterator[Path]:
    """A folder to build in; when the block ends without an error, it becomes `target`.

    Args:
        target: A directory, or a file ending in `.zip`; replaced when it is a bundle already.

    Raises:
        InputError: `target` exists and is no bundle.
    """
    if target.exists() and not is_bundle(target):
        raise InputError(f"{target}: exists and is no bundle, so it is not replaced", hint="choose another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.building-*"):  # of a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.building-", dir=target.parent) as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        yield folder
        if target.suffix == ".zip":
            write_bundle_zip(folder, target)
        else:
            _replace_folder(folder, target)


def is_bundle(path: Path) -> bool:
    """Whether what lies there is a bundle of ours; anything else is never replaced."""
    try:
        files = open_bundle_files(path)
        listed = set(unsafe_read_manifest(files).files) | {MANIFEST_NAME, ENVELOPE_NAME}
    except SmallholdError:
        return False
    return files.names() <= listed  # somebody's notes beside our files are not ours to delete


def _replace_folder(source: Path, target: Path) -> None:
    """Move a finished folder into place; an older bundle steps aside first, goes last, and comes back on failure."""
    if not target.exists():
        source.replace(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.replace(old)
    try:
        source.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
