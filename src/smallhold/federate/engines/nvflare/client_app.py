"""NVFlare's side of a site: hands the request to the resident site, and its answer back.

NVFlare starts a process of this for every job; it imports no model and no data.
"""

from __future__ import annotations

import os
from pathlib import Path

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from smallhold.errors import SmallholdError
from smallhold.federate.resident import ask_patiently


class SiteExecutor(Executor):
    """Answers `train`: the request's blob in, the update's blob out, both as they are."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """One round. What went wrong at the site stays in the site's log."""
        del abort_signal  # NVFlare ends the process of an aborted job; the resident site keeps its answer
        if task_name != "train":
            return make_reply(ReturnCode.TASK_UNKNOWN)
        # The site's operator says where the resident site listens; a job that came from the server must not.
        socket = Path(os.environ["SMALLHOLD_SOCKETS"]) / f"site-{fl_ctx.get_identity_name()}"
        try:
            timeout = float(shareable["deadline_seconds"])
            _, update = ask_patiently(socket, {"ask": "respond"}, shareable["blob"], timeout_seconds=timeout)
        except (SmallholdError, OSError) as error:
            self.log_error(fl_ctx, f"{socket.name}: {error}")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        answer = make_reply(ReturnCode.OK)
        answer["blob"] = update
        return answer
