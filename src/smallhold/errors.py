"""Every error that Smallhold raises on purpose, grouped by what the caller can do about it.

::

    SmallholdError
    ├── InputError          the caller's data, file or recipe is wrong: mend it and run again
    │   ├── RecipeError         a recipe or profile has an unknown, missing or impossible entry
    │   ├── DataError           a data set is absent, truncated or not laid out as documented
    │   ├── UnknownTaskError    a bundle has no task of that name
    │   └── ShapeError          an array does not have the documented shape or type
    ├── MissingExtraError   an optional dependency is absent: the message says what to install
    ├── BundleError         do not install or open this bundle
    │   ├── SignatureError      unsigned, signed by an unknown key, or the signature does not match
    │   ├── IntegrityError      a file is missing, added, altered or of another size
    │   ├── ExpiredError        the manifest's lifetime is over
    │   └── RollbackError       older than what this device has already run
    ├── InstallError        the bundle is genuine, but the device could not switch to it
    ├── DecisionError       no valid decision could be made: the floor acts
    │   ├── BackendError        a runtime could not load or run the model
    │   ├── CapacityError       the context is full: re-prefill a summary
    │   └── DeadlineError       the decision came too late
    ├── GuestError          a WebAssembly guest broke off or went beyond its limits; the host goes on
    ├── PolicyError         a profile is not total, not monotone, or permits on a clause nobody has read
    ├── OrderError          a standing order is malformed, unsigned or contradicts itself: it is not used
    │   └── OrderRefused        a dose is not given: expired, revoked, beyond a bound, stopped; nothing was released
    ├── JournalError        the journal was altered, cut, or cannot be written
    ├── PrivacyError        an update cannot be protected as asked: nothing leaves the site
    │   ├── BudgetExceeded      the release would spend more than was granted: stop the round
    │   ├── LedgerError         the privacy ledger was altered, cut, forged, or cannot be written
    │   ├── SecureSumError      a message of secure aggregation is forged, replayed, malformed or out of turn
    │   └── EncryptionError     a ciphertext is malformed, of another key or of another shape
    ├── EndpointError       a teacher's endpoint cannot be asked, or refuses every question
    │   └── EgressError         rows may not leave this machine for that endpoint
    ├── FederationError   a federated job cannot go on
    │   ├── UpdateRefused       an update is empty, stale, replayed, malformed or not of this job: the round goes on
    │   └── QuorumError         too few sites answered in time
    └── InterruptedRun      stopped on request; running the same command again resumes
"""

from __future__ import annotations


class SmallholdError(Exception):
    """Base of every error raised on purpose; `hint` tells what to do next.

    Args:
        message: What failed, where: expected X, got Y.
        hint: One command or action that mends it, printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(SmallholdError):
    """The caller's data, file or argument is wrong."""


class RecipeError(InputError):
    """A recipe or profile has an unknown, missing or impossible entry."""


class DataError(InputError):
    """A data set is absent, truncated or not laid out as documented."""


class UnknownTaskError(InputError):
    """A bundle has no task of that name."""


class ShapeError(InputError):
    """An array does not have the documented shape or type."""


class MissingExtraError(SmallholdError):
    """An optional dependency is absent.

    Args:
        module: The module that could not be imported.
        extra: The extra of this project that brings it.
        purpose: What it is needed for.
    """

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the Python module {module!r}, which is not installed.",
            hint=f"pip install 'smallhold[{extra}]'",
        )


class BundleError(SmallholdError):
    """Do not install or open this bundle."""


class SignatureError(BundleError):
    """Unsigned, signed by an unknown key, or the signature does not match."""


class IntegrityError(BundleError):
    """A file is missing, added, altered or of another size than the manifest says."""


class ExpiredError(BundleError):
    """The manifest's lifetime is over."""


class RollbackError(BundleError):
    """Older than what this device has already run."""


class InstallError(SmallholdError):
    """The bundle is genuine, but the device could not switch to it."""


class DecisionError(SmallholdError):
    """No valid decision could be made; the floor acts."""


class BackendError(DecisionError):
    """A runtime could not load or run the model."""


class CapacityError(DecisionError):
    """The context is full."""


class DeadlineError(DecisionError):
    """The decision came too late."""


class GuestError(SmallholdError):
    """A WebAssembly guest broke off or went beyond its limits; the host goes on."""


class PolicyError(SmallholdError):
    """A profile is not total, not monotone, or permits on a clause that nobody has read in its source."""


class OrderError(SmallholdError):
    """A standing order is malformed, unsigned or contradicts itself; it is not used."""


class OrderRefused(OrderError):  # noqa: N818 - a state that people must see, not a fault
    """A dose is not given; nothing was released."""


class JournalError(SmallholdError):
    """The journal was altered, cut, or cannot be written."""


class PrivacyError(SmallholdError):
    """An update cannot be protected as asked; nothing leaves the site."""


class BudgetExceeded(PrivacyError):  # noqa: N818 - the name that the field uses
    """The release would spend more than was granted; nothing was spent and nothing may be released."""


class LedgerError(PrivacyError):
    """The privacy ledger was altered, cut, forged, or cannot be written."""


class SecureSumError(PrivacyError):
    """A message of secure aggregation is forged, replayed, malformed or out of turn."""


class EncryptionError(PrivacyError):
    """A ciphertext is malformed, of another key or of another shape."""


class EndpointError(SmallholdError):
    """A teacher's endpoint cannot be asked, or refuses every question."""


class EgressError(EndpointError):
    """Rows may not leave this machine for that endpoint; nothing was sent."""


class FederationError(SmallholdError):
    """A federated job cannot go on."""


class UpdateRefused(FederationError):  # noqa: N818 - the round goes on without it
    """A site's message is not counted.

    Args:
        reason: `empty`, `stale`, `replayed`, `malformed`, `foreign` or `unknown_site`.
        detail: What was expected and what came; never a number of the update itself.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"update refused ({reason}): {detail}")
        self.reason = reason


class QuorumError(FederationError):
    """Too few sites answered before the deadline of the round."""


class InterruptedRun(SmallholdError):  # noqa: N818 - it is a state, not a fault
    """Stopped on request; running the same command again resumes."""

    exit_code = 130
