"""Flower's side of the server: asks the sites of a round, hands their answers to the resident server.

The rounds live in the resident server. When this process is killed, the next run goes on in the round it was in.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from smallhold.errors import QuorumError, UpdateRefused
from smallhold.federate.engines.flower.mail import Mail
from smallhold.federate.resident import ask_patiently

_ANSWER_SECONDS = 600.0
_NAMES = "names"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds that are left."""
    server = Path(str(context.run_config["socket"]))
    names: dict[int, str] = {}
    mail = Mail(grid, _ask_name)
    status, _ = ask_patiently(server, {"ask": "status"}, timeout_seconds=_ANSWER_SECONDS)
    while not status["is_finished"]:
        status = _round(grid, mail, server, names, status)


def _round(grid: Grid, mail: Mail, server: Path, names: dict[int, str], status: dict[str, Any]) -> dict[str, Any]:
    """One round; returns where the job then stands."""
    deadline = time.monotonic() + status["deadline_seconds"]
    _find_sites(grid, mail, names, status, deadline)
    status, request = ask_patiently(server, {"ask": "request"}, timeout_seconds=_ANSWER_SECONDS)
    left = max(1.0, deadline - time.monotonic())
    asked = {node: site for node, site in names.items() if site in status["waiting_for"]}
    content = RecordDict({"request": ConfigRecord({"blob": request, "deadline_seconds": left})})
    about = f"round {status['round']}, turn {status['turn']}"
    mail.forget_all_but(_NAMES, about)
    messages = {node: Message(content, node, "train", group_id=str(status["round"])) for node in asked}
    for node, reply in mail.ask(about, messages, timeout=left):
        site = asked[node]
        if reply.has_error():
            print(f"round {status['round']}: {site} failed: {reply.error.reason}", flush=True)
            continue
        try:
            head = {"ask": "receive", "sender": site}
            ask_patiently(server, head, reply.content["update"]["blob"], timeout_seconds=_ANSWER_SECONDS)
        except UpdateRefused as refusal:
            print(f"round {status['round']}: {site}: {refusal}", flush=True)
    question = {"ask": "close_round", "round": status["round"], "turn": status["turn"]}
    try:
        status, _ = ask_patiently(server, question, timeout_seconds=_ANSWER_SECONDS)
    except QuorumError as missing:  # Flower does not deliver a message again whose node died: the round is asked anew
        print(missing, flush=True)
        status, _ = ask_patiently(server, {"ask": "status"}, timeout_seconds=_ANSWER_SECONDS)
        return status
    print(f"round {status['round']}, turn {status['turn']} begins, model {status['model'][:16]}", flush=True)
    return status


def _ask_name(node: int) -> Message:
    """Which site does a node speak for?"""
    return Message(RecordDict({"ask": ConfigRecord({"what": "name"})}), node, "query", group_id=_NAMES)


def _find_sites(grid: Grid, mail: Mail, names: dict[int, str], status: dict[str, Any], deadline: float) -> None:
    """Learn which node speaks for which site, until all that are waited for are there or the deadline is near.

    A node keeps the name it gave first, and a name belongs to the first living node that gave it: nodes are
    authenticated by their keys, so that a site cannot speak for another once both have been heard.
    """
    while True:
        alive = set(grid.get_node_ids())
        for gone in set(names) - alive:
            del names[gone]
        unknown = sorted(alive - set(names))
        if unknown:
            questions = {node: _ask_name(node) for node in unknown}
            for node, reply in mail.ask(_NAMES, questions, timeout=60.0):
                if not reply.has_error():
                    site = str(reply.content["site"]["name"])
                    if site not in names.values():
                        names[node] = site
        missing = set(status["waiting_for"]) - set(names.values())
        if not missing or time.monotonic() > deadline - status["deadline_seconds"] / 2:
            return
        time.sleep(1.0)
