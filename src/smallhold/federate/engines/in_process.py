"""All sites in one process: the oracle that every other engine is judged against."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from smallhold.errors import FederationError, QuorumError, SmallholdError
from smallhold.federate.server import RoundServer
from smallhold.federate.site import Site

#: (round, rounds in all, mean loss of the sites).
Progress = Callable[[int, int, float], None]


def run_in_process(server: RoundServer, sites: Mapping[str, Site], *, progress: Progress) -> None:
    """Carry a job out, or go on with it.

    A site that fails is left out of the round; the round closes when all others have answered or its deadline is over,
    provided that there is a quorum.

    Raises:
        QuorumError: too few sites could answer.
        FederationError: a site of the job is not here.
    """
    if missing := set(server.job.sites) - set(sites):
        raise FederationError(f"job {server.job.name}: no site {', '.join(sorted(missing))}")
    # Sites of an earlier process have taken their masks with them: a secure round that it began is attempted again.
    spare_attempts = 1 if server.job.upload.is_hidden else 0
    while not server.is_finished:
        request, losses = server.request(), []
        deadline = time.monotonic() + server.job.deadline_seconds
        failures: list[str] = []
        for name in server.waiting_for:
            if time.monotonic() > deadline:
                break
            try:
                losses.append(server.receive(sites[name].respond(request), sender=name).metrics.get("loss", math.nan))
            except SmallholdError as error:
                failures.append(f"{name}: {error}")
        if failures and len(server.accepted) < server.job.least and not server.job.upload.is_hidden:
            raise FederationError(f"round {server.round}: too few updates; {'; '.join(failures)}")
        try:
            server.close_round()
        except QuorumError as few:
            if not spare_attempts:
                if failures:
                    raise QuorumError(f"{few}; {'; '.join(failures)}", hint=few.hint) from few
                raise
            spare_attempts -= 1
            continue
        progress(server.round, server.job.rounds, sum(losses) / len(losses) if losses else float("nan"))
