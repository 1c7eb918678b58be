"""Folders for the machines of a federation: what is in them, who is let in, and what is said when a thing is wrong."""

import configparser
import hashlib
import json
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from smallhold.cli.main import main
from smallhold.errors import InputError, RecipeError
from smallhold.federate.engines.flower import credentials
from smallhold.federate.engines.flower.gate import gate
from smallhold.federate.engines.processes import free_port
from smallhold.federate.job import read_job
from smallhold.federate.machines.admission import admit, make_request
from smallhold.federate.machines.check import check_machine
from smallhold.federate.machines.machine import read_machine, write_machine
from smallhold.federate.machines.prepare import prepare
from smallhold.federate.machines.reach import judge_skew
from smallhold.federate.resident import ask, ask_patiently

JOB = """name = "rule"
task = "simulated"
sites = ["simulated-000000", "simulated-000001", "simulated-000002"]
rounds = 2
"""
SECURE = """
[upload]
secure = true
[privacy]
clip_norm = 0.5
[aggregation]
max_examples = 500
"""
SITE = "site-simulated-000001"
NOW = datetime.now(UTC)


@pytest.fixture
def make(tmp_path):
    def prepared(name="out", text=JOB, **settings):
        (tmp_path / "rule.toml").write_text(text)
        settings = {"host": "localhost", "port": 9091} | settings
        prepare(read_job(tmp_path / "rule.toml"), text, tmp_path / name, **settings)
        return tmp_path / name

    return prepared


def wrong(folder, **settings):
    """What check finds that is not in order, but for the server, which is not there."""
    found = check_machine(folder, None, now=settings.pop("now", None) or datetime.now(UTC), timeout_seconds=5.0)
    return {finding.what: finding.said for finding in found if not finding.is_good}


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def join(out, site):
    folder = out / site
    return admit(out, folder / "request.pem", make_request(folder))


def test_each_machine_gets_what_is_its_own_and_no_folder_has_a_private_key_of_another(make):
    out = make(text=JOB + SECURE)
    private = {path.relative_to(out).as_posix() for path in out.rglob("*.key")}
    assert private == {"operator/ca.key", "server/keys/server.key", "server/keys/secure-sum.key"}
    make_request(out / SITE)
    assert {path.name for path in (out / SITE / "keys").iterdir()} == {"node.key", "secure-sum.key"}
    for key in out.rglob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600 and key.parent.stat().st_mode & 0o777 == 0o700
    assert b"PRIVATE" not in (out / SITE / "request.pem").read_bytes()
    assert all((out / name / "README.md").read_text().count("\n") < 30 for name in ("server", SITE))


def test_prepared_again_what_lacks_is_made_and_nothing_else_is_touched(make):
    out = make()
    join(out, SITE)
    before = content(out)
    shutil.rmtree(out / "site-simulated-000002")
    (out / ".site-simulated-000002.partial").mkdir()  # of a process that was killed
    make()
    after = content(out)
    assert set(after) == set(before) and not list(out.glob(".*.partial"))
    site = "site-simulated-000002"
    assert {name for name in after if after[name] != before[name]} <= {n for n in before if n.parts[0] == site}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"text": JOB.replace("rounds = 2", "rounds = 3")}, "rounds: prepared with 2, got 3"),
        ({"text": JOB + "[local]\nepochs = 2.0\n"}, "local.epochs: prepared with 1.0, got 2.0"),
        ({"host": "fl.example.org"}, "--server-host: prepared with 'localhost', got 'fl.example.org'"),
        ({"port": 9092}, "--port: prepared with 9091, got 9092"),
    ],
)
def test_another_job_or_server_is_refused_by_name_and_nothing_changes(make, change, named):
    before = content(make())
    with pytest.raises(RecipeError, match=named.replace(".", r"\.")):
        make(**change)
    assert content(make()) == before


def test_the_server_cannot_be_made_without_the_authority_and_no_half_is_left(make):
    out = make()
    (out / "operator" / "ca.key").unlink()
    make()  # nothing lacks
    shutil.rmtree(out / "server")
    with pytest.raises(InputError, match=r"ca\.key: expected the authority's private key"):
        make()
    assert not (out / "server").exists()


@pytest.mark.parametrize("host", ["", "fl.example.org:9091", "https://x", "10.0.0.300", "a b", "::1", "-x"])
def test_what_is_no_host_is_refused_before_anything_is_written(make, tmp_path, host):
    with pytest.raises(RecipeError, match="host: expected a host name or an IPv4 address"):
        make(host=host)
    assert not (tmp_path / "out").exists()


