"""Rounds of which the server sees the sum: what it is, who may leave when, and what nobody can make a site do."""

from dataclasses import replace

import numpy as np
import pytest

from smallhold.cli.main import main
from smallhold.device.trust import load_public_key
from smallhold.errors import FederationError, JournalError, QuorumError, RecipeError, SmallholdError, UpdateRefused
from smallhold.federate.aggregate import weighted_mean
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import AggregationChoice, FederatedJob, PrivacyChoice, RecordPrivacyChoice, UploadChoice
from smallhold.federate.members import KEY
from smallhold.federate.messages import SecureAnswer, SecureRequest
from smallhold.federate.receipt import PUBLIC_KEY, read_receipt
from smallhold.federate.resident import answer_for_server, answer_for_site, ask, listening
from smallhold.federate.secure_rounds import TURNS
from smallhold.federate.verify import verify_run

SECURE = {
    "upload": UploadChoice(secure=True),
    "privacy": PrivacyChoice(clip_norm=0.5),
    "aggregation": AggregationChoice(max_examples=100),
    "rounds": 2,
}
OPEN = SECURE | {"upload": UploadChoice()}


@pytest.fixture
def secure(make_federation):
    return make_federation(**SECURE, quorum=3)


def silent(done, total, loss):
    pass


def carry(server, sites, gone=()):
    """One turn; `gone` do not answer. False when the round has moved on."""
    number, request = server.round, server.request()
    for name in server.waiting_for:
        if name not in gone:
            server.receive(sites[name].respond(request), sender=name)
    server.close_round()
    return server.round == number


def test_a_sum_under_masks_gives_the_model_of_updates_in_the_open(make_federation, secure):
    server = secure.server()
    run_in_process(server, secure.sites(), progress=silent)
    plain = make_federation(**OPEN)
    oracle = plain.server("open")
    run_in_process(oracle, plain.sites("-open"), progress=silent)
    assert server.is_finished
    assert np.abs(server.model - oracle.model).max() < 1e-5  # a level is a millionth of the clip norm
    again = secure.server("again")
    run_in_process(again, secure.sites("-again"), progress=silent)
    assert again.model.tobytes() == server.model.tobytes()  # other masks, the same sum
    sent = [next((secure.folder / folder / "secure").rglob("input/east.safetensors")) for folder in ("server", "again")]
    first, second = (np.frombuffer(SecureAnswer.from_bytes(path.read_bytes()).said(), np.uint8) for path in sent)
    assert np.mean(first[-80:-64] == second[-80:-64]) < 0.5  # of the masked numbers, behind which the signature lies


@pytest.mark.parametrize("moment", range(5))
def test_a_site_may_leave_in_any_turn(make_federation, secure, moment):
    server, sites = secure.server(), secure.sites()
    for turn in range(5):
        carry(server, sites, gone=("west",) if turn >= moment else ())
    assert server.round == 1
    counted = [name for name in sites if name != "west" or moment > TURNS.index("input")]
    plain = make_federation(**OPEN)
    oracle = plain.server("open")
    updates = [oracle.receive(plain.site(name, "-open").respond(oracle.request())) for name in counted]
    expected = weighted_mean((update.arrays["delta"], update.num_examples) for update in updates)
    assert np.abs(server.model - expected).max() < 1e-5
    closed = server._journal.entries[-1].body
    assert closed["sites"] == counted and closed["num_examples"] == sum(update.num_examples for update in updates)


@pytest.mark.parametrize("moment", range(1, 21, 3))
def test_a_server_that_is_killed_in_any_turn_goes_on_in_it(secure, moment):
    whole, sites = secure.server("whole"), secure.sites("-whole")
    while carry(whole, sites):
        pass
    server, sites, left = secure.server(), secure.sites(), moment
    while server.round == 0:
        turn, request = server.turn, server.request()
        for name in server.waiting_for:
            server.receive(sites[name].respond(request), sender=name)
            left -= 1
            if left == 0:
                server.close()
                server = secure.server()
                assert server.turn == turn and server.request() == request and name not in server.waiting_for
        server.close_round()
    assert server.model.tobytes() == whole.model.tobytes()
    assert verify_run(secure.folder / "server")["problems"] == []


@pytest.mark.parametrize("turns", [1, 3, 4])
def test_a_process_with_all_parties_that_is_killed_makes_another_attempt(secure, turns):
    server, sites = secure.server(), secure.sites()
    for _ in range(turns):
        carry(server, sites)
    server.close()
    again = secure.server()
    while not again.is_finished:
        try:
            run_in_process(again, secure.sites(), progress=silent)
        except QuorumError as missing:
            assert "run the same command again" in missing.hint
    assert again.is_finished
    assert [e.body["attempt"] for e in again._journal.entries if e.kind == "round_closed"] == [1, 0]
    assert verify_run(secure.folder / "server")["problems"] == []


