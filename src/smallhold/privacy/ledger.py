"""What has been spent of a privacy budget, by whom nobody can make it less: the rules, as pure functions.

A ledger is a file of JSON lines. The first grants a budget for each privacy unit; each later one spends some of it,
before the release that it pays for. Every line holds the hash of the line before and an ed25519 signature of the site.
`ledger_file` keeps it on the disk.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.device.trust import key_id, pre_authentication_encoding
from smallhold.errors import BudgetExceeded, InputError, LedgerError, MissingExtraError
from smallhold.privacy.accountant import Charge, compose_epsilon
from smallhold.privacy.checks import check_positive
from smallhold.records import canonical_json, sha256_hex

UNITS = ("record", "patient", "site")  # what is added or removed between neighbouring data sets
PAYLOAD_TYPE = "application/vnd.smallhold.privacy-ledger+json"
_FIRST_PREV = "0" * 64
_SCHEMA = "smallhold.privacy-ledger/1"
_SAME_EPSILON = 1e-3  # versions of dp-accounting agree to this fraction


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent for one privacy unit, for good.

    Attributes:
        epsilon: Above 0.
        delta: Above 0, below 1; smaller than one over the number of units.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_positive(self.epsilon, "epsilon")
        if not check_positive(self.delta, "delta") < 1:
            raise InputError(f"delta: expected above 0 and below 1, got {self.delta!r}")


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a ledger, to be kept where whoever can cut the ledger cannot reach (a receipt, the server).

    Attributes:
        seq: Its number, from 0.
        hash: SHA-256 of the line, hexadecimal.
    """

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Spend:
    """One line that spent.

    Attributes:
        release: What it paid for: job, round and attempt; once in a ledger.
        t_ms: Wall clock.
        charges: By unit.
        epsilon: By unit: what is spent after it, all releases together.
    """

    release: str
    t_ms: int
    charges: Mapping[str, Charge]
    epsilon: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LedgerState:
    """A ledger that was read and verified.

    Attributes:
        budgets: By unit.
        spends: In order.
        lines: The signed lines, without line ends.
    """

    budgets: Mapping[str, Budget]
    spends: tuple[Spend, ...]
    lines: tuple[bytes, ...]

    @property
    def head(self) -> Head:
        """The last line."""
        return Head(len(self.lines) - 1, sha256_hex(self.lines[-1]))

    def spent(self, unit: str) -> float:
        """Epsilon spent for a unit, at its budget's delta."""
        return self.spends[-1].epsilon[unit] if self.spends else 0.0

    def find(self, release: str) -> Spend | None:
        """The line that paid for a release."""
        return next((spend for spend in self.spends if spend.release == release), None)


def begin_ledger(budgets: Mapping[str, Budget], *, key: Ed25519PrivateKey, t_ms: int) -> LedgerState:
    """A ledger that grants budgets and has spent nothing.

    Raises:
        InputError: no budget, or for a unit that is not one of `UNITS`.
    """
    if not budgets or not budgets.keys() <= set(UNITS):
        raise InputError(f"budgets: expected some of {', '.join(UNITS)}, got {', '.join(budgets) or 'none'}")
    granted = {unit: asdict(budget) for unit, budget in budgets.items()}
    line = _sign({"kind": "grant", "budgets": granted}, seq=0, prev=_FIRST_PREV, key=key, t_ms=t_ms)
    return LedgerState(dict(budgets), (), (line,))


def spend_budget(
    state: LedgerState, release: str, charges: Mapping[str, Charge], *, key: Ed25519PrivateKey, t_ms: int
) -> LedgerState:
    """The ledger after paying for a release, which must not happen before this ledger is on the disk.

    A release that was paid for is not paid again, and not refused either, only by sending the very same bytes again:
    look it up with `find`. Noise that is drawn anew is a new release, with a name of its own.

    Args:
        state: The ledger so far.
        release: Job, round and attempt; 1 to 200 printable characters.
        charges: What it costs, for each unit that has a budget: a unit without a charge would be left unprotected.
        key: The site's key.
        t_ms: Wall clock.

    Raises:
        BudgetExceeded: some unit's budget does not reach. The ledger is as before.
        LedgerError: the release was paid for already.
        InputError: a unit without budget, or a budget without charge.
        MissingExtraError: dp-accounting is absent.
    """
    if not 1 <= len(release) <= 200 or not release.isprintable():
        raise InputError(f"release: expected 1 to 200 printable characters, got {release[:80]!r}")
    if charges.keys() != state.budgets.keys():
        raise InputError(
            f"charges: expected one for each unit with a budget ({', '.join(sorted(state.budgets))}), got "
            f"{', '.join(sorted(charges)) or 'none'}"
        )
    if state.find(release) is not None:
        raise LedgerError(
            f"release {release!r} was paid for already",
            hint="send the bytes that were made then; a release with new noise needs a new name and a new charge",
        )
    epsilon = {}
    for unit, budget in sorted(state.budgets.items()):
        epsilon[unit] = _total(state.spends, unit, budget, charges[unit])
        if not epsilon[unit] <= budget.epsilon:
            raise BudgetExceeded(
                f"release {release!r} would bring the {unit}-level epsilon from {state.spent(unit):.4g} to "
                f"{epsilon[unit]:.4g}, granted are {budget.epsilon:g} at delta {budget.delta:g}; nothing was spent",
                hint="stop here: this site's part in the training is over",
            )
    entry = {
        "kind": "spend",
        "release": release,
        "charges": {unit: asdict(charge) for unit, charge in charges.items()},
        "epsilon": epsilon,
    }
    line = _sign(entry, seq=len(state.lines), prev=state.head.hash, key=key, t_ms=t_ms)
    spend = Spend(release, t_ms, dict(charges), epsilon)
    return LedgerState(state.budgets, (*state.spends, spend), (*state.lines, line))


