"""The same job on NVFlare, provisioned and in its simulator: mutual TLS, loopback, a kill, answers that are none."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from smallhold.cli.main import main
from smallhold.errors import FederationError, MissingExtraError
from smallhold.federate.engines.nvflare.deploy import NVFlareDeployment
from smallhold.federate.engines.processes import is_open
from smallhold.federate.job import read_job
from smallhold.federate.journal import read_journal
from smallhold.federate.messages import Update
from smallhold.federate.resident import answer_for_server, listening
from smallhold.federate.server import JOURNAL

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".venv-nvflare" / "bin"
pytestmark = pytest.mark.timeout(1500)  # the deployments have deadlines of their own
needs_nvflare = pytest.mark.skipif(not (PROGRAMS / "nvflare").exists(), reason="needs NVFlare: make nvflare")
needs_data = pytest.mark.skipif(not os.environ.get("SMALLHOLD_DATA"), reason="needs SMALLHOLD_DATA")


@pytest.fixture(scope="module")
def job_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "heart.toml"
    shipped = (ROOT / "src/smallhold/federate/jobs/heart-disease.toml").read_text()
    path.write_text(shipped.replace("rounds = 20", "rounds = 2"))
    return path


@pytest.fixture
def oracle(job_file, tmp_path, capsys):
    assert main(["federate", "run", str(job_file), "--out", str(tmp_path / "oracle"), "--json"]) == 0
    capsys.readouterr()
    return _bytes_of(tmp_path / "oracle")


@needs_nvflare
@needs_data
@pytest.mark.slow
@pytest.mark.data
def test_a_deployment_gives_the_bytes_of_the_oracle_although_one_of_its_processes_is_killed(
    job_file, oracle, tmp_path, capsys
):
    killed, addresses = [], set()

    def kill_a_worker(round_number, _rounds):
        if round_number == 1:
            ours = psutil.Process().children(recursive=True)
            for process in ours:
                with contextlib.suppress(psutil.Error):  # it may have ended since
                    addresses.update(c.laddr.ip for c in process.net_connections("tcp") if c.status == "LISTEN")
            worker = next(process for process in ours if _is_worker(process))
            worker.kill()
            killed.append(worker)

    with NVFlareDeployment(read_job(job_file), str(job_file), tmp_path / "run", None, PROGRAMS) as deployment:
        kits = tmp_path / "run" / "nvflare" / "kits" / "smallhold" / "prod_00"
        assert _who_is_let_in(kits) == {"va": True, "nobody": False}
        status = deployment.run(progress=kill_a_worker, deadline_seconds=400.0)
        outcome = _submit_with_code(kits / "admin@smallhold.invalid", tmp_path / "run" / "nvflare" / "job")
    assert status["round"] == 2 and killed
    assert outcome["status"] == "FINISHED:FAILED_TO_RUN" and "BYOC not permitted" in str(outcome["job_deploy_detail"])
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert _bytes_of(tmp_path / "run") == oracle
    assert all(process.is_over for process in deployment.processes.values())
    assert not (kits.parent / "state").exists()  # the authority's key
    assert main(["federate", "verify", str(tmp_path / "run")]) == 0
    assert "8 updates" in capsys.readouterr().out


@needs_nvflare
@needs_data
@pytest.mark.slow
@pytest.mark.data
def test_the_simulator_gives_the_bytes_of_the_oracle(job_file, oracle, tmp_path):
    command = ["federate", "run", str(job_file), "--engine", "nvflare", "--simulate", "--out", str(tmp_path / "run")]
    assert main([*command, "--programs", str(PROGRAMS), "--deadline", "400"]) == 0
    assert _bytes_of(tmp_path / "run") == oracle


@needs_nvflare
@pytest.mark.slow
def test_answers_that_are_none_are_refused_by_name(federation, tmp_path):
    server, sockets = federation.server(), tmp_path / "s"
    update = Update.from_bytes(federation.site("north").respond(server.request()))
    zeros = {name: np.zeros_like(array) for name, array in update.arrays.items()}
    (tmp_path / "zeros").write_bytes(dataclasses.replace(update, arrays=zeros).to_bytes())
    (tmp_path / "honest").write_bytes(update.to_bytes())
    script = """
