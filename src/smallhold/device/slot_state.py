"""`slots/state.json`: which slot is active, and the highest version that ever ran. Pure rules, one small file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from smallhold.device.durable_file import write_durably
from smallhold.device.manifest import parse_version
from smallhold.errors import BundleError, InstallError
from smallhold.records import canonical_json

STATE_NAME = "state.json"
SLOTS = ("a", "b")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """What the device remembers about its slots.

    Attributes:
        format_version: Version of the state file, 1.
        active: `a`, `b`, or None before the first install.
        can_roll_back: The other slot holds the bundle that was active before.
        highest_version: The high-water mark; it never falls.
        highest_digest: Manifest digest of the bundle with that version.
    """

    format_version: int = 1
    active: str | None = None
    can_roll_back: bool = False
    highest_version: str | None = None
    highest_digest: str | None = None

    def without_previous(self) -> SlotState:
        """The inactive slot is about to be overwritten."""
        return replace(self, can_roll_back=False)

    def after_install(self, slot: str, version: str, digest: str) -> SlotState:
        """`slot` was filled and becomes active; `version` is at least the high-water mark (`verify_bundle`)."""
        return SlotState(
            active=slot, can_roll_back=self.active is not None, highest_version=version, highest_digest=digest
        )

    def after_rollback(self, slot: str) -> SlotState:
        """The other slot becomes active again; the high-water mark stays."""
        return replace(self, active=slot)


def other_slot(slot: str | None) -> str:
    """The slot that is not `slot`; `a` when none is active."""
    return "b" if slot == "a" else "a"


def read_state(slots: Path) -> SlotState:
    """The state of a device; an absent file is a device without a bundle.

    Raises:
        InstallError: the file is damaged or cannot be read.
    """
    path = slots / STATE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return SlotState()
    except OSError as error:
        raise InstallError(f"{path} cannot be read: {error}") from error
    try:
        value = json.loads(data)
        state = SlotState(**value)
        _check(state)
    except (ValueError, TypeError, RecursionError, BundleError) as error:
        raise InstallError(
            f"{path} is damaged: {error}",
            hint="delete this file and install again; the device then forgets which versions it has run",
        ) from error
    return state


def write_state(slots: Path, state: SlotState) -> None:
    """Replace the state in one step that survives a power cut.

    Raises:
        OSError: the disk refused; the old state stands.
    """
    write_durably(slots / STATE_NAME, [canonical_json(asdict(state))])


def _check(state: SlotState) -> None:
    expected = {
        "format_version": state.format_version == 1,
        "active": state.active in (None, *SLOTS),
        "can_roll_back": isinstance(state.can_roll_back, bool) and not (state.can_roll_back and state.active is None),
        "highest_version": (state.highest_version is None) == (state.active is None),
        "highest_digest": (state.highest_digest is None) == (state.active is None),
    }
    if wrong := [name for name, is_right in expected.items() if not is_right]:
        raise ValueError(f"impossible {wrong[0]}: {getattr(state, wrong[0])!r}")
    if state.highest_version is not None:
        parse_version(state.highest_version, member="highest_version")
