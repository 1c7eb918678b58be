"""Flower's side of a site: hands the request to the resident site, and its answer back.

Flower starts a new process for every message; this one imports no model and no data.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from smallhold.federate.resident import ask_patiently

app = ClientApp()


@app.query()
def name(message: Message, context: Context) -> Message:
    """Which site this node speaks for."""
    head, _ = ask_patiently(_socket(context), {"ask": "name"}, timeout_seconds=60.0)
    return Message(RecordDict({"site": ConfigRecord({"name": head["site"]})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round: the request's blob in, the update's blob out, both as they are."""
    request = message.content["request"]
    _, update = ask_patiently(
        _socket(context), {"ask": "respond"}, request["blob"], timeout_seconds=float(request["deadline_seconds"])
    )
    return Message(RecordDict({"update": ConfigRecord({"blob": update})}), reply_to=message)


def _socket(context: Context) -> Path:
    return Path(str(context.node_config["socket"]))
