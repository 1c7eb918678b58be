"""The server: Flower's own `FedAvg` over the adapters; says when each round ended, and keeps the last model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class _Timed(FedAvg):
    ended: list[float]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See `FedAvg`."""
        answered = list(replies)
        if any(reply.has_error() for reply in answered):
            raise RuntimeError(f"round {server_round}: {next(r.error for r in answered if r.has_error())}")
        found = super().aggregate_train(server_round, answered)
        self.ended.append(time.time())
        return found


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds."""
    config = context.run_config
    folder = Path(str(config["folder"]))
    strategy = _Timed(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=int(config["sites"]))
    strategy.ended = [time.time()]
    start = np.load(folder / "initial.npy", allow_pickle=False)
    settings = {name: config[name] for name in ("rank", "epochs", "batch_size", "rate")}
    found = strategy.start(
        grid,
        ArrayRecord([start]),
        num_rounds=int(config["rounds"]),
        timeout=600.0,
        train_config=ConfigRecord(settings),
    )
    (model,) = found.arrays.to_numpy_ndarrays()
    np.save(folder / "final.npy", model, allow_pickle=False)
    (folder / "ended.json").write_text(json.dumps(strategy.ended))
