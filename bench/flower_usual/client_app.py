"""A site: every message starts a process that imports torch, loads the base and its rows, and trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from smallhold.federate.job import LocalChoice
from smallhold.federate.local_model import Rows
from smallhold.federate.trunk_risk import TrunkRisk

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round: the global adapters in, the site's out."""
    torch.set_num_threads(1)
    config, node = message.content["config"], context.node_config
    model = TrunkRisk(Path(str(node["base"])), rank=int(config["rank"]))
    choice = LocalChoice(
        epochs=float(config["epochs"]), batch_size=int(config["batch_size"]), learning_rate=float(config["rate"])
    )
    (start,) = message.content["arrays"].to_numpy_ndarrays()
    with np.load(str(node["rows"]), allow_pickle=False) as held:
        inputs = {"channels": held["channels"], "static": held["static"]}
        rows = Rows(inputs, held["label"], tuple(map(str, range(len(held["label"])))))
    trained = model.train(start, rows, choice, int(config["server-round"]))
    content = RecordDict(
        {
            "arrays": ArrayRecord([trained.model]),
            "metrics": MetricRecord({"num-examples": len(rows), "loss": float(trained.loss)}),
        }
    )
    return Message(content, reply_to=message)