def test_ports_have_room_for_all_sites(make):
    with pytest.raises(RecipeError, match="local_port: expected 1 to 65535, got 65536"):
        make(port=65532)


def test_a_request_is_made_once_and_lets_one_key_in(make):
    out = make(text=JOB + SECURE)
    told = make_request(out / SITE)
    assert make_request(out / SITE) == told  # another signature would be another fingerprint
    assert admit(out, out / SITE / "request.pem", f" {told[:12].upper()}:{told[12:24]} ") == "simulated-000001"
    assert (out / "server" / "nodes" / "simulated-000001.pub").read_bytes().startswith(b"ecdsa-sha2-nistp384 ")
    assert {path.name for path in (out / "site-simulated-000002" / "members").rglob("*.pem")} == {
        "server.pem",
        "simulated-000001.pem",
    }
    for file in ("request.pem", "keys/node.key"):
        (out / SITE / file).unlink()
    again = make_request(out / SITE)
    with pytest.raises(InputError, match="site simulated-000001: was admitted with another key"):
        admit(out, out / SITE / "request.pem", again)


def test_requests_that_are_not_what_a_site_told_are_refused(make, tmp_path):
    out, other = make(), make("other", JOB.replace("rounds = 2", "rounds = 9"))
    told, foreign = make_request(out / SITE), make_request(other / SITE)
    request = out / SITE / "request.pem"
    with pytest.raises(InputError, match="expected the fingerprint"):
        admit(out, request, foreign)
    with pytest.raises(InputError, match="at least 20 hexadecimal digits, got '1234'"):
        admit(out, request, "1234")
    with pytest.raises(InputError, match="a request for another job"):
        admit(out, other / SITE / "request.pem", foreign)
    bad = tmp_path / "bad.pem"
    lines = request.read_text().splitlines(keepends=True)
    for text, message in (
        ("", "not a request that"),
        (request.read_text() * 2, "not a request that"),
        (
            "".join([*lines[:-3], lines[-3][:10] + lines[-3][10:20][::-1] + lines[-3][20:], *lines[-2:]]),
            "request|signed",
        ),
    ):
        bad.write_text(text)
        with pytest.raises(InputError, match=message):
            admit(out, bad, _sha256(bad))
    assert not list((out / "server" / "nodes").iterdir()) and told


def test_a_key_is_not_admitted_on_behalf_of_another_site(make):
    out = make()
    make_request(out / SITE)
    about = out / SITE / "machine.toml"
    about.write_text(about.read_text().replace("000001", "000009"))
    (out / SITE / "request.pem").unlink()
    told = make_request(out / SITE)
    with pytest.raises(InputError, match="site 'simulated-000009': expected one of"):
        admit(out, out / SITE / "request.pem", told)


def test_the_server_asks_for_nothing(make):
    with pytest.raises(InputError, match="expected a site's folder, got the server's"):
        make_request(make() / "server")


def test_a_machine_in_order_passes_and_each_fault_gets_its_line(make, tmp_path):
    out = make(text=JOB + SECURE, port=free_port())
    server, site = out / "server", out / SITE
    assert "not made yet" in wrong(site)["keys"]
    assert set(wrong(server)) == {"sites", "members"}
    assert "site simulated-000000: not admitted yet" in wrong(server)["sites"]
    for number in range(3):
        join(out, f"site-simulated-00000{number}")
    assert not wrong(server)
    assert set(wrong(site)) == {"server"} and "nobody listens there" in wrong(site)["server"]

    key = site / "keys" / "node.key"
    key.chmod(0o640)
    assert f"{key}: others may read it (mode 640), expected 600" in wrong(site)["modes"]
    key.chmod(0o600)
    (server / "keys").chmod(0o755)
    assert "(mode 755), expected 700" in wrong(server)["modes"]
    (server / "keys").chmod(0o700)

    shutil.copy(key, tmp_path / "kept")
    shutil.copy(out / "site-simulated-000002" / "keys" / "node.key", key)
    assert wrong(site)["keys"] == "keys/node.key: not the key that request.pem asks to admit"
    key.unlink()
    assert "node.key: not a readable private key" in wrong(site)["keys"]
    shutil.copy(tmp_path / "kept", key)

    shutil.copy(
        site / "members" / "sites" / "simulated-000002.pem", site / "members" / "sites" / "simulated-000001.pem"
    )
    assert "not the public half of keys/secure-sum.key" in wrong(site)["members"]
    (site / "members" / "server.pem").unlink()
    assert "members/server.pem: missing" in wrong(site)["members"]

    shutil.copy(server / "nodes" / "simulated-000000.pub", server / "nodes" / "simulated-000002.pub")
    assert wrong(server)["sites"] == "site simulated-000002: has the key of site simulated-000000"