def test_of_a_round_no_site_opens_two_sums(secure):
    server, sites = secure.server(), secure.sites()
    requests = []
    for _ in range(5):
        requests.append(server.request())
        carry(server, sites)
    # A server that says the round failed, and would have a sum without one of the sites.
    second = replace(SecureRequest.from_bytes(requests[0]), attempt=1).to_bytes()
    for site in (sites["east"], secure.site("east")):  # a restart does not make it forget
        with pytest.raises(UpdateRefused, match="a sum of round 0 was opened"):
            site.respond(second)
    said = secure.site("east").respond(requests[4])
    assert said == sites["east"].respond(requests[4])  # its last word may be heard again


def test_a_site_that_was_started_within_a_round_waits_for_the_next(secure):
    server, sites = secure.server(), secure.sites()
    carry(server, sites)
    sites["west"] = secure.site("west")
    with pytest.raises(FederationError, match="it was started later"):
        sites["west"].respond(server.request())
    run_in_process(server, sites, progress=silent)
    closed = [entry.body["sites"] for entry in server._journal.entries if entry.kind == "round_closed"]
    assert closed == [["east", "north", "south"], ["east", "north", "south", "west"]]


def test_a_server_cannot_have_sites_train_another_model(secure):
    server, sites = secure.server(), secure.sites()
    for _ in range(2):
        carry(server, sites)
    asked = SecureRequest.from_bytes(server.request())
    other = replace(asked, arrays=asked.arrays | {"model": np.ones(4, np.float32)})
    with pytest.raises(UpdateRefused, match="malformed"):
        sites["east"].respond(other.to_bytes())
    base = replace(asked, base="0" * 64)
    with pytest.raises(FederationError, match="no part in round"):
        sites["west"].respond(base.to_bytes())


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("malformed", lambda a: b"nonsense"),
        ("malformed", lambda a: replace(a, arrays={"message": np.zeros(9, np.uint8)}).to_bytes()),
        ("malformed", lambda a: replace(a, arrays={}).to_bytes()),
        ("stale", lambda a: replace(a, attempt=1).to_bytes()),
        ("stale", lambda a: replace(a, turn="open").to_bytes()),
        ("stale", lambda a: replace(a, round=1).to_bytes()),
        ("foreign", lambda a: replace(a, job="0" * 64).to_bytes()),
        ("unknown_site", lambda a: replace(a, site="north").to_bytes()),
    ],
)
def test_what_is_no_part_of_the_protocol_is_refused_by_name(secure, reason, change):
    server = secure.server()
    blob = secure.site("east").respond(server.request())
    with pytest.raises(UpdateRefused) as refusal:
        server.receive(change(SecureAnswer.from_bytes(blob)))
    assert refusal.value.reason == reason and len(server.waiting_for) == 4
    server.receive(blob, sender="east")
    with pytest.raises(UpdateRefused, match="replayed"):
        server.receive(blob, sender="east")
    assert server.waiting_for == ("north", "south", "west")


