"""Whether a job's folder is what its journal says: the chain, every model and every update, without any engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallhold.errors import JournalError
from smallhold.federate.journal import read_journal
from smallhold.federate.server import JOURNAL
from smallhold.records import sha256_hex


def verify_run(folder: Path) -> dict[str, Any]:
    """Check a server's folder.

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
        senders = sorted(update["site"] for update in updates if update["round"] == body["round"])
        if senders != body["sites"]:
            problems.append(f"round {body['round']} counted {body['sites']}, received {senders}")
        _check_file(folder / "models" / f"{body['round'] + 1}.safetensors", body["file"], problems)
    for update in updates:
        path = folder / "updates" / str(update["round"]) / f"{update['site']}.safetensors"
        _check_file(path, update["digest"], problems)
    summary = {
        "job": entries[0].body["name"],
        "rounds": len(closed),
        "is_finished": entries[-1].kind == "finished",
        "updates": len(updates),
        "bytes_received": sum(update["bytes"] for update in updates),
        "refused": sum(entry.kind == "refused" for entry in entries),
        "model": closed[-1]["model"] if closed else entries[0].body["base"],
    }
    line = (
        f"{summary['job']}: {summary['rounds']} rounds, {summary['updates']} updates, "
        f"{summary['bytes_received']:,} bytes received; journal, models and updates are whole"
    )
    return {"problems": problems, "summary": summary, "line": line}


def _check_file(path: Path, digest: str, problems: list[str]) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return
    if sha256_hex(data) != digest:
        problems.append(f"{path}: altered")