def test_a_machine_with_another_job_says_which(make):
    site = make() / SITE
    (site / "job.toml").write_text(JOB.replace("rounds = 2", "rounds = 4"))
    assert "job.toml is not the job that machine.toml names" in wrong(site)["job"]
    other = make("other", JOB.replace("rounds = 2", "rounds = 4")) / SITE
    shutil.copy(other / "job.toml", site)
    shutil.copy(other / "machine.toml", site)
    assert "job.toml is not the job that ca.crt names" in wrong(site)["job"]


def test_certificates_are_of_this_federation_for_this_host_and_in_time(make):
    out, other = make(), make("other")
    server = out / "server"
    assert wrong(server, now=NOW + timedelta(days=366)).keys() >= {"certificate", "authority"}
    assert "server.pem: expired on" in wrong(server, now=NOW + timedelta(days=366))["certificate"]
    assert "server.pem: valid from" in wrong(server, now=NOW - timedelta(days=1))["certificate"]
    about = read_machine(server)
    (server / "machine.toml").write_text((server / "machine.toml").read_text().replace("localhost", "fl.example.org"))
    assert "for localhost, 127.0.0.1, and sites ask for fl.example.org" in wrong(server)["certificate"]
    write_machine(about, server)
    shutil.copy(other / "server" / "server.pem", server)
    assert wrong(server)["certificate"] == "keys/server.key: not the key of server.pem"
    shutil.copy(other / "server" / "keys" / "server.key", server / "keys")
    assert "not issued by ca.crt: of another federation" in wrong(server)["certificate"]
    (server / "keys" / "server.key").unlink()
    assert "keys/server.key: No such file or directory" in wrong(server)["certificate"]
    (server / "server.pem").write_text("nothing")
    assert "server.pem: not a certificate" in wrong(server)["certificate"]


def test_a_site_without_rows_or_in_another_folder_is_told(make, capsys, tmp_path):
    text = JOB.replace("simulated-00000", "x").replace('task = "simulated"', 'task = "heart-disease"')
    out = make(text=text)
    found = check_machine(out / "site-x1", tmp_path / "none", now=NOW, timeout_seconds=5.0)
    assert "data set 'heart_disease_4_hospitals' not found" in {f.what: f.said for f in found}["data"]
    assert main(["federate", "check", str(out)]) == 1
    assert "expected the folder of one machine, with machine.toml" in capsys.readouterr().err