def test_too_few_sites_begin_another_attempt_and_the_journal_says_so(secure):
    server, sites = secure.server(), secure.sites()
    carry(server, sites)
    with pytest.raises(QuorumError, match=r"turn share of attempt 0: too few sites.*attempt 1 begins"):
        carry(server, sites, gone=("west", "south"))
    assert server.turn == "0/1/advertise"
    for _ in range(5):
        carry(server, sites)
    assert server.round == 1
    server.close()
    path = next((secure.folder / "server" / "secure" / "0-1").rglob("north.safetensors"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert verify_run(secure.folder / "server")["problems"] == [f"{path}: altered"]


def test_an_accepted_message_that_was_altered_stops_the_server(secure):
    server, sites = secure.server(), secure.sites()
    server.receive(sites["east"].respond(server.request()))
    server.close()
    path = next((secure.folder / "server" / "secure").rglob("east.safetensors"))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(JournalError, match="altered after it was accepted"):
        secure.server()


def test_an_engine_that_knows_nothing_of_turns_carries_them(secure, tmp_path_factory):
    import tempfile
    from contextlib import ExitStack
    from pathlib import Path

    oracle = secure.server("oracle")
    run_in_process(oracle, secure.sites("-oracle"), progress=silent)
    server = secure.server()
    with ExitStack() as stack:
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sh-")))
        stack.enter_context(listening(short / "server", answer_for_server(server)))
        for name, site in secure.sites().items():
            stack.enter_context(listening(short / name, answer_for_site(site)))

        def question(path, head, blob=b""):
            return ask(short / path, head, blob, timeout_seconds=30.0)

        while not (status := question("server", {"ask": "status"})[0])["is_finished"]:
            _, request = question("server", {"ask": "request"})
            for name in status["waiting_for"]:
                _, blob = question(name, {"ask": "respond"}, request)
                question("server", {"ask": "receive", "sender": name}, blob)
            close = {"ask": "close_round", "round": status["round"], "turn": status["turn"]}
            after = question("server", close)[0]
            assert question("server", close)[0]["turn"] == after["turn"] != status["turn"]  # asked twice, closed once
    assert server.model.tobytes() == oracle.model.tobytes()


def test_a_receipt_of_a_sum_names_who_took_part_and_not_with_how_much(secure):
    server = secure.server()
    run_in_process(server, secure.sites(), progress=silent)
    folder = secure.folder / "server"
    data = (folder / "receipts" / "0.dsse.json").read_bytes()
    receipt = read_receipt(data, load_public_key(folder / PUBLIC_KEY), name="receipt")
    assert receipt["sum"] == {"attempt": 0, "num_examples": 220}
    assert [update["site"] for update in receipt["updates"]] == ["east", "north", "south", "west"]
    assert {update["num_examples"] for update in receipt["updates"]} == {None}
    assert verify_run(folder)["summary"]["updates"] == 8


def test_the_command_makes_keys_for_all_parties_and_each_keeps_its_own(tmp_path, capsys):
    job = tmp_path / "ours.toml"
    job.write_text(
        """
name = "ours"
task = "simulated"
sites = ["a", "b", "c"]
rounds = 1
[upload]
secure = true
[privacy]
clip_norm = 1.0
[aggregation]
max_examples = 50
"""
    )
    run = tmp_path / "run"
    assert main(["federate", "run", str(job), "--out", str(run), "--json"]) == 0
    keys = [run / "server" / KEY, *(run / "sites" / site / KEY for site in "abc")]
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys) and len({key.read_bytes() for key in keys}) == 4
    assert main(["federate", "verify", str(run)]) == 0
    assert "3 updates" in capsys.readouterr().out
    (run / "members" / "sites" / "b.pem").unlink()
    assert main(["federate", "site", str(job), "--name", "a", "--out", str(run), "--socket", "never"]) == 1
    assert "b.pem" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upload": UploadChoice(secure=True, top_k=0.1)}, r"sparsify \(upload.top_k\) under mask \(upload.secure\)"),
        ({"upload": UploadChoice(secure=True, bits=8)}, r"quantize by group \(upload.bits\) under mask \(upload.sec"),
        (
            {"aggregation": AggregationChoice(method="trimmed_mean", trim=0.4, max_examples=9)},
            r"trimmed_mean \(aggregation.method\) over masked sums \(upload.secure\)",
        ),
        (
            {"aggregation": AggregationChoice(method="krum", max_examples=9)},
            r"krum \(aggregation.method\) over masked sums \(upload.secure\)",
        ),
        (
            {"privacy": PrivacyChoice(clip_norm=0.5, noise_multiplier=1.0, epsilon=8.0)},
            r"noise at the server \(privacy.noise_multiplier\) after mask \(upload.secure\)",
        ),
        ({"privacy": PrivacyChoice()}, r"privacy.clip_norm: upload.secure needs"),
        ({"aggregation": AggregationChoice()}, r"aggregation.max_examples: upload.secure needs"),
        ({"quorum": 2}, r"quorum: with upload.secure expected more than two thirds of the cohort of 4, got 2"),
        ({"cohort": 2}, r"upload.secure: expected 3 to 256 sites a round, got 2"),
    ],
)
def test_what_does_not_go_together_is_refused_by_the_names_of_its_keys(changes, message):
    with pytest.raises(RecipeError, match=message):
        FederatedJob(name="x", task="x", sites=("a", "b", "c", "d"), **(SECURE | changes))


def test_privacy_of_records_needs_no_bound_on_examples_and_keys_are_needed(make_federation):
    private = RecordPrivacyChoice(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0)
    FederatedJob(
        name="x", task="x", sites=("a", "b", "c"), record_privacy=private,
        **(SECURE | {"aggregation": AggregationChoice()}),
    )  # fmt: skip
    federation = make_federation(**SECURE)
    server = federation.server(members=None)
    with pytest.raises(SmallholdError, match="needs the keys of its members"):
        server.request()
