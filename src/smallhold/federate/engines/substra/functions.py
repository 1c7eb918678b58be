"""What Substra carries out: three functions that hand blobs to resident processes and back.

This file is the whole content of the archives that are registered, so that their checksums are of the code that runs.
It loads no model and no data, and unpickles nothing. `$SMALLHOLD_SOCKETS` is the folder in which the resident processes
of this organisation listen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import substratools

from smallhold.errors import FederationError, QuorumError, UpdateRefused
from smallhold.federate.resident import ask_patiently

_ANSWER_SECONDS = 600.0
_UPDATE = "update-"


@substratools.register
def begin(inputs: dict[str, str], outputs: dict[str, str], task_properties: dict[str, Any]) -> None:  # noqa: ARG001
    """At the server: what the round asks that the job is in."""
    _write_request(outputs)


@substratools.register
def train(inputs: dict[str, Any], outputs: dict[str, str], task_properties: dict[str, Any]) -> None:  # noqa: ARG001
    """At a site: the request's blob in, the update's blob out, both as they are.

    A site that cannot answer gives an empty blob. A task that fails would end the whole plan.
    """
    card, request = inputs["datasamples"], Path(inputs["request"]).read_bytes()
    site, patience = card["site"], float(card["deadline_seconds"])
    try:
        _, update = ask_patiently(_socket(f"site-{site}"), {"ask": "respond"}, request, timeout_seconds=patience)
    except (FederationError, OSError) as error:
        print(f"{site} gives no update: {error}", flush=True)
        update = b""
    Path(outputs["update"]).write_bytes(update)


@substratools.register
def close_round(inputs: dict[str, str], outputs: dict[str, str], task_properties: dict[str, Any]) -> None:  # noqa: ARG001
    """At the server: the updates in, what the next round asks out; the same again where too few have come."""
    server = _socket("server")
    status, _ = ask_patiently(server, {"ask": "status"}, timeout_seconds=_ANSWER_SECONDS)
    for identifier, path in sorted(inputs.items()):
        site, blob = identifier.removeprefix(_UPDATE), Path(path).read_bytes()
        try:
            if identifier.startswith(_UPDATE) and blob:
                head = {"ask": "receive", "sender": site}
                ask_patiently(server, head, blob, timeout_seconds=_ANSWER_SECONDS)
        except UpdateRefused as refusal:
            print(f"round {status['round']}: {site}: {refusal}", flush=True)
    try:
        question = {"ask": "close_round", "round": status["round"], "turn": status["turn"]}
        ask_patiently(server, question, timeout_seconds=_ANSWER_SECONDS)
    except QuorumError as missing:
        print(missing, flush=True)
    _write_request(outputs)


def _write_request(outputs: dict[str, str]) -> None:
    """What the job's round asks; nothing when all are closed."""
    server, request = _socket("server"), b""
    status, _ = ask_patiently(server, {"ask": "status"}, timeout_seconds=_ANSWER_SECONDS)
    if not status["is_finished"]:
        _, request = ask_patiently(server, {"ask": "request"}, timeout_seconds=_ANSWER_SECONDS)
    Path(outputs["request"]).write_bytes(request)


def _socket(name: str) -> Path:
    return Path(os.environ["SMALLHOLD_SOCKETS"]) / name


if __name__ == "__main__":
    substratools.execute()