@contextmanager
def listening(certificate, key, port, *, seconds_ahead=0.0):
    """A TLS server that answers as a gate would, with a clock of its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(20.0)

        def serve():
            plain, _ = listener.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(1000)
                    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds_ahead), usegmt=True)
                    secure.sendall(f"HTTP/1.1 403 No\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
            except OSError:
                pass  # whoever asked did not like the certificate

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(timeout=20.0)


def test_a_server_is_looked_at_as_a_site_would(make, tmp_path):
    port = free_port()
    out, other = make(port=port), make("other", port=port)
    site, server = out / SITE, out / "server"
    join(out, SITE)
    pair = server / "server.pem", server / "keys" / "server.key"
    with listening(*pair, port):
        assert not wrong(site)
    with listening(*pair, port, seconds_ahead=-100):
        assert re.match(r"clock: 10[0-9] s ahead of the server's", wrong(site)["server"])
    with listening(other / "server" / "server.pem", other / "server" / "keys" / "server.key", port):
        assert "its certificate is of another federation" in wrong(site)["server"]
    about = (site / "machine.toml").read_text()
    (site / "machine.toml").write_text(about.replace('"localhost"', '"127.0.0.2"'))
    with socket.create_server(("127.0.0.2", port)) as quiet:
        quiet.settimeout(5.0)
        found = check_machine(site, None, now=NOW, timeout_seconds=0.5)
    assert "no answer in" in {finding.what: finding.said for finding in found}["server"]
    (site / "machine.toml").write_text(about.replace('"localhost"', '"nowhere.invalid"'))
    assert "the name nowhere.invalid is not known here" in wrong(site)["server"]


def test_an_expired_server_and_one_of_another_host_are_told_apart(make, monkeypatch):
    port = free_port()
    out = make(port=port)
    site, server = out / SITE, out / "server"
    authority = credentials.Authority(
        load_pem_private_key((out / "operator" / "ca.key").read_bytes(), None),
        load_pem_x509_certificate((out / "operator" / "ca.crt").read_bytes()),
    )
    key = load_pem_private_key((server / "keys" / "server.key").read_bytes(), None)
    monkeypatch.setattr(credentials, "_LIFETIME", timedelta(minutes=-1))
    credentials.write_certificate(server / "server.pem", credentials.certify_server(authority, key.public_key()))
    with listening(server / "server.pem", server / "keys" / "server.key", port):
        assert "its certificate expired, by this machine's clock" in wrong(site)["server"]
    monkeypatch.setattr(credentials, "_LIFETIME", timedelta(days=1))
    monkeypatch.setattr(credentials, "_OWN_NAMES", ())
    other = credentials.certify_server(authority, key.public_key(), "fl.example.org")
    credentials.write_certificate(server / "server.pem", other)
    with listening(server / "server.pem", server / "keys" / "server.key", port):
        assert "its certificate is for another host than localhost" in wrong(site)["server"]


def test_clocks_are_held_to_what_flower_takes():
    assert judge_skew(0.4) == "clocks within 1 s"
    for seconds, said in ((6.0, "6 s ahead of"), (-310.0, "310 s behind")):
        with pytest.raises(Exception, match=f"clock: {said} the server's"):
            judge_skew(seconds)


def test_the_services_pass_systemds_own_check_with_the_programs_of_this_machine(make, tmp_path):
    out = make(text=JOB + SECURE)
    units = tmp_path / "units"
    units.mkdir()
    for path in [*(out / "server" / "systemd").iterdir(), *(out / SITE / "systemd").iterdir()]:
        text = path.read_text()
        parser = configparser.RawConfigParser(strict=False)
        parser.read_string(text)
        service = parser["Service"]
        assert service["NoNewPrivileges"] == service["PrivateTmp"] == "yes" and service["ProtectSystem"] == "strict"
        assert service["User"] == "smallhold" and service["Restart"] == "on-failure"
        program = shlex.split(service["ExecStart"])[0]
        assert program.startswith("/opt/smallhold/venv")
        (units / path.name).write_text(text.replace(program, sys.executable))
    assert len(list(units.iterdir())) == 6
    node = next(units.glob("*supernode*")).read_text()
    assert "After=smallhold-rule-site.service" in node and "Wants=smallhold-rule-site.service" in node
    resident = next(units.glob("*-site.service")).read_text()
    assert "PrivateNetwork=yes" in resident and "--keys /etc/smallhold/rule" in resident
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, units.iterdir())],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_the_resident_services_carry_a_secure_round_with_the_keys_that_were_admitted(make):
    out = make(text=JOB.replace("rounds = 2", "rounds = 1") + SECURE)
    folders = ["server", *(f"site-simulated-00000{number}" for number in range(3))]
    for site in folders[1:]:
        join(out, site)
    root = Path(tempfile.mkdtemp(prefix="sh-"))  # sockets need short paths
    running, sockets = [], {}
    try:
        for number, name in enumerate(folders):
            role = name.partition("-")[0]
            unit = (out / name / "systemd" / f"smallhold-rule-{role}.service").read_text()
            (command,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
            places = {
                "/etc/smallhold/rule": out / name,
                "/var/lib/smallhold/rule": root / str(number),
                "/run/smallhold-rule": root / f"run{number}",
                "/opt/smallhold/venv/bin": Path(sys.executable).parent,
            }
            for place, here in places.items():
                command = command.replace(place, str(here))
            running.append(subprocess.Popen(shlex.split(command.removeprefix("ExecStart="))))
            sockets[name.removeprefix("site-")] = root / f"run{number}" / role
        server, status = sockets.pop("server"), {"is_finished": False}
        turns = 0
        while not status["is_finished"]:
            status, request = ask_patiently(server, {"ask": "request"}, timeout_seconds=120.0)
            for site in status["waiting_for"]:
                _, answer = ask_patiently(sockets[site], {"ask": "respond"}, request, timeout_seconds=120.0)
                ask(server, {"ask": "receive", "sender": site}, answer, timeout_seconds=60.0)
            question = {"ask": "close_round", "round": status["round"], "turn": status["turn"]}
            status, _ = ask(server, question, timeout_seconds=60.0)
            turns += 1
        assert (turns, status["round"]) == (5, 1)
        assert main(["federate", "verify", str(root / "0")]) == 0
    finally:
        for process in running:
            process.terminate()
            process.wait(timeout=30)
        shutil.rmtree(root)


# What the Compose Specification says of the members that are used (compose-spec, 05-services.md and 07-volumes.md).
_TEXTS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "command"],
    "properties": {
        **{name: {"type": "string"} for name in ("image", "working_dir", "user")},
        "command": {"type": "array", "items": {"type": "string"}},
        **dict.fromkeys(("volumes", "tmpfs", "cap_drop", "security_opt", "depends_on", "ports"), _TEXTS),
        "environment": {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}},
        "read_only": {"type": "boolean"},
        "restart": {"pattern": "^(no|always|on-failure(:[0-9]+)?|unless-stopped)$"},
        "network_mode": {"pattern": "^(none|host|bridge|service:.+|container:.+)$"},
    },
}
_COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"patternProperties": {"^[a-zA-Z0-9._-]+$": _SERVICE}, "additionalProperties": False},
        "volumes": {"patternProperties": {"^[a-zA-Z0-9._-]+$": {"type": "object"}}, "additionalProperties": False},
    },
}


@pytest.mark.parametrize("machine", ["server", SITE])
def test_the_compose_file_is_one_and_says_the_same_as_the_services(make, machine):
    from jsonschema import Draft202012Validator

    folder = make() / machine
    found = yaml.safe_load((folder / "compose.yaml").read_text())
    Draft202012Validator(_COMPOSE).validate(found)
    services = found["services"]
    for name, service in services.items():
        (unit,) = (folder / "systemd").glob(f"*-{name}.service")
        (command,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
        assert shlex.split(command.removeprefix("ExecStart=")) == service["command"]
        assert set(service.get("depends_on", [])) <= set(services)
        assert service.get("network_mode", "none").removeprefix("service:") in {"none", *services}
        assert not ("ports" in service and "network_mode" in service)
        named = {volume.split(":")[0] for volume in service["volumes"]} - {"./", "/srv/smallhold"}
        assert named == set(found["volumes"])
    assert services[machine.split("-")[0]]["network_mode"] == "none"
    assert "pip install" in (folder / "Containerfile").read_text()


def test_the_gate_passes_what_nodes_ask_and_nothing_else():
    from starlette.testclient import TestClient

    client = TestClient(gate("http://127.0.0.1:9"))  # nobody is there: what is let through is answered with 503
    assert client.post("/v1/fleet/pull-messages", content=b"x").status_code == 503
    for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet/%2e%2e/control/start-run", "/"):
        assert client.post(path, content=b"x").status_code == 403, path
    assert client.post("/v1/fleet/pull-messages?x=1", content=b"x").status_code == 403
    assert client.get("/v1/fleet/pull-messages").status_code == 405
    assert client.post("/v1/fleet/push-object", headers={"content-length": str(2**40)}).status_code == 413
    assert client.post("/v1/fleet/push-object", content=iter([b"x"])).status_code == 413


def test_the_command_line_says_what_comes_next(tmp_path, capsys):
    (tmp_path / "rule.toml").write_text(JOB)
    out, site = str(tmp_path / "out"), str(tmp_path / "out" / SITE)
    command = ["federate", "prepare", str(tmp_path / "rule.toml"), "--out", out, "--server-host", "localhost"]
    assert main([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert "keep it offline" in said.err and len(json.loads(said.out)["made"]) == 4
    assert main(command) == 0 and "made nothing, all is there" in capsys.readouterr().out
    assert main(["federate", "join-request", site, "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert main(["federate", "admit", out, asked["request"], "--fingerprint", asked["fingerprint"]]) == 0
    assert "site simulated-000001 is admitted" in capsys.readouterr().out
    assert main(["federate", "check", site, "--json"]) == 1
    bad = [finding["what"] for finding in json.loads(capsys.readouterr().out) if not finding["is_good"]]
    assert bad == ["server"]


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
