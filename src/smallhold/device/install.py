"""Installing a bundle into one of two slots, and returning to the one before.

The active slot is never written to. A new bundle is copied beside the slots, verified where it lies, tried out by a
check that the caller gives, moved into the inactive slot, and only then does one atomic rename of `state.json`
make it the active one. A kill or a power cut at any point leaves the old bundle active, or the new one, whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smallhold.device.bundle_files import BundleFiles, open_bundle_files
from smallhold.device.durable_file import fsync_directory, write_new_file
from smallhold.device.home import Home
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME, Manifest
from smallhold.device.slot_state import other_slot, read_state, write_state
from smallhold.device.trust import load_trusted_keys, unsafe_read_manifest, verify_bundle
from smallhold.errors import BundleError, InstallError

Check = Callable[[Path], None]

_INCOMING, _OUTGOING = "incoming-", "outgoing-"
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """What lies in a slot, as its manifest says (not verified: `status` only looks).

    Attributes:
        problem: Why the manifest could not be read, or None.
    """

    slot: str
    manifest: Manifest | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """Which bundle a device runs.

    Attributes:
        active: `a`, `b`, or None before the first install.
        can_roll_back: Whether `rollback` has a bundle to return to.
        highest_version: The highest version that this device has ever run; nothing lower can be installed.
        slots: Both slots, `a` first.
    """

    active: str | None
    can_roll_back: bool
    highest_version: str | None
    highest_digest: str | None
    slots: tuple[SlotStatus, SlotStatus]


def install(
    home: Home,
    source: Path,
    *,
    now: datetime,
    check: Check,
    runtime_version: str | None = None,
    lock_timeout_seconds: float = 10.0,
) -> Manifest:
    """Verify a bundle, try it out, and make it the active one.

    Args:
        home: The device; `device.home.init` has made it.
        source: A bundle, directory or ZIP.
        now: The present moment, with its time zone.
        check: Called with the verified copy; any exception it raises stops the install. It should load the model
            and make a decision, and has to bound its own time.
        runtime_version: Version of this software, `1.2.3`; default: the one that runs.
        lock_timeout_seconds: How long to wait for another install to end.

    Returns:
        The manifest of the bundle, which is active now and survives a power cut.

    Raises:
        BundleError: the bundle is not genuine, not whole, expired or older than what ran here (see `verify_bundle`).
        InstallError: another install is running, the disk refused, or `check` failed. In each case of failure the
            bundle that was active before still is.
    """
    with _locked(home, lock_timeout_seconds):
        _remove_leftovers(home)
        state = read_state(home.slots)
        trusted = load_trusted_keys(home.trust)

        def verify(files: BundleFiles) -> Manifest:
            return verify_bundle(
                files,
                trusted,
                now=now,
                installed_version=state.highest_version,
                installed_digest=state.highest_digest,
                runtime_version=runtime_version,
            )

        # (1) Verify the source: a bad bundle costs no disk space.
        files = open_bundle_files(source)
        offered = verify(files)
        if state.active is not None and _is_whole(home.slots / state.active, offered, verify):
            _run_check(check, home.slots / state.active, offered)
            return offered  # it runs already; a second copy would push out the bundle to return to
        with _disk_errors(), _scratch_folder(home.slots) as incoming:
            # (2) Copy it, and verify the copy: the source may have changed since, the copy no longer can.
            _copy(files, incoming)
            manifest = verify(open_bundle_files(incoming))
            # (3) Try it out.
            _run_check(check, incoming, manifest)
            # (4) Move it into the inactive slot. From here on the bundle that lay there is lost, so say so first.
            slot = other_slot(state.active)
            if state.can_roll_back:
                write_state(home.slots, state.without_previous())
            _move_into_slot(home.slots, incoming, slot)
            # (5) Flip: the one step that changes what runs.
            write_state(home.slots, state.after_install(slot, manifest.version, manifest.digest))
        _remove_leftovers(home)
        return manifest


def rollback(
    home: Home,
    *,
    now: datetime,
    check: Check,
    runtime_version: str | None = None,
    lock_timeout_seconds: float = 10.0,
) -> Manifest:
    """Return to the bundle that was active before; a second rollback returns to the newer one.

    The highest version that ever ran stays remembered: what an operator may undo on the device, nobody may push
    from outside.

    Returns:
        The manifest of the bundle that is active now; verified and tried out like a new one.

    Raises:
        InstallError: there is no previous bundle, another install is running, or `check` failed.
        BundleError: the previous bundle no longer verifies, for example because it has expired.
    """
    with _locked(home, lock_timeout_seconds):
        state = read_state(home.slots)
        if not state.can_roll_back:
            raise InstallError(
                f"nothing to roll back to: home {home.path} holds no previous bundle", hint="smallhold device status"
            )
        slot = other_slot(state.active)
        manifest = verify_bundle(
            open_bundle_files(home.slots / slot),
            load_trusted_keys(home.trust),
            now=now,
            runtime_version=runtime_version,
        )
        with _disk_errors():
            _run_check(check, home.slots / slot, manifest)
            write_state(home.slots, state.after_rollback(slot))
        return manifest


def status(home: Home) -> Status:
    """What the device runs and could return to; reads only.

    Raises:
        InstallError: the state file is damaged.
    """
    state = read_state(home.slots)
    shown = {state.active} | ({other_slot(state.active)} if state.can_roll_back else set())
    return Status(
        active=state.active,
        can_roll_back=state.can_roll_back,
        highest_version=state.highest_version,
        highest_digest=state.highest_digest,
        slots=(_look_into(home, "a", "a" in shown), _look_into(home, "b", "b" in shown)),
    )


def active_bundle(home: Home) -> Path:
    """The folder of the active bundle.

    Raises:
        InstallError: nothing is installed, or the state file is damaged.
    """
    state = read_state(home.slots)
    if state.active is None:
        raise InstallError(f"no bundle is installed in home {home.path}", hint="smallhold device install BUNDLE")
    return home.slots / state.active


def _look_into(home: Home, slot: str, is_used: bool) -> SlotStatus:
    if not is_used:
        return SlotStatus(slot, None, None)
    try:
        return SlotStatus(slot, unsafe_read_manifest(open_bundle_files(home.slots / slot)), None)
    except BundleError as error:
        return SlotStatus(slot, None, str(error))


def _copy(files: BundleFiles, folder: Path) -> None:
    manifest = unsafe_read_manifest(files)  # the copy is verified next
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    for name in sorted(files.names() & (sizes.keys() | {MANIFEST_NAME, ENVELOPE_NAME})):
        target = folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        limit = sizes[name] + 1 if name in sizes else None
        write_new_file(target, files.chunks(name, limit=limit))
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        fsync_directory(path)


def _is_whole(slot: Path, offered: Manifest, verify: Callable[[BundleFiles], Manifest]) -> bool:
    try:
        return verify(open_bundle_files(slot)) == offered
    except BundleError:
        return False


def _run_check(check: Check, bundle: Path, manifest: Manifest) -> None:
    try:
        check(bundle)
    except Exception as error:
        raise InstallError(
            f"bundle {manifest.name} {manifest.version} is genuine but failed its check on this device: {error}",
            hint="the bundle that was active before still is: smallhold device status",
        ) from error


def _move_into_slot(slots: Path, incoming: Path, slot: str) -> None:
    if (slots / slot).exists():
        (slots / slot).replace(Path(tempfile.mkdtemp(prefix=_OUTGOING, dir=slots)) / slot)
    incoming.replace(slots / slot)
    fsync_directory(slots)


@contextmanager
def _scratch_folder(slots: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=slots))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gone already after a success


def _remove_leftovers(home: Home) -> None:
    for path in home.slots.iterdir():
        if path.name.startswith((_INCOMING, _OUTGOING)) or path.name.endswith(".partial"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InstallError(f"the disk refused the install: {error}") from error


@contextmanager
def _locked(home: Home, timeout_seconds: float) -> Iterator[None]:
    if not home.slots.is_dir():
        raise InstallError(f"home {home.path} has no slots", hint="smallhold device init")
    with _disk_errors():
        descriptor = os.open(home.slots / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise InstallError(
                        f"another install is running in home {home.path}: waited {timeout_seconds:g} s"
                    ) from error
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
