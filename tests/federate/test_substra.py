"""The same job on real Substra, tasks as processes and in one: bytes, permissions, record, a site without an answer."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from smallhold.cli.main import main
from smallhold.errors import FederationError, MissingExtraError
from smallhold.federate.consent import ConsentList
from smallhold.federate.engines.substra.deploy import SubstraDeployment
from smallhold.federate.engines.substra.record import FILE, check_record, read_plans, write_plans
from smallhold.federate.heart_disease import load_rows
from smallhold.federate.job import read_job
from smallhold.federate.journal import read_journal
from smallhold.federate.resident import answer_for_server, listening
from smallhold.sectors.splits import Split

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".venv-substra" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not os.environ.get("SMALLHOLD_DATA"), reason="needs SMALLHOLD_DATA"),
]
needs_substra = pytest.mark.skipif(not (PROGRAMS / "python").exists(), reason="needs Substra: make substra")


@pytest.fixture(scope="module")
def job_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "heart.toml"
    shipped = (ROOT / "src/smallhold/federate/jobs/heart-disease.toml").read_text()
    path.write_text(shipped.replace("rounds = 20", "rounds = 2\nquorum = 3"))
    return path


@pytest.fixture(scope="module")
def without_va(tmp_path_factory):
    """A folder in which everybody of one site has withdrawn: it cannot answer."""

    def prepare(name):
        folder = tmp_path_factory.mktemp(name)
        (folder / "sites" / "va").mkdir(parents=True)
        consent = ConsentList(folder / "sites" / "va" / "withdrawals.jsonl")
        for group in load_rows(None, Split.TRAIN)["va"].group:
            consent.withdraw(group)
        return folder

    return prepare


def run_on_substra(job_file, out, mode, **settings):
    with SubstraDeployment(read_job(job_file), str(job_file), out, None, PROGRAMS, mode=mode) as deployment:
        if settings:
            settings["disturb"](deployment)
        status = deployment.run(progress=lambda *_: None, deadline_seconds=500.0)
    assert not any(process.running.poll() is None for process in deployment.processes.values())
    assert not (out / "substra" / "local-worker").exists()  # models and updates lie nowhere else
    return status


def run_in_process(job_file, out, capsys):
    assert main(["federate", "run", str(job_file), "--out", str(out), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["model"]


def updates_of(out):
    return [entry.body for entry in read_journal(out / "server" / "rounds.journal") if entry.kind == "update"]


@needs_substra
def test_substra_gives_the_bytes_of_the_oracle_and_says_who_carried_out_what(job_file, tmp_path, capsys):
    oracle, out = run_in_process(job_file, tmp_path / "oracle", capsys), tmp_path / "substra"
    status = run_on_substra(job_file, out, "subprocess")
    assert (status["round"], status["model"]) == (2, oracle)
    assert [b["digest"] for b in updates_of(out)] == [b["digest"] for b in updates_of(tmp_path / "oracle")]
    assert main(["federate", "verify", str(out)]) == 0
    (plan,) = read_plans(out / FILE)
    server = next(org for org, about in plan["organisations"].items() if about["role"] == "server")
    names = {org: about["site"] for org, about in plan["organisations"].items()}
    given = {
        (t["round"], names[t["worker"]]): t["outputs"]["update"] for t in plan["tasks"] if t["function"] == "train"
    }
    assert {key: output["checksum"] for key, output in given.items()} == {
        (body["round"], body["site"]): body["digest"] for body in updates_of(out)
    }
    for (_, site), output in given.items():  # an update is open to its site and the server, to no other site
        assert {names[org] for org in output["may_process"]} == {site, ""}
    for data in plan["data"]:
        assert set(data["may_process"]) == {data["owner"], server}
    allowed = {function["name"]: set(function["may_process"]) for function in plan["functions"]}
    assert allowed == {"begin": {server}, "close_round": {server}, "train": set(names)}
    assert len({function["checksum"] for function in plan["functions"]}) == 3
    # Another update than the recorded one is found without any key.
    plan["tasks"][1]["outputs"]["update"]["checksum"] = "0" * 64
    write_plans(out / FILE, [plan])
    assert main(["federate", "verify", str(out)]) == 1
    assert "is not what its task on Substra gave" in capsys.readouterr().out


@needs_substra
def test_in_memory_a_site_that_cannot_answer_is_left_out_and_a_killed_plan_goes_on(job_file, without_va, capsys):
    longer, out = job_file.parent / "longer.toml", without_va("memory")
    longer.write_text(job_file.read_text().replace("rounds = 2", "rounds = 8"))
    oracle = run_in_process(longer, without_va("oracle"), capsys)

    def kill_the_first_plan(deployment):
        deadline = time.monotonic() + 200
        while not (out / FILE).exists() and time.monotonic() < deadline:  # written before the first update counts
            time.sleep(0.01)
        os.kill(deployment.processes["driver"].running.pid, signal.SIGKILL)

    status = run_on_substra(longer, out, "memory", disturb=kill_the_first_plan)
    assert (status["round"], status["model"]) == (8, oracle)
    assert {body["site"] for body in updates_of(out)} == {"cleveland", "hungarian", "switzerland"}
    plans = read_plans(out / FILE)
    assert [plan["mode"] for plan in plans] == ["memory", "memory"]  # the first is kept
    assert main(["federate", "verify", str(out)]) == 0


@needs_substra
def test_a_task_that_is_killed_leaves_its_site_out_of_the_round_and_stays_in_the_record(job_file, tmp_path, capsys):
    def kill_the_task_of_va(deployment):
        site, driver = (deployment.processes[name].running.pid for name in ("site-va", "driver"))
        os.kill(site, signal.SIGSTOP)  # its task waits for an answer
        deadline = time.monotonic() + 200
        while (task := task_of("va", driver)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        task.kill()
        os.kill(site, signal.SIGCONT)

    status = run_on_substra(job_file, tmp_path, "subprocess", disturb=kill_the_task_of_va)
    assert status["round"] == 2
    sites = [{body["site"] for body in updates_of(tmp_path) if body["round"] == number} for number in range(2)]
    assert sites == [{"cleveland", "hungarian", "switzerland"}, {"cleveland", "hungarian", "switzerland", "va"}]
    (plan,) = read_plans(tmp_path / FILE)
    (failed,) = (task for task in plan["tasks"] if task["status"] == "STATUS_FAILED")
    assert plan["organisations"][failed["worker"]]["site"] == "va" and failed["outputs"] == {}
    assert main(["federate", "verify", str(tmp_path)]) == 0


def task_of(site, driver):
    """The process of a site's task, by the card among its inputs."""
    for child in psutil.Process(driver).children():
        try:
            arguments = Path(child.cmdline()[-1].removeprefix("@")).read_text().splitlines()
            inputs = json.loads(arguments[arguments.index("--inputs") + 1])
            cards = [Path(given["value"]) / "site.json" for given in inputs if given["id"] == "datasamples"]
            if [json.loads(card.read_text())["site"] for card in cards] == [site]:
                return child
        except (psutil.Error, OSError, ValueError, IndexError):
            continue  # it is starting, or over
    return None


