"""A job's folder for people: its rounds and what its noise has cost, read without disturbing the server that writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallhold.device.trust import load_private_key
from smallhold.errors import SmallholdError
from smallhold.federate.journal import read_journal
from smallhold.federate.round_budget import LEDGER
from smallhold.federate.server import JOURNAL
from smallhold.privacy.ledger import read_ledger


def federation_overview(folder: Path) -> dict[str, Any]:
    """Rounds and privacy spent.

    Args:
        folder: Of a run: `server/` lies in it.

    Returns:
        Ready for JSON: `rounds`, `refused` updates by reason, `is_finished`, `privacy` (None where nothing is
        promised), and `problem`: why it cannot be read, None when it can. It never raises for what lies on the disk.
    """
    server = folder / "server"
    try:
        entries = read_journal(server / JOURNAL)
    except SmallholdError as error:
        return {"problem": str(error), "rounds": [], "refused": {}, "is_finished": False, "privacy": None}
    first = entries[0] if entries else None
    refused: dict[str, int] = {}
    rounds: list[dict[str, Any]] = []
    updates: dict[int, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry.kind == "refused":
            reason = str(entry.body.get("reason", "unknown"))
            refused[reason] = refused.get(reason, 0) + 1
        elif entry.kind in ("update", "message"):
            updates.setdefault(entry.body["round"], []).append(entry.body)
        elif entry.kind == "round_closed":
            body = entry.body
            took_part = updates.get(body["round"], [])
            rounds.append(
                {
                    "round": body["round"],
                    "t_ms": entry.t_ms,
                    "sites": body["sites"],
                    "model": body["model"],
                    "bytes": sum(update["bytes"] for update in took_part),
                }
            )
    return {
        "problem": None,
        "job": None if first is None else first.body.get("name"),
        "sites": [] if first is None else first.body.get("sites", []),
        "rounds": rounds,
        "refused": refused,
        "is_finished": bool(entries) and entries[-1].kind == "finished",
        "privacy": _privacy(server),
    }


def _privacy(server: Path) -> dict[str, Any] | None:
    path = server / LEDGER
    if not path.exists():
        return None
    try:
        public_key = load_private_key(server / "ledger.key").public_key()
        state = read_ledger(path.read_bytes(), public_key=public_key)
    except (SmallholdError, OSError) as error:
        return {"problem": str(error), "units": {}, "releases": 0}
    units = {
        unit: {"epsilon": budget.epsilon, "delta": budget.delta, "spent": state.spent(unit)}
        for unit, budget in state.budgets.items()
    }
    return {"problem": None, "units": units, "releases": len(state.spends)}
