"""The operator of a deployment: submits the job, and another one where NVFlare has given the last one up.

A process of NVFlare's environment that holds an administrator's session. NVFlare fails a job of which one process died,
and takes no site into a job that has begun; the resident server has the rounds, so that another job goes on in the same
one, with all the sites that are there.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.api_spec import InternalError
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from smallhold.federate.resident import ask_patiently

_CONNECT_SECONDS = 120.0
_POLL_SECONDS = 1.0
# A job that cannot begin is refused anew each time: so many in one round, and this process ends, which is seen.
_MOST_IN_ONE_ROUND = 5


def main() -> None:
    """Until all rounds are closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", required=True, help="folder of the administrator's startup kit")
    parser.add_argument("--job", required=True, help="folder of the NVFlare job")
    parser.add_argument("--sites", required=True, nargs="+", metavar="NAME")
    args = parser.parse_args()
    session = new_secure_session(Path(args.kit).name, args.kit, timeout=_CONNECT_SECONDS)
    try:
        for left in session.list_jobs():  # by an operator before this one, perhaps with processes that are gone
            if not left["status"].startswith("FINISHED"):
                _abort(session, left["job_id"])
        _carry_on(session, args.job, set(args.sites))
    finally:
        session.close()


def _carry_on(session: Session, job: str, sites: set[str]) -> None:
    status, last, jobs = _status(), (-1, -1), 0
    while not status["is_finished"]:
        now = status["round"], status["turn"]
        jobs = jobs + 1 if now == last else 1
        if jobs > _MOST_IN_ONE_ROUND:
            raise SystemExit(f"{jobs - 1} jobs have ended in round {status['round']}")
        last = now
        missing = _wait_for_sites(session, sites, status["deadline_seconds"] / 2)
        number = session.submit_job(job)
        print(f"job {number} begins in round {last[0]}, without {', '.join(sorted(missing)) or 'nobody'}", flush=True)
        print(f"job {number}: {_watch(session, number, missing)}", flush=True)
        status = _status()


def _wait_for_sites(session: Session, sites: set[str], patience_seconds: float) -> set[str]:
    """Wait for all sites, or for as long as a round has patience; returns who is missing."""
    deadline = time.monotonic() + patience_seconds
    while missing := sites - _connected(session):
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return missing


def _watch(session: Session, number: str, missing: set[str]) -> str:
    """Wait for a job's end; a site that comes while it runs ends it, to be in the next one."""
    is_aborted = False
    while not (state := str(session.get_job_status(number))).startswith("FINISHED"):
        if not is_aborted and missing and missing & _connected(session):
            _abort(session, number)
            is_aborted = True
        time.sleep(_POLL_SECONDS)
    return state


def _abort(session: Session, number: str) -> None:
    try:
        session.abort_job(number)
    except InternalError as error:  # its server was killed: it runs no more, and NVFlare says so in this way
        print(f"job {number}: {error}", flush=True)


def _connected(session: Session) -> set[str]:
    return {client.name for client in session.get_connected_client_list()}


def _status() -> dict[str, Any]:
    server = Path(os.environ["SMALLHOLD_SOCKETS"]) / "server"
    return ask_patiently(server, {"ask": "status"}, timeout_seconds=_CONNECT_SECONDS)[0]


if __name__ == "__main__":
    main()
