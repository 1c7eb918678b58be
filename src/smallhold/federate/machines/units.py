"""Services of systemd for a machine's programs, closed to all that a program does not need (systemd.exec(5))."""

from __future__ import annotations

import shlex

from smallhold.federate.machines.machine import HOLDINGS, Machine
from smallhold.federate.machines.programs import Program, environment_of

#: The user that everything runs as; README.md of a machine makes it.
USER = "smallhold"

_UNIT = """# {name}: {what}.
[Unit]
Description=Smallhold job {job}: {program}
{order}StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
Group={user}
ExecStart={command}
{environment}
Restart=on-failure
RestartSec=5
# What is named here is made for the user, and is all that may be written (ReadWritePaths= follows from it).
StateDirectory={state}
StateDirectoryMode=0700
{sockets}WorkingDirectory=-{holdings}
UMask=0077
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
{network}
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"""
_NETWORK = "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"
_NO_NETWORK = "PrivateNetwork=yes\nRestrictAddressFamilies=AF_UNIX"


def unit_name(machine: Machine, program: str) -> str:
    """Name of a program's service."""
    return f"smallhold-{machine.job}-{program}.service"


def unit_text(machine: Machine, program: Program) -> str:
    """A program's service."""
    order = []
    if program.is_networked:
        order += ["Wants=network-online.target", "After=network-online.target"]
    if program.after:
        before = unit_name(machine, program.after)
        order += [f"Wants={before}", f"After={before}"]
    base = f"smallhold/{machine.job}"
    # The folder of the sockets is the resident process's: it comes and goes with it, not with those that ask.
    sockets = f"RuntimeDirectory={machine.sockets.name}\nRuntimeDirectoryMode=0700\nRuntimeDirectoryPreserve=restart\n"
    environment = [f"Environment={key}={value}" for key, value in environment_of(machine).items()]
    return _UNIT.format(
        name=unit_name(machine, program.name),
        what=program.what,
        job=machine.job,
        program=program.name,
        order="".join(f"{line}\n" for line in order),
        user=USER,
        command=shlex.join(program.command),
        environment="\n".join(environment),
        state=f"{base} {base}/flower {base}/flower/home",
        sockets="" if program.is_networked else sockets,
        holdings=HOLDINGS,
        network=_NETWORK if program.is_networked else _NO_NETWORK,
    )
