"""The record of a job's tasks on Substra: functions, permissions, who carried out what; kept, and held to the journal.

`compute-plan.json` holds one plan for each time that the job was carried on. It is written before updates are counted,
so that every update that came over Substra is in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smallhold.device.durable_file import write_durably
from smallhold.errors import FederationError

FILE = "substra/compute-plan.json"
#: Beside the record: why the driver gave up.
REFUSAL = "refused.txt"
SCHEMA = "smallhold.substra-record/1"


def read_plans(path: Path) -> list[dict[str, Any]]:
    """Plans so far; none where there is no record.

    Raises:
        FederationError: not a record of this version, or it cannot be read.
    """
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']!r}")
        plans: list[dict[str, Any]] = [dict(plan) for plan in value["plans"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FederationError(
            f"{path}: expected a record of Substra's tasks ({SCHEMA}): {error}",
            hint="restore it from a backup, or move it away: the rounds do not depend on it",
        ) from error
    return plans


def write_plans(path: Path, plans: list[dict[str, Any]]) -> None:
    """Replace the record."""
    write_durably(path, [json.dumps({"schema": SCHEMA, "plans": plans}, indent=1).encode(), b"\n"])


def check_record(path: Path, updates: Iterable[dict[str, Any]]) -> list[str]:
    """Hold the record to the round journal.

    Args:
        path: Of the record; without one there is nothing to hold.
        updates: Bodies of the journal's updates: `round`, `site`, `digest`.

    Returns:
        Problems: an update that is not what any recorded task of its site gave for its round, though there is one.
    """
    try:
        given: dict[tuple[int, str], set[str]] = {}
        for plan in read_plans(path):
            for task in plan["tasks"]:
                if task["function"] == "train" and "update" in task["outputs"]:
                    site = plan["organisations"][task["worker"]]["site"]
                    given.setdefault((task["round"], site), set()).add(task["outputs"]["update"]["checksum"])
    except FederationError as error:
        return [str(error)]
    except (KeyError, TypeError) as error:
        return [f"{path}: a task or an organisation is not as it was written: {error!r}"]
    return [
        f"{path}: the update of {body['site']} in round {body['round']} is not what its task on Substra gave"
        for body in updates
        if (found := given.get((body["round"], body["site"]))) and body["digest"] not in found
    ]