import sys
from pathlib import Path
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from smallhold.federate.engines.nvflare.server_app import RoundController

controller, folder = RoundController(), Path(sys.argv[1])
def answer(site, **content):
    controller._count(site, Shareable(content), FLContext())
answer("north")                                              # an answer without anything
answer("north", blob=(folder / "zeros").read_bytes())        # nothing was learnt
answer("south", blob=(folder / "honest").read_bytes())       # whose certificate is another site's
controller._count("west", make_reply(ReturnCode.EXECUTION_EXCEPTION), FLContext())  # a site that failed
answer("north", blob=(folder / "honest").read_bytes())
answer("north", blob=(folder / "honest").read_bytes())       # delivered twice
"""
    with listening(sockets / "server", answer_for_server(server)):
        environment = {**os.environ, "SMALLHOLD_SOCKETS": str(sockets)}
        command = [str(PROGRAMS / "python"), "-c", script, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    server.close()
    assert done.returncode == 0, done.stderr
    entries = read_journal(federation.folder / "server" / JOURNAL)
    refused = [(entry.body["site"], entry.body["reason"]) for entry in entries if entry.kind == "refused"]
    assert refused == [("north", "malformed"), ("north", "empty"), ("south", "unknown_site"), ("north", "replayed")]
    assert [entry.body["site"] for entry in entries if entry.kind == "update"] == ["north"]


def test_without_nvflare_the_message_says_how_to_get_it(tmp_path):
    with pytest.raises(MissingExtraError, match="nvflare is missing") as raised:
        NVFlareDeployment(read_job("heart-disease"), "heart-disease", tmp_path, None, tmp_path)
    assert "make nvflare" in raised.value.hint


@pytest.mark.parametrize("name", ["st.elsewhere", "server", "localhost"])
def test_a_site_whose_name_nvflare_does_not_take_is_refused(name, tmp_path):
    (tmp_path / "nvflare").touch()
    job = dataclasses.replace(read_job("heart-disease"), sites=("va", name), quorum=0)
    with pytest.raises(FederationError, match=f"takes no site of the name {name}"):
        NVFlareDeployment(job, "heart-disease", tmp_path, None, tmp_path)


def test_only_nvflare_is_simulated(capsys):
    assert main(["federate", "run", "heart-disease", "--engine", "flower", "--simulate"]) == 1
    assert "expected --engine nvflare, got --engine flower" in capsys.readouterr().err


def _is_worker(process):
    try:
        return "nvflare.private.fed.app.client.worker_process" in process.cmdline()
    except psutil.Error:  # it has ended since
        return False


def _bytes_of(run):
    """Every update and every model, as they lie at the server."""
    folder = run / "server"
    found = {
        path: path.read_bytes() for part in ("updates", "models") for path in (folder / part).rglob("*.safetensors")
    }
    return {str(path.relative_to(folder)): data for path, data in found.items()}


def _submit_with_code(kit, job):
    """What becomes of a job that the administrator submits with code of his own."""
    folder = kit / "with-code"
    shutil.copytree(job, folder)
    (folder / "app" / "custom").mkdir()
    (folder / "app" / "custom" / "own.py").write_text("print('of my own')")
    script = """
import json
import sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
session = new_secure_session("admin@smallhold.invalid", sys.argv[1], timeout=120.0)
print(json.dumps(session.wait_for_job(session.submit_job(sys.argv[2]), timeout=120.0, poll_interval=0.5)))
session.close()
"""
    command = [str(PROGRAMS / "python"), "-c", script, str(kit), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _who_is_let_in(kits):
    """Whether NVFlare's server talks to a site with its certificate, and to somebody with none."""
    service = json.loads((kits / "localhost" / "startup" / "fed_server.json").read_text())["servers"][0]["service"]
    port = int(service["target"].partition(":")[2])
    deadline = time.monotonic() + 120
    while not is_open(port):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    kit = kits / "va" / "startup"
    return {
        "va": _is_let_in(port, kit / "rootCA.pem", (kit / "client.crt", kit / "client.key")),
        "nobody": _is_let_in(port, kit / "rootCA.pem", None),
    }


def _is_let_in(port, root, certificate):
    context = ssl.create_default_context(cafile=str(root))
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(*map(str, certificate))
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            return bool(connection.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False
