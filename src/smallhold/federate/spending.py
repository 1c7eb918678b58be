"""What a federation has spent of which privacy: the ledgers of a server and of sites, verified and computed anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from smallhold.device.trust import load_private_key, load_public_key
from smallhold.errors import InputError, LedgerError
from smallhold.federate.receipt import FOLDER as RECEIPTS
from smallhold.federate.receipt import PUBLIC_KEY, read_receipt
from smallhold.federate.round_budget import KEY, LEDGER
from smallhold.privacy.ledger import Head, check_spends, read_ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def find_ledgers(path: Path) -> list[Path]:
    """Ledgers by path: a file, the folder of a server or a site, or the folder of a run with all of them.

    Raises:
        InputError: there is none.
    """
    if path.is_file():
        return [path]
    found = [*path.glob(LEDGER), *path.glob(f"server/{LEDGER}"), *sorted(path.glob(f"sites/*/{LEDGER}"))]
    if not found:
        raise InputError(
            f"{path}: no {LEDGER} here, in server/ or in sites/*/",
            hint="a ledger is begun by a job with [privacy] (at the server), [record_privacy] or [statistics] (sites)",
        )
    return found


def read_spending(path: Path, key: Ed25519PublicKey | None = None, at_least: Head | None = None) -> dict[str, Any]:
    """One ledger: verified, and its sums computed anew.

    Args:
        path: Of the file.
        key: Of whoever keeps it. None takes the one beside it: that finds damage, and not somebody who put another key
            and another ledger there.
        at_least: A head seen before. None takes, at a server, the one that its last receipt names.

    Returns:
        Ready for JSON: `ledger`, `key` (`given` or `beside it`), `budgets` by unit with `epsilon`, `delta` and
        `spent`, `releases` in order (`release`, `job`, `round`, `attempt`, `t_ms`, `charges`, `epsilon` after it), and
        `head`.

    Raises:
        LedgerError: altered, cut, signed by another key, or a sum is wrong.
        SignatureError: a receipt beside it is altered.
        MissingExtraError: dp-accounting is absent.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from error
    public = key or load_private_key(path.parent / KEY).public_key()
    at_least = at_least or _receipted_head(path.parent)
    try:
        state = read_ledger(data, public_key=public, at_least=at_least)
        check_spends(state)
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}", hint=error.hint) from error
    budgets = {unit: {**asdict(budget), "spent": state.spent(unit)} for unit, budget in state.budgets.items()}
    releases = [
        {
            "release": spend.release,
            **_parts(spend.release),
            "t_ms": spend.t_ms,
            "charges": {unit: asdict(charge) for unit, charge in spend.charges.items()},
            "epsilon": dict(spend.epsilon),
        }
        for spend in state.spends
    ]
    told = "beside it" if key is None else "given"
    return {"ledger": str(path), "key": told, "budgets": budgets, "releases": releases, "head": asdict(state.head)}


def format_spending(spending: dict[str, Any]) -> str:
    """One ledger in words: a line for each budget, and a table of what each round has cost."""
    lines = [f"{spending['ledger']}: whole, signed, sums computed anew (key {spending['key']})"]
    for unit, budget in sorted(spending["budgets"].items()):
        lines.append(
            f"  {unit}: epsilon {budget['spent']:.4g} of {budget['epsilon']:g} spent, at delta {budget['delta']:g}"
        )
    lines.append(
        f"  {'round':>5} {'attempt':>7}  {'when (UTC)':<16}  {'unit':<7} {'noise':>7} {'rate':>6} {'steps':>5} epsilon"
    )
    for release in spending["releases"]:
        when = datetime.fromtimestamp(release["t_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        for unit, charge in sorted(release["charges"].items()):
            lines.append(
                f"  {_number(release['round']):>5} {_number(release['attempt']):>7}  {when}  {unit:<7} "
                f"{charge['noise_multiplier']:>7.4g} {charge['sampling_rate']:>6.3g} {charge['steps']:>5} "
                f"{release['epsilon'][unit]:.4g}"
            )
    head = spending["head"]
    return "\n".join([*lines, f"  head {head['seq']}:{head['hash']}"])


def paint_spending(figure: Figure, found: Sequence[dict[str, Any]]) -> None:
    """Epsilon after each release, a curve for each ledger and unit, with its budget."""
    from smallhold.evaluate.picture import LOOKS

    axes = figure.add_subplot()
    curves = [(spending, unit) for spending in found for unit in sorted(spending["budgets"])]
    for index, (spending, unit) in enumerate(curves):
        colour, dash = LOOKS[index % len(LOOKS)]
        epsilons = [0.0, *(release["epsilon"][unit] for release in spending["releases"])]
        name = f"{Path(spending['ledger']).parent.name}, {unit}"
        axes.step(range(len(epsilons)), epsilons, where="post", color=colour, linestyle=dash, label=name)
        axes.axhline(spending["budgets"][unit]["epsilon"], color=colour, linewidth=0.6)
    axes.set(xlabel="Releases", ylabel="Epsilon spent; thin lines: budgets")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def parse_head(text: str) -> Head:
    """`SEQ:HASH` as `format_spending` prints it.

    Raises:
        InputError: something else.
    """
    seq, _, digest = text.partition(":")
    if not seq.isdecimal() or len(digest) != 64:
        raise InputError(f"--head: expected SEQ:HASH with a SHA-256 in hexadecimal, got {text[:80]!r}")
    return Head(int(seq), digest)


def _receipted_head(folder: Path) -> Head | None:
    """The head of a server's ledger when it signed its last receipt; None where there is no receipt of it."""
    receipts = sorted((folder / RECEIPTS).glob("*.dsse.json"), key=lambda path: int(path.name.partition(".")[0]))
    if not receipts:
        return None
    last = read_receipt(receipts[-1].read_bytes(), load_public_key(folder / PUBLIC_KEY), name=str(receipts[-1]))
    kept = [promise["ledger"] for promise in last["privacy"].values() if "ledger" in promise]
    return Head(**kept[0]) if kept else None


def _parts(release: str) -> dict[str, Any]:
    """Job, round and attempt of a release's name; None where it was named otherwise."""
    parts = release.split("/")
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return {"job": None, "round": None, "attempt": None}
    return {"job": parts[0], "round": int(parts[1]), "attempt": int(parts[2])}


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
