"""The same job on a real Flower deployment: TLS, node authentication, processes; and a stranger at the door."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from smallhold.cli.main import main
from smallhold.errors import MissingExtraError
from smallhold.federate.engines.flower.credentials import make_credentials
from smallhold.federate.engines.flower.deploy import FlowerDeployment
from smallhold.federate.job import read_job

PROGRAMS = Path(__file__).resolve().parents[2] / ".venv-flower" / "bin"
JOB = "src/smallhold/federate/jobs/heart-disease.toml"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not os.environ.get("SMALLHOLD_DATA"), reason="needs SMALLHOLD_DATA"),
]
needs_flower = pytest.mark.skipif(not (PROGRAMS / "flower-superlink").exists(), reason="needs Flower: make flower")


@pytest.fixture(scope="module")
def job_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "heart.toml"
    shipped = (Path(__file__).resolve().parents[2] / JOB).read_text()
    path.write_text(shipped.replace("rounds = 20", "rounds = 2"))
    return path


@needs_flower
def test_flower_gives_the_bytes_of_the_oracle_and_a_stranger_is_not_let_in(job_file, tmp_path, capsys):
    assert main(["federate", "run", str(job_file), "--out", str(tmp_path / "oracle"), "--json"]) == 0
    oracle = json.loads(capsys.readouterr().out)
    job, out = read_job(job_file), tmp_path / "flower"
    with FlowerDeployment(job, str(job_file), out, None, PROGRAMS) as deployment:
        stranger = _stranger(deployment, tmp_path / "stranger")
        status = deployment.run(progress=lambda *_: None, deadline_seconds=400.0)
        assert stranger.wait(timeout=60) != 0  # an unregistered key is refused, whatever site it claims
    assert (status["round"], status["model"]) == (2, oracle["model"])
    assert not any(process.running.poll() is None for process in deployment.processes.values())
    assert main(["federate", "verify", str(out)]) == 0
    assert "8 updates" in capsys.readouterr().out


def _stranger(deployment, folder):
    make_credentials(folder, ("stranger",))
    honest = deployment.processes["supernode-va"].command
    keys = Path(honest[honest.index("--root-certificates") + 1]).parent
    command = [word.replace(str(keys / "va.key"), str(folder / "stranger.key")) for word in honest]
    del command[command.index("--port") : command.index("--port") + 2]
    environment = deployment.processes["supernode-va"].environment
    command += ["--port", "0", "--max-retries", "1", "--max-wait-time", "5"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_without_flower_the_message_says_how_to_get_it(job_file, tmp_path):
    with pytest.raises(MissingExtraError, match="flower-superlink is missing"):
        FlowerDeployment(read_job(job_file), str(job_file), tmp_path, None, tmp_path)


def test_credentials_are_made_once_and_kept_from_others(tmp_path):
    folder = tmp_path / "keys"
    make_credentials(folder, ("a", "b"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make_credentials(folder, ("a", "b", "c"))
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(after) - set(before) == {"c.key", "c.pub"}
    assert all(after[name] == data for name, data in before.items())
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*.key"))
    assert "ca.key" not in after and after["c.pub"].startswith(b"ecdsa-sha2-nistp384 ")
