"""What whoever looks after a machine has to do, in a dozen lines."""

from __future__ import annotations

from smallhold.federate.machines.machine import ENGINE_PROGRAMS, HOLDINGS, KEYS, PROGRAMS, REQUEST, Machine
from smallhold.federate.machines.units import USER, unit_name

_INSTALL = """1. As root: `useradd --system {user}`; copy this folder to `{config}`,
   `chown -R {user}: {config}`, `chmod 700 {config}`, `mkdir -p {holdings}`.
2. Install, WHEEL being the package's file (`[train]` instead of `[data]` where the task adapts a base model;
   `dp` as well for a job with `[record_privacy]` or `[statistics]`, `he` for one with `upload.key_holder`):
   `python3 -m venv {venv}; {venv}/bin/pip install 'WHEEL[data]' safetensors`
   `python3 -m venv {flower}; {flower}/bin/pip install flwr==1.41.0 numpy safetensors cryptography`
   `{flower}/bin/pip install --no-deps WHEEL`
"""
_SITE = """3. Put the rows under `{holdings}/data` and a base model under `{holdings}/models`, readable by `{user}`.
4. `sudo -u {user} {venv}/bin/smallhold federate join-request {config}` makes the keys, which stay here. Send
   `{config}/{request}` to the operator, and tell them its fingerprint by another way, say by telephone.
{secure}"""
_SERVER = """3. A job that adapts a base model wants it under `{holdings}/models`.
   Port {port} has to be open to the sites, and no other.
4. Copy here what `admit` writes on the operator's machine, each time: `nodes/` (and `members/`).
"""
_SECURE = "   Put the `members/` that the operator sends back here; who holds them says who is a member.\n"
_START = """5. `cd {holdings}; sudo -u {user} {venv}/bin/smallhold federate check {config}`,
   until all is in order.
6. `cp {config}/systemd/*.service /etc/systemd/system/; systemctl daemon-reload`
   `systemctl enable --now {units}`; `journalctl -u '{pattern}'` says what happens.

Or, written but not run: `Containerfile` and `compose.yaml`, started in this folder; the files in `{keys}/` then have to
belong to user 10001.
"""


def readme_text(machine: Machine, programs: tuple[str, ...], *, is_secure: bool) -> str:
    """`README.md` of a machine's folder."""
    what = f"site {machine.site}" if machine.site else "the server"
    text = (
        f"# Job {machine.job}: {what}\n\nServer {machine.host}:{machine.port}, job {machine.digest[:16]}. "
        "Everything in this folder is for this machine alone.\n\n"
    )
    return text + (_INSTALL + (_SITE if machine.site else _SERVER) + _START).format(
        user=USER,
        config=machine.config,
        holdings=HOLDINGS,
        venv=PROGRAMS.parent,
        flower=ENGINE_PROGRAMS.parent,
        request=REQUEST,
        port=machine.port,
        keys=KEYS,
        secure=_SECURE if is_secure else "",
        units=" ".join(unit_name(machine, program).removesuffix(".service") for program in programs),
        pattern=unit_name(machine, "*").removesuffix(".service"),
    )
