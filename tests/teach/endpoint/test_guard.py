"""Rows about people stay on this machine: as a rule, and as the sockets and files of a whole run show it."""

import ast
import ipaddress
import logging
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.teach.endpoint.conftest import Teacher, holding

from smallhold.errors import EgressError, RecipeError
from smallhold.sectors.data_sets import KNOWN, Privacy, privacy_of
from smallhold.teach.endpoint import guard
from smallhold.teach.endpoint.guard import Allow, find_destination, origin_of, require_allowed
from smallhold.teach.endpoint.label import run_labelling
from smallhold.teach.endpoint.recipe import read_label_recipe


def silent(caption, done, total):
    pass


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Models.Example/inference/", "https://models.example"),
        ("https://models.example:443/x", "https://models.example"),
        ("https://models.example:8443", "https://models.example:8443"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url, origin):
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        *("", "models.example", "ftp://models.example", "https://", "https:///v1", "https://models.example:99999"),
        *(
            "https://user:pw@models.example/v1",
            "https://sk-secret@models.example",
            "https://models.example/?key=secret",
        ),
        *("https://models.example/#x", "https://mödels.example", "https://models.example/a b", "https://[::1"),
        "https://models.example:0/v1",
    ],
)
def test_what_is_no_plain_url_is_refused_without_being_shown(url):
    with pytest.raises(RecipeError) as raised:
        find_destination(url)
    for secret in ("pw", "sk-secret", "secret"):
        assert secret not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        *("http://models.example/v1", "http://192.168.1.4/v1", "http://0.0.0.0:80/v1", "http://127.0.0.1.nip.io/v1"),
        *("http://[::ffff:8.8.8.8]/v1", "http://2130706433/v1", "http://localhost.example/v1", "http://localhost./v1"),
    ],
)
def test_plain_http_is_for_this_machine_alone(url, sockets):
    with pytest.raises(RecipeError, match="expected https"):
        find_destination(url)
    assert sockets == []  # no name was looked up either


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/v1", "http://127.8.8.8/v1", "http://[::1]:9/v1", "https://127.0.0.1"]
)
def test_loopback_addresses_are_this_machine(url):
    assert find_destination(url).is_this_machine


def test_localhost_is_replaced_by_the_address_that_was_looked_at():
    found = find_destination("http://localhost:9/v1/")
    assert found.is_this_machine
    assert found.origin == "http://localhost:9"
    host = found.url.removeprefix("http://").removesuffix(":9/v1").strip("[]")
    assert ipaddress.ip_address(host).is_loopback


@pytest.mark.parametrize("addresses", [["203.0.113.9"], ["127.0.0.1", "203.0.113.9"], []])
def test_a_localhost_that_means_another_machine_is_not_this_one(monkeypatch, addresses):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: answer)
    with pytest.raises(RecipeError, match="expected https"):
        find_destination("http://localhost:9/v1")


REMOTE = find_destination("https://models.example/v1")
HERE = find_destination("http://127.0.0.1:9/v1")
ORIGIN = ("https://models.example",)


@pytest.mark.parametrize(
    ("privacy", "destination", "allow", "passes"),
    [
        (Privacy.PUBLIC, REMOTE, Allow(), True),
        (Privacy.PATIENT, REMOTE, Allow(), False),
        (Privacy.CUSTOMER, REMOTE, Allow(), False),
        (Privacy.PATIENT, HERE, Allow(), True),
        (Privacy.CUSTOMER, HERE, Allow(), True),
        (Privacy.PATIENT, REMOTE, Allow(patient=ORIGIN), True),
        (Privacy.CUSTOMER, REMOTE, Allow(patient=ORIGIN), False),
        (Privacy.PATIENT, REMOTE, Allow(customer=ORIGIN), False),
        (Privacy.PATIENT, REMOTE, Allow(patient=("https://models.example:8443",)), False),
        (Privacy.PATIENT, REMOTE, Allow(patient=("https://example",)), False),
    ],
)
def test_the_rule(privacy, destination, allow, passes):
    if passes:
        require_allowed(privacy, destination, allow)
        return
    with pytest.raises(
        EgressError, match=f"class '{privacy.value}' may not be sent to https://models.example"
    ) as raised:
        require_allowed(privacy, destination, allow)
    assert f'{privacy.value} = ["https://models.example"]' in raised.value.hint


@pytest.mark.parametrize(
    "name", ["https://models.example/v1", "https://*.example/", "models.example", "https://A.example"]
)
def test_an_allowance_is_an_origin_and_nothing_else(name):
    with pytest.raises(RecipeError):
        Allow(patient=(name,))


def test_what_nobody_said_anything_about_is_a_patients():
    assert privacy_of("never heard of") is Privacy.PATIENT
    assert privacy_of("never heard of", otherwise=Privacy.PUBLIC) is Privacy.PUBLIC
    assert privacy_of("physionet2012_icu", otherwise=Privacy.PUBLIC) is Privacy.PATIENT  # not to be declared away
    assert privacy_of("banking77") is Privacy.PUBLIC
    records = ("icu", "heart", "sepsis", "uci_", "waveforms", "rumedbench", "eicu")
    assert not [
        known.name for known in KNOWN if known.privacy is Privacy.PUBLIC and any(r in known.name for r in records)
    ]


