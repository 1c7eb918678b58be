"""A federation over machines, as its services start it: one folder is one machine, and all of them are this one."""

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from smallhold.cli.main import main
from smallhold.federate.engines.processes import Process, is_open
from smallhold.federate.resident import ask

FLOWER = Path(__file__).resolve().parents[2] / ".venv-flower" / "bin"
DATA = os.environ.get("SMALLHOLD_DATA")
SITES = ("cleveland", "va")
JOB = """name = "heart"
task = "heart-disease"
sites = ["cleveland", "va"]
rounds = 2
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not DATA, reason="needs heart_disease_4_hospitals: set SMALLHOLD_DATA"),
    pytest.mark.skipif(not (FLOWER / "flower-superlink").exists(), reason="needs Flower: make flower"),
]


class Machines:
    """Folders of machines, each with its services; a context manager that ends all that they started."""

    def __init__(self, root: Path, prepared: Path, stack: ExitStack) -> None:
        self.root, self.running, self._stack = root, {}, stack
        for folder in prepared.iterdir():
            if folder.name != "operator":
                shutil.copytree(folder, self.config(folder.name))

    def config(self, machine: str) -> Path:
        return self.root / machine / "etc"

    def place(self, machine: str, text: str) -> str:
        """The paths of a machine, here; nothing else of a service is changed."""
        here = {
            "/opt/smallhold/venv/bin": str(Path(sys.executable).parent),
            "/opt/smallhold/venv-flower/bin": str(FLOWER),
            "/etc/smallhold/heart": str(self.config(machine)),
            "/var/lib/smallhold/heart": str(self.root / machine / "var"),
            "/run/smallhold-heart": str(self.root / machine / "run"),
            "/srv/smallhold/data": str(DATA),
        }
        return re.sub("|".join(here), lambda found: here[found.group()], text)

    def command(self, machine: str, program: str) -> tuple[list[str], dict[str, str]]:
        """What a service says: its ExecStart and its variables."""
        unit = (self.config(machine) / "systemd" / f"smallhold-heart-{program}.service").read_text()
        (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
        variables = dict(re.findall(r"^Environment=(\w+)=(.+)$", unit, re.MULTILINE))
        (folders,) = re.findall(r"^StateDirectory=(.+)$", unit, re.MULTILINE)
        for folder in folders.split():  # systemd makes them
            Path(self.place(machine, f"/var/lib/{folder}")).mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {name: self.place(machine, value) for name, value in variables.items()}
        if "PYTHONPATH" in os.environ:  # where the package is not installed
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return [self.place(machine, word) for word in shlex.split(command)], environment

    def start(self, machine: str, program: str) -> Process:
        command, environment = self.command(machine, program)
        process = self.running[f"{machine}-{program}"] = self.started(f"{machine}-{program}", command, environment)
        return process

    def started(self, name: str, command: list[str], environment: dict[str, str]) -> Process:
        """It and its children end with the context; they are told by a variable."""
        mark = {"SMALLHOLD_DEPLOYMENT": f"{self.root}:{name};"}
        process = Process(name, command, environment | mark, self.root / f"{name}.log")
        process.start()
        self._stack.callback(process.end_family)
        return process


@pytest.fixture
def root():
    folder = Path(tempfile.mkdtemp(prefix="sh-"))  # sockets need short paths
    yield folder
    shutil.rmtree(folder)


def free_ports(count: int) -> int:
    """The first of several ports in a row that nobody listens on."""
    for first in range(23000, 32000, count):
        try:
            with ExitStack() as stack:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return first
        except OSError:
            continue
    raise AssertionError("no free ports")


def prepare(root: Path, text: str, sites: tuple[str, ...], port: int, capsys) -> Path:
    """Prepared, with all sites admitted; keys are made in the folders, which are then taken to their machines."""
    root.mkdir(exist_ok=True)
    (root / "heart.toml").write_text(text)
    out = root / "prepared"
    common = ["--out", str(out), "--server-host", "localhost", "--port", str(port)]
    assert main(["federate", "prepare", str(root / "heart.toml"), *common]) == 0
    for site in sites:
        capsys.readouterr()
        assert main(["federate", "join-request", str(out / f"site-{site}"), "--json"]) == 0
        asked = json.loads(capsys.readouterr().out)
        assert main(["federate", "admit", str(out), asked["request"], "--fingerprint", asked["fingerprint"][:20]]) == 0
    return out


def wait_until(is_so, machines: Machines, seconds: float = 900.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        for process in machines.running.values():
            if process.is_over and process.running.returncode:  # Restart=on-failure
                assert process.starts < 20, process.tail()
                process.end_family()
                time.sleep(2.0)
                process.start()
        assert time.monotonic() < deadline, [process.tail()[-700:] for process in machines.running.values()]
        time.sleep(0.3)


def start_server(machines: Machines, port: int) -> Process:
    """All of the server's services; returns the operator's, which ends when the job has."""
    for program in ("server", "superlink", "gate"):
        machines.start("server", program)
    wait_until(lambda: is_open(port) and is_open(port + 1), machines)
    return machines.start("server", "operator")


def finished(machines: Machines) -> dict:
    return ask(machines.root / "server" / "run" / "server", {"ask": "status"}, timeout_seconds=30.0)[0]


def test_the_services_of_all_machines_give_the_bytes_of_the_oracle_and_strangers_stay_outside(root, tmp_path, capsys):
    port = free_ports(8)
    out = prepare(root, JOB, SITES, port, capsys)
    foreign = prepare(root / "foreign", JOB, SITES, port, capsys)
    assert main(["federate", "run", str(root / "heart.toml"), "--out", str(tmp_path / "oracle"), "--json"]) == 0
    oracle = json.loads(capsys.readouterr().out.split("admitted\n")[-1])
    with ExitStack() as stack:
        machines = Machines(root / "m", out, stack)
        va = machines.config("site-va")
        assert main(["federate", "check", str(machines.config("server"))]) == 0
        assert f"{port} is free" in capsys.readouterr().out
        assert main(["federate", "check", str(va)]) == 1
        assert "nobody listens there" in capsys.readouterr().out
        operator = start_server(machines, port)
        strangers = {
            "CERTIFICATE_VERIFY_FAILED": start_other_node(machines, "ca.crt", foreign / "site-va" / "ca.crt", port + 6),
            "Failed to activate SuperNode": start_other_node(machines, "keys/node.key", _new_key(root), port + 7),
        }
        for site in SITES:
            machines.start(f"site-{site}", "site")
            machines.start(f"site-{site}", "supernode")
        assert main(["federate", "check", str(va), "--data", str(DATA)]) == 0, capsys.readouterr().out
        assert "of this federation, clocks within" in capsys.readouterr().out
        assert main(["federate", "check", str(foreign / "site-va"), "--data", str(DATA)]) == 1
        assert "its certificate is of another federation" in capsys.readouterr().out
        _control_is_not_for_the_network(va / "ca.crt", port)
        for said, node in strangers.items():
            wait_until(lambda said=said, node=node: said in node.log.read_text(errors="replace"), machines)
        wait_until(lambda: operator.is_over, machines)
        assert operator.running.returncode == 0, operator.tail()
        assert (finished(machines)["round"], finished(machines)["model"]) == (2, oracle["model"])
    assert main(["federate", "verify", str(root / "m" / "server" / "var")]) == 0
    assert "4 updates" in capsys.readouterr().out


def start_other_node(machines: Machines, file: str, other: Path, port: int) -> Process:
    """The node of a site that has another file than the site, and does not try for ever."""
    command, environment = machines.command("site-va", "supernode")
    command = [word.replace(str(machines.config("site-va") / file), str(other)) for word in command]
    command += ["--max-retries", "1", "--max-wait-time", "5", "--port", str(port)]
    return machines.started(f"with-other-{other.name}", command, environment)


def _new_key(folder: Path) -> Path:
    """A node's key that nobody admitted; its owner trusts the server, and claims to be a site."""
    path = folder / "stranger.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(path)], check=True)
    return path


def _control_is_not_for_the_network(authority: Path, port: int) -> None:
    """Flower answers anybody who asks for its runs, without a credential; from outside nobody can ask."""
    context, found = ssl.create_default_context(cafile=authority), []
    for at in (port, port + 1):
        connection = http.client.HTTPSConnection("localhost", at, context=context, timeout=60)
        connection.request("POST", "/v1/control/list-runs", b"", {"content-type": "application/protobuf"})
        found.append(connection.getresponse().status)
        connection.close()
    assert found == [403, 200]
