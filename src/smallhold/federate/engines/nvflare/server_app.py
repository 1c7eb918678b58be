"""NVFlare's side of the server: asks the sites of a round, hands their answers to the resident server.

The rounds live in the resident server. When this process is killed, the next job goes on in the round it was in.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from smallhold.errors import QuorumError, UpdateRefused
from smallhold.federate.resident import ask_patiently

_ANSWER_SECONDS = 600.0


class RoundController(Controller):
    """Carries blobs between the sites of an NVFlare job and the resident server."""

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is kept here."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is kept here."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """All rounds that are left."""
        status, _ = self._ask({"ask": "status"})
        while not status["is_finished"] and not abort_signal.triggered:
            status = self._round(abort_signal, fl_ctx)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """An answer that came late: the resident server knows whether it still counts."""
        del task_name, client_task_id
        self._count(client.name, result, fl_ctx)

    def _round(self, abort_signal: Signal, fl_ctx: FLContext) -> dict[str, Any]:
        """One round; returns where the job then stands."""
        status, request = self._ask({"ask": "request"})
        here = {client.name for client in fl_ctx.get_engine().get_clients()}
        if asked := [site for site in status["waiting_for"] if site in here]:
            content = Shareable({"blob": request, "deadline_seconds": status["deadline_seconds"]})
            task = Task(
                "train", content, timeout=math.ceil(status["deadline_seconds"]), result_received_cb=self._count_task
            )
            self.broadcast_and_wait(task, fl_ctx, targets=asked, min_responses=len(asked), abort_signal=abort_signal)
        if abort_signal.triggered:
            return status
        try:
            status, _ = self._ask({"ask": "close_round", "round": status["round"], "turn": status["turn"]})
        except QuorumError as missing:  # asked anew, or another job finds the sites that this one has not
            self.log_warning(fl_ctx, str(missing))
            time.sleep(1.0)
            return status
        self.log_info(fl_ctx, f"round {status['round']}, turn {status['turn']} begins, model {status['model'][:16]}")
        return status

    def _count_task(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        self._count(client_task.client.name, client_task.result, fl_ctx)

    def _count(self, site: str, result: Shareable, fl_ctx: FLContext) -> None:
        """Hand an answer on; NVFlare has authenticated the site by its certificate."""
        if result.get_return_code() != ReturnCode.OK:
            self.log_warning(fl_ctx, f"{site} failed: {result.get_return_code()}")
            return
        try:  # an answer without a blob is refused, and in the journal, like any other that is none
            self._ask({"ask": "receive", "sender": site}, result.get("blob", b""))
        except UpdateRefused as refusal:
            self.log_warning(fl_ctx, f"{site}: {refusal}")

    def _ask(self, head: dict[str, Any], blob: bytes = b"") -> tuple[dict[str, Any], bytes]:
        server = Path(os.environ["SMALLHOLD_SOCKETS"]) / "server"
        return ask_patiently(server, head, blob, timeout_seconds=_ANSWER_SECONDS)