def test_a_refused_row_opens_no_connection_and_leaves_no_byte(desk, tmp_path, sockets, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    recipe = read_label_recipe(desk.recipe("https://models.example/v1"))
    with pytest.raises(EgressError, match=r"'patient' may not be sent to https://models\.example"):
        run_labelling(recipe, desk.data, tmp_path / "out", progress=silent)
    assert sockets == []
    assert not (tmp_path / "out").exists()
    shown = caplog.text + "".join(capfd.readouterr())
    row = desk.texts[0]
    written = [path for path in holding(tmp_path, row) if not path.startswith(str(desk.data))]
    assert (written, row in shown) == ([], False)


def test_one_patients_row_among_public_ones_stops_them_all(desk, tmp_path, sockets):
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text('{"text": "public one"}\n{"text": "about a patient", "privacy": "patient"}\n')
    more = f'[rows]\nfile = "{mixed}"\nprivacy = "public"\n'
    recipe = read_label_recipe(desk.recipe("https://models.example/v1", more))
    with pytest.raises(EgressError):
        run_labelling(recipe, None, tmp_path / "out", progress=silent)
    assert sockets == []


def test_the_client_refuses_by_itself_and_writes_nothing(tmp_path, sockets):
    """The guard sits where requests are sent: a caller that forgets it changes nothing."""
    import asyncio

    from smallhold.teach.endpoint.client import Client, Question
    from smallhold.teach.endpoint.recipe import CapChoice, EndpointChoice, PaceChoice
    from smallhold.teach.endpoint.store import Store

    secret = "the patient in bed seven"
    endpoint = EndpointChoice(model="m", base_url="https://models.example/v1")
    asked = Question(path="/chat/completions", body={"prompt": secret}, sample=0, privacy=Privacy.PATIENT)
    with Store(tmp_path) as store:
        client = Client(endpoint, CapChoice(requests=9, tokens=9**9), PaceChoice(), store)
        for call in (lambda: client.ask(asked), lambda: client.ask_all([asked], lambda place, answer: None)):
            with pytest.raises(EgressError):
                asyncio.run(call())
        assert store.spend().requests == 0
    assert sockets == []
    assert holding(tmp_path, secret) == []


def test_rows_are_sent_from_one_module_alone():
    """No other module of the package can open a connection; `candidates` fetches catalogues and is given no rows."""
    folder = Path(guard.__file__).parent
    network = {"httpx", "requests", "urllib.request", "http.client", "socketserver", "aiohttp", "asyncio.streams"}
    users = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            users |= {path.name for name in names if name in network or name.split(".")[0] in network}
    assert users == {"client.py", "candidates.py", "responses.py"}  # the last one for the type of what it reads
    sources = {path.name: path.read_text() for path in folder.glob("*.py")}
    assert [name for name, text in sources.items() if ".stream(" in text or ".post(" in text] == ["client.py"]
    assert [name for name, text in sources.items() if ".get(url)" in text] == ["candidates.py"]


@pytest.fixture
def ward(tmp_path, monkeypatch):
    """An endpoint of a hospital, by name and over TLS with its own authority: really on loopback, seen as elsewhere."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ward")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("llm.ward.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "ward.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ward.pem")
    made = Teacher(context)
    real = socket.getaddrinfo

    def resolve(host, *rest, **named):
        return real("127.0.0.1" if host in ("llm.ward.test", b"llm.ward.test") else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield made
    made.close()


def test_a_named_origin_gets_the_rows_over_verified_tls_and_no_other_does(desk, tmp_path, ward, monkeypatch):
    url = f"https://llm.ward.test:{ward.port}/v1"
    quick = "[pace]\nattempts = 1\ngive_up_after = 1\nconnect_seconds = 2.0\n[rows]\nmost = 5\n"
    refused = read_label_recipe(desk.recipe(url, quick))
    with pytest.raises(EgressError):  # its name leads to loopback, which makes it no part of this machine
        run_labelling(refused, desk.data, tmp_path / "out", progress=silent)
    allowed = read_label_recipe(desk.recipe(url, quick + f'[endpoint.allow]\npatient = ["{origin_of(url)}"]\n'))
    manifest = run_labelling(allowed, desk.data, tmp_path / "out", progress=silent)
    assert "no_connection" in str(manifest.stopped_by)  # nobody vouches for its certificate
    assert ward.seen == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ward.pem"))
    manifest = run_labelling(allowed, desk.data, tmp_path / "out", progress=silent)
    assert (manifest.num_labelled, manifest.origin, manifest.privacy) == (5, origin_of(url), "patient")
    assert len(ward.seen) == 5
