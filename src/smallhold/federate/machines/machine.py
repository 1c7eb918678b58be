"""One machine of a federation: what its folder says about it, and where things lie on it."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from smallhold.device.durable_file import write_durably
from smallhold.device.listen import is_loopback
from smallhold.errors import RecipeError
from smallhold.federate.messages import is_site_name
from smallhold.teach.recipe_file import parse_toml

#: Files and folders of a machine's folder.
ABOUT, JOB, AUTHORITY, KEYS, NODES, REQUEST = "machine.toml", "job.toml", "ca.crt", "keys", "nodes", "request.pem"
SERVER_CERTIFICATE, SERVER_KEY, NODE_KEY = "server.pem", "keys/server.key", "keys/node.key"
_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine is in a federation.

    Attributes:
        job: Name of the job; part of paths and names of services.
        digest: Of the job, the same on every machine.
        host: Name or IPv4 address by which sites reach the server.
        port: Of the server, on the network.
        local_port: Of Flower's program here, on loopback.
        site: Which of the job's sites this is; empty for the server.
        engine: What carries the messages.
    """

    job: str
    digest: str
    host: str
    port: int
    local_port: int
    site: str = ""
    engine: str = "flower"

    def __post_init__(self) -> None:
        """Refuse names that would not do in a path, and ports that are none."""
        for key, name in (("job's name", self.job), ("site", self.site or "server")):
            if not is_site_name(name):
                raise RecipeError(f"{key}: expected lower-case letters, digits, '-', '_' and '.', got {name!r}")
        if not _is_host(self.host):
            raise RecipeError(f"host: expected a host name or an IPv4 address, got {self.host!r}")
        for key in ("port", "local_port"):
            if not 1 <= getattr(self, key) <= 65_535:
                raise RecipeError(f"{key}: expected 1 to 65535, got {getattr(self, key)}")
        if self.engine != "flower":
            raise RecipeError(f"engine: expected flower, got {self.engine!r}")

    @property
    def role(self) -> str:
        """`server` or `site`."""
        return "site" if self.site else "server"

    @property
    def folder_name(self) -> str:
        """Of its folder, among those of the other machines."""
        return f"site-{self.site}" if self.site else "server"

    @property
    def listens_on(self) -> str:
        """Address of the server on the network; a federation on one machine stays there."""
        return "127.0.0.1" if is_loopback(self.host) else "0.0.0.0"  # noqa: S104 - the gate is made for it

    @property
    def config(self) -> Path:
        """Where the folder lies on the machine."""
        return Path("/etc/smallhold") / self.job

    @property
    def state(self) -> Path:
        """Where it keeps what it has to remember."""
        return Path("/var/lib/smallhold") / self.job

    @property
    def sockets(self) -> Path:
        """Where its resident process listens."""
        return Path("/run") / f"smallhold-{self.job}"


#: Environments with programs: the package's own and the engine's; and where data sets, and bases of models, lie.
PROGRAMS, ENGINE_PROGRAMS, HOLDINGS = (
    Path("/opt/smallhold/venv/bin"),
    Path("/opt/smallhold/venv-flower/bin"),
    Path("/srv/smallhold"),
)


def write_machine(machine: Machine, folder: Path) -> None:
    """Write `machine.toml`."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in asdict(machine).items()]
    write_durably(folder / ABOUT, ["\n".join([*lines, ""]).encode()], mode=0o644)


def read_machine(folder: Path) -> Machine:
    """Read `machine.toml`.

    Raises:
        RecipeError: there is none, or it is none.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise RecipeError(
            f"{folder}: expected the folder of one machine, with {ABOUT}",
            hint="smallhold federate prepare makes them: DIR/server, DIR/site-NAME",
        )
    return parse_toml(Machine, path.read_text(encoding="utf-8", errors="replace"), where=str(path))


def _is_host(text: str) -> bool:
    if re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
        return True
    return len(text) <= 253 and _HOST.fullmatch(text) is not None
