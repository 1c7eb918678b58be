"""What has to run on a machine, in order: one list, from which services and containers are written."""

from __future__ import annotations

from dataclasses import dataclass

from smallhold.federate.job import FederatedJob
from smallhold.federate.machines.machine import (
    AUTHORITY,
    ENGINE_PROGRAMS,
    HOLDINGS,
    JOB,
    NODE_KEY,
    NODES,
    PROGRAMS,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    Machine,
)

_PACKAGE = "smallhold.federate.engines.flower"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that has to run.

    Attributes:
        name: Within the machine.
        what: It does, in a line.
        command: With its arguments.
        after: The program that has to be there before it; empty where none has to.
        is_networked: Whether it needs a network; a resident process is asked on a local socket and has none.
        ends: Whether it is over when the job is.
    """

    name: str
    what: str
    command: tuple[str, ...]
    after: str = ""
    is_networked: bool = True
    ends: bool = False


def programs_of(machine: Machine, job: FederatedJob) -> tuple[Program, ...]:
    """What runs on a machine, each after the one it needs."""
    return _site(machine, job) if machine.site else _server(machine, job)


def _resident(machine: Machine, job: FederatedJob, *more: str) -> tuple[str, ...]:
    """The command of the resident process."""
    keys = ("--keys", str(machine.config)) if job.upload.is_hidden else ()
    about = ("--socket", str(machine.sockets / machine.role), "--out", str(machine.state))
    command = (str(PROGRAMS / "smallhold"), "federate", machine.role, str(machine.config / JOB))
    return (*command, *more, *about, *keys)


def _site(machine: Machine, job: FederatedJob) -> tuple[Program, ...]:
    config = machine.config
    data = ("--name", machine.site, "--data", str(HOLDINGS / "data"))
    node = (
        str(ENGINE_PROGRAMS / "flower-supernode"),
        *("--root-certificates", str(config / AUTHORITY), "--superlink", f"{machine.host}:{machine.port}"),
        *("--auth-supernode-private-key", str(config / NODE_KEY)),
        *("--host", "127.0.0.1", "--port", str(machine.local_port)),
        *("--node-config", f'socket="{machine.sockets / machine.role}"'),
    )
    return (
        Program("site", "rows, model and consent", _resident(machine, job, *data), is_networked=False),
        Program("supernode", "carries messages to and from the server", node, after="site"),
    )


def _server(machine: Machine, job: FederatedJob) -> tuple[Program, ...]:
    config, state = machine.config, machine.state / "flower"
    authority, local = str(config / AUTHORITY), str(machine.local_port)
    certificate, key = str(config / SERVER_CERTIFICATE), str(config / SERVER_KEY)
    superlink = (
        str(ENGINE_PROGRAMS / "flower-superlink"),
        *("--ssl-ca-certfile", authority, "--ssl-certfile", certificate, "--ssl-keyfile", key),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(state / "state.db"), "--host", "127.0.0.1", "--port", local),
    )
    gate = (
        *(str(ENGINE_PROGRAMS / "python"), "-m", f"{_PACKAGE}.gate"),
        *("--host", machine.listens_on, "--port", str(machine.port)),
        *("--certificate", certificate, "--key", key, "--authority", authority, "--superlink", local),
    )
    operator = (
        *(str(PROGRAMS / "python"), "-m", f"{_PACKAGE}.operator", "--programs", str(ENGINE_PROGRAMS)),
        *("--state", str(state), "--port", local, "--authority", authority),
        *("--nodes", str(config / NODES), "--socket", str(machine.sockets / machine.role)),
    )
    return (
        Program("server", "rounds, journal and global model", _resident(machine, job), is_networked=False),
        Program("superlink", "keeps messages for the sites, on loopback", superlink, after="server"),
        Program("gate", "lets sites, and nobody else, through to the SuperLink", gate, after="superlink"),
        Program("operator", "lets admitted sites in and submits the job", operator, after="superlink", ends=True),
    )


def environment_of(machine: Machine) -> dict[str, str]:
    """Variables that all programs of a machine get; nothing is sent to the makers of Flower."""
    return {
        "PATH": f"{ENGINE_PROGRAMS}:/usr/bin:/bin",
        "FLWR_HOME": str(machine.state / "flower" / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }
