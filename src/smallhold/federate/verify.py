"""Whether a job's folder is what its journal says: the chain, every model and every update, without any engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from smallhold.device.trust import load_public_key
from smallhold.errors import InputError, JournalError, SignatureError
from smallhold.federate.engines.substra.record import FILE, check_record
from smallhold.federate.journal import Entry, read_journal
from smallhold.federate.receipt import FOLDER, PUBLIC_KEY, counted_updates, facts_of, read_receipt
from smallhold.federate.secure_rounds import message_file
from smallhold.federate.server import JOURNAL
from smallhold.records import sha256_hex


def verify_run(folder: Path, key: Ed25519PublicKey | None = None) -> dict[str, Any]:
    """Check a server's folder, and the record of tasks on Substra that lies beside it.

    Args:
        folder: Of the server's state.
        key: Of whoever signs the receipts. None takes the one in the folder: that finds damage, and not somebody who
            put another key there with receipts to match.

    Returns:
        Ready for JSON: `problems` (empty when all is well), `summary` (rounds, updates, bytes received, refusals) and
        `line`, the same in words.

    Raises:
        JournalError: there is no journal, or its chain is broken.
    """
    entries = read_journal(folder / JOURNAL)
    if not entries or entries[0].kind != "job":
        raise JournalError(f"{folder / JOURNAL}: expected the job as the first entry")
    problems: list[str] = []
    updates = [entry.body for entry in entries if entry.kind == "update"]
    closed = [entry.body for entry in entries if entry.kind == "round_closed"]
    for number, body in enumerate(closed):
        if body["round"] != number:
            problems.append(f"round {body['round']} is closed where round {number} was expected")
        senders = sorted(update["site"] for update in counted_updates(entries, body))
        if senders != body["sites"]:
            problems.append(f"round {body['round']} counted {body['sites']}, received {senders}")
        _check_file(folder / "models" / f"{body['round'] + 1}.safetensors", body["file"], problems)
    problems += _check_receipts(folder, entries, len(closed), key)
    messages = [entry.body for entry in entries if entry.kind == "message"]
    for message in messages:
        _check_file(folder / message_file(message), message["digest"], problems)
    for update in updates:
        path = folder / "updates" / str(update["round"]) / f"{update['site']}.safetensors"
        _check_file(path, update["digest"], problems)
    problems += check_record(folder.parent / FILE, updates)
    summary = {
        "job": entries[0].body["name"],
        "rounds": len(closed),
        "is_finished": entries[-1].kind == "finished",
        "updates": len(updates) + sum(len(counted_updates(entries, body)) for body in closed if "attempt" in body),
        "bytes_received": sum(body["bytes"] for body in [*updates, *messages]),
        "refused": sum(entry.kind == "refused" for entry in entries),
        "model": closed[-1]["model"] if closed else entries[0].body["base"],
    }
    line = (
        f"{summary['job']}: {summary['rounds']} rounds, {summary['updates']} updates, "
        f"{summary['bytes_received']:,} bytes received; journal, models, updates and receipts are whole"
        + ("" if key is not None else " (receipts by the key that lies beside them)")
    )
    return {"problems": problems, "summary": summary, "line": line}


def _check_receipts(folder: Path, entries: list[Entry], rounds: int, key: Ed25519PublicKey | None) -> list[str]:
    problems, previous = [], ""
    try:
        key = key or load_public_key(folder / PUBLIC_KEY)
    except InputError as error:
        return [str(error)] if rounds else []
    for number in range(rounds):
        path = folder / FOLDER / f"{number}.dsse.json"
        try:
            data = path.read_bytes()
            receipt = read_receipt(data, key, name=str(path))
        except (OSError, SignatureError) as error:
            problems.append(f"{path}: {error}")
            continue
        facts = {**facts_of(entries, number), "previous": previous}
        false = [name for name, value in facts.items() if receipt.get(name) != value]
        if false or receipt["job"]["digest"] != entries[0].body["job"]:
            problems.append(f"{path}: says otherwise than the journal: {', '.join(false or ['job'])}")
        previous = sha256_hex(data)
    return problems


def _check_file(path: Path, digest: str, problems: list[str]) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return
    if sha256_hex(data) != digest:
        problems.append(f"{path}: altered")