@needs_substra
def test_without_a_quorum_it_ends_and_says_who_was_waited_for(job_file, without_va):
    whole = job_file.parent / "whole.toml"
    whole.write_text(job_file.read_text().replace("quorum = 3", "quorum = 4"))
    out = without_va("whole")
    with (
        SubstraDeployment(read_job(whole), str(whole), out, None, PROGRAMS, mode="memory") as deployment,
        pytest.raises(
            FederationError, match=r"(?s)asked 3 times; waiting for va.*consent was withdrawn for all 117 rows"
        ),
    ):
        deployment.run(progress=lambda *_: None, deadline_seconds=500.0)


_ANOTHERS_CARD = """
import os, sys
from pathlib import Path
from substra.sdk import schemas
from substra.sdk.backends.local.compute import spawner
from smallhold.errors import FederationError
from smallhold.federate.engines.substra.driver import Plan
from smallhold.federate.engines.substra.memory import InThisProcess

os.chdir(sys.argv[1])
spawner.DEBUG_SPAWNER_CHOICES[schemas.BackendType.LOCAL_SUBPROCESS] = InThisProcess
plan = Plan(Path(sys.argv[1]), Path(sys.argv[2]), ["east", "west"], "memory")
request = plan._add("begin", "", {})
plan._samples["east"] = plan._samples["west"]
try:
    plan._add("train", "east", {"request": request})
except FederationError as error:
    print(error)
"""


@needs_substra
def test_a_task_that_may_not_process_what_it_takes_is_not_added(federation, tmp_path):
    server = federation.server()
    with tempfile.TemporaryDirectory(prefix="sh-") as held:
        sockets = Path(held)
        with listening(sockets / "server", answer_for_server(server)):
            work = tmp_path / "substra"
            work.mkdir()
            environment = {**os.environ, "SMALLHOLD_SOCKETS": held, "TQDM_DISABLE": "1"}
            command = [PROGRAMS / "python", "-c", _ANOTHERS_CARD, work, sockets]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    server.close()
    # The server is MyOrg1MSP, east MyOrg2MSP and west MyOrg3MSP.
    assert "task of MyOrg2MSP: opener is open to MyOrg1MSP, MyOrg3MSP" in done.stdout


def test_how_tasks_run_is_asked_of_substra_alone(job_file, tmp_path, capsys):
    assert main(["federate", "run", str(job_file), "--tasks", "memory", "--out", str(tmp_path)]) == 1
    assert "--tasks: expected --engine substra, got --engine in_process" in capsys.readouterr().err


def test_without_substra_the_message_says_how_to_get_it(job_file, tmp_path):
    with pytest.raises(MissingExtraError, match="does not have it") as caught:
        SubstraDeployment(read_job(job_file), str(job_file), tmp_path, None, tmp_path)
    assert "make substra" in caught.value.hint


def test_a_record_is_held_to_the_journal_or_refused(tmp_path):
    path = tmp_path / "compute-plan.json"
    body = {"round": 0, "site": "va", "digest": "a" * 64}
    assert check_record(path, [body]) == []  # a job that never was on Substra
    task = {"function": "train", "worker": "org", "round": 0, "outputs": {"update": {"checksum": "a" * 64}}}
    plan = {"organisations": {"org": {"role": "site", "site": "va"}}, "tasks": [task]}
    write_plans(path, [plan])
    assert check_record(path, [body]) == []
    assert "the update of va in round 0" in check_record(path, [body | {"digest": "b" * 64}])[0]
    write_plans(path, [{"tasks": [task]}])
    assert "not as it was written" in check_record(path, [body])[0]
    path.write_text('{"schema": "other", "plans": []}')
    with pytest.raises(FederationError, match=r"expected a record of Substra's tasks"):
        read_plans(path)