def read_ledger(data: bytes, *, public_key: Ed25519PublicKey, at_least: Head | None = None) -> LedgerState:
    """Read and verify a ledger.

    Args:
        data: The file.
        public_key: The site's.
        at_least: A head seen before: the ledger must still hold that line.

    Raises:
        LedgerError: a line is altered, missing, out of order or not signed by the site; a line does not say what its
            charges cost; or the ledger was cut behind `at_least`.
    """
    lines = data.split(b"\n")
    if len(lines) < 2 or lines.pop() != b"":
        raise LedgerError("privacy ledger: empty, or its last line is cut")
    budgets: dict[str, Budget] = {}
    spends: list[Spend] = []
    prev = _FIRST_PREV
    for seq, line in enumerate(lines):
        entry = _open_line(line, seq=seq, prev=prev, public_key=public_key)
        try:
            if seq == 0:
                budgets = {unit: Budget(**value) for unit, value in entry["budgets"].items()}
            else:
                charges = {unit: Charge(**value) for unit, value in entry["charges"].items()}
                epsilon = {unit: float(value) for unit, value in entry["epsilon"].items()}
                spends.append(Spend(str(entry["release"]), int(entry["t_ms"]), charges, epsilon))
            if (entry["kind"] == "grant") != (seq == 0):
                raise ValueError(f"kind {entry['kind']!r} in this place")
        except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
            raise LedgerError(f"privacy ledger: line {seq + 1} is malformed: {error}") from error
        prev = sha256_hex(line)
    state = LedgerState(budgets, tuple(spends), tuple(lines))
    if at_least is not None and (
        at_least.seq >= len(lines) or at_least.seq < 0 or sha256_hex(lines[at_least.seq]) != at_least.hash
    ):
        raise LedgerError(
            f"privacy ledger: it no longer holds line {at_least.seq + 1}, which it held before: it was cut or replaced",
            hint="restore the newest copy; spending on from an older one would hide what was spent",
        )
    return state


def check_spends(state: LedgerState) -> None:
    """Compute what was spent anew: a site's own signature does not make a wrong sum right.

    Raises:
        LedgerError: the last line does not say what all charges cost, a line spends less than the one before, units
            are missing, a release is paid twice, or a budget is exceeded.
        MissingExtraError: dp-accounting is absent.
    """
    releases = [spend.release for spend in state.spends]
    if len(set(releases)) != len(releases):
        raise LedgerError("privacy ledger: it holds one release twice")
    if any(
        spend.charges.keys() != state.budgets.keys() or spend.epsilon.keys() != state.budgets.keys()
        for spend in state.spends
    ):
        raise LedgerError("privacy ledger: a line does not charge every unit that has a budget")
    for unit, budget in state.budgets.items():
        said = [spend.epsilon[unit] for spend in state.spends]
        if any(later < earlier for earlier, later in itertools.pairwise(said)):
            raise LedgerError(f"privacy ledger: the {unit}-level epsilon goes back")
        cost = _total(state.spends, unit, budget)
        if not math.isclose(cost, state.spent(unit), rel_tol=_SAME_EPSILON, abs_tol=1e-9):
            raise LedgerError(
                f"privacy ledger: it says {state.spent(unit):.6g} for {unit}, its charges cost {cost:.6g}"
            )
        if state.spent(unit) > budget.epsilon:
            raise LedgerError(f"privacy ledger: {unit} has spent {state.spent(unit):.6g} of {budget.epsilon:g}")


def _total(spends: Sequence[Spend], unit: str, budget: Budget, *more: Charge) -> float:
    charges = [*(spend.charges[unit] for spend in spends), *more]
    try:
        return compose_epsilon(charges, delta=budget.delta)
    except MissingExtraError:
        raise
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise LedgerError(f"the {unit}-level cost of {len(charges)} charges cannot be computed: {error}") from error


def _sign(entry: dict[str, Any], *, seq: int, prev: str, key: Ed25519PrivateKey, t_ms: int) -> bytes:
    signed = {**entry, "schema": _SCHEMA, "seq": seq, "prev": prev, "t_ms": t_ms, "key_id": key_id(key.public_key())}
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, canonical_json(signed)))
    return canonical_json({"entry": signed, "signature": signature.hex()})


def _open_line(line: bytes, *, seq: int, prev: str, public_key: Ed25519PublicKey) -> dict[str, Any]:
    where = f"privacy ledger: line {seq + 1}"
    try:
        value = json.loads(line)
        if canonical_json(value) != line or value.keys() != {"entry", "signature"}:
            raise ValueError("not in canonical form")
        entry = value["entry"]
        signature = bytes.fromhex(value["signature"])
        public_key.verify(signature, pre_authentication_encoding(PAYLOAD_TYPE, canonical_json(entry)))
    except InvalidSignature as error:
        raise LedgerError(f"{where} is altered, or signed by another key than {key_id(public_key)[:16]}") from error
    except (ValueError, TypeError, AttributeError, RecursionError, InputError) as error:
        raise LedgerError(f"{where} is altered: {error}") from error
    if entry.get("schema") != _SCHEMA or entry.get("seq") != seq or entry.get("prev") != prev:
        raise LedgerError(f"{where} does not follow the line before: a line is missing, moved or replaced")
    return dict(entry)
