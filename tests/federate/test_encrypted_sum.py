"""Rounds whose updates the server adds as ciphertexts: what the sum is, who is needed when, and what nobody opens."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tenseal", reason="encryption needs TenSEAL, the extra 'he'")
from smallhold.errors import (
    EncryptionError,
    FederationError,
    QuorumError,
    RecipeError,
    SecureSumError,
    SmallholdError,
    UpdateRefused,
)
from smallhold.federate.encrypted_sum import PUBLIC_KEY, SECRET_KEY
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import AggregationChoice, FederatedJob, PrivacyChoice, UploadChoice
from smallhold.federate.messages import SecureAnswer, SecureRequest, Update, message_arrays
from smallhold.federate.secure_rounds import ENCRYPTED_TURNS, encode_input, fixed_point_of
from smallhold.federate.verify import verify_run
from smallhold.privacy.encrypt import make_keys
from smallhold.privacy.secure_sum.envelope import SERVER, Kind, join_parts, join_set, seal
from smallhold.privacy.weighted import decode_weighted

ENCRYPTED = {
    "upload": UploadChoice(key_holder="north"),
    "privacy": PrivacyChoice(clip_norm=0.5),
    "aggregation": AggregationChoice(max_examples=100),
    "rounds": 2,
}
OPEN = ENCRYPTED | {"upload": UploadChoice()}


@pytest.fixture
def encrypted(make_federation):
    return make_federation(**ENCRYPTED, quorum=3)


def silent(done, total, loss):
    pass


def carry(server, sites, gone=()):
    """One turn; `gone` do not answer."""
    request = server.request()
    for name in server.waiting_for:
        if name not in gone:
            server.receive(sites[name].respond(request), sender=name)
    server.close_round()


def carry_to(server, sites, turn):
    while not server.turn.endswith(turn):
        carry(server, sites)


def mean_in_the_open(federation, make_federation, names):
    """Of what these sites encrypt, in whole numbers and without a key: the mean, and the examples behind it."""
    plain = make_federation(**OPEN)
    oracle, job, fixed = plain.server("open"), federation.job, fixed_point_of(federation.job)
    updates = [Update.from_bytes(plain.site(name, "-open").respond(oracle.request())) for name in names]
    total = sum(encode_input(job, update.arrays["delta"], update.num_examples) for update in updates)
    return decode_weighted(total, max_examples=100, fixed_point=fixed)


def test_what_comes_out_is_the_sum_of_whole_numbers_and_near_the_one_of_floats(make_federation, encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    for _ in ENCRYPTED_TURNS:
        carry(server, sites)
    mean, num_examples = mean_in_the_open(encrypted, make_federation, sites)
    assert server.model.tobytes() == (np.zeros(4, np.float32) + mean.astype(np.float32)).tobytes()
    closed = server._journal.entries[-1].body
    assert closed["num_examples"] == num_examples == 220 and closed["sites"] == sorted(sites)
    run_in_process(server, sites, progress=silent)
    plain = make_federation(**OPEN)
    oracle = plain.server("plain")
    run_in_process(oracle, plain.sites("-plain"), progress=silent)
    assert server.is_finished and np.abs(server.model - oracle.model).max() < 2e-5  # a level is 1.5e-5
    report = verify_run(encrypted.folder / "server")
    assert report["problems"] == [] and report["summary"]["updates"] == 8
    receipt = json.loads((encrypted.folder / "server/receipts/1.dsse.json").read_bytes())
    told = json.loads(base64.b64decode(receipt["payload"]))
    assert {update["encoding"][0] for update in told["updates"]} == {"encrypted-sum"}


def test_no_update_is_anywhere_in_the_clear(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "input")
    request = server.request()
    first, second = sites["east"].respond(request), encrypted.site("east", "-again").respond(request)
    sent = [np.frombuffer(SecureAnswer.from_bytes(blob).said(), np.uint8) for blob in (first, second)]
    size = min(map(len, sent)) - 200
    assert np.mean(sent[0][200:size] == sent[1][200:size]) < 0.05  # the same update, encrypted twice
    assert not list((encrypted.folder / "server").rglob("*.key"))
    assert [path.parent.name for path in (encrypted.folder).rglob(SECRET_KEY)] == ["north"]
    assert (encrypted.folder / "sites/north" / SECRET_KEY).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("gone", ["west", "north"])
def test_a_site_may_stay_away_from_the_sum(make_federation, encrypted, gone):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "input")
    carry(server, sites, gone=(gone,))  # the key holder opens a sum that it is not part of
    carry(server, sites)
    counted = [name for name in sites if name != gone]
    assert server.round == 1 and server._journal.entries[-1].body["sites"] == counted
    mean, _ = mean_in_the_open(encrypted, make_federation, counted)
    assert server.model.tobytes() == (np.zeros(4, np.float32) + mean.astype(np.float32)).tobytes()


@pytest.mark.parametrize("moment", range(1, 7))
def test_a_server_that_is_killed_after_any_message_goes_on_in_its_turn(encrypted, moment):
    whole, sites = encrypted.server("whole"), encrypted.sites("-whole")
    while whole.round == 0:
        carry(whole, sites)
    server, sites, left = encrypted.server(), encrypted.sites(), moment
    while server.round == 0:
        turn, request = server.turn, server.request()
        for name in server.waiting_for:
            server.receive(sites[name].respond(request), sender=name)
            left -= 1
            if left == 0:
                server.close()
                server = encrypted.server()
                assert server.turn == turn and server.request() == request and name not in server.waiting_for
        server.close_round()
    assert server.model.tobytes() == whole.model.tobytes()
    assert verify_run(encrypted.folder / "server")["problems"] == []


def test_sites_that_are_killed_between_turns_answer_as_before(encrypted):
    server = encrypted.server()
    while server.round == 0:
        request = server.request()
        for name in server.waiting_for:
            said = encrypted.site(name).respond(request)  # each time another process
            if not server.turn.endswith("key"):
                assert encrypted.site(name).respond(request) == said
            server.receive(said, sender=name)
        server.close_round()
    assert [entry.kind for entry in server._journal.entries].count("turn_failed") == 0


def test_a_site_keeps_the_answers_of_one_attempt_in_memory(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    run_in_process(server, sites, progress=silent)
    assert server.round == 2 and {name: len(site._secure._answers) for name, site in sites.items()} == {
        "east": 1,
        "north": 3,
        "south": 1,
        "west": 1,
    }


def test_without_the_key_holder_the_sum_waits_and_nothing_is_repeated(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "open")
    for _ in range(3):
        with pytest.raises(QuorumError, match=r"turn open of attempt 0.*too few answers"):
            server.close_round()
    server.close()
    again = encrypted.server()
    assert again.turn == "0/0/open" and again.waiting_for == ("north",)
    carry(again, encrypted.sites())
    assert again.round == 1


def test_a_server_cannot_put_a_key_of_its_own_in_the_place_of_the_holders(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "input")
    asked, context = SecureRequest.from_bytes(server.request()), server._secure._sum._context
    own = make_keys().public
    for sender, key in (("north", server._secure._members.key), (SERVER, server._secure._members.key)):
        forged = seal(Kind.ADVERTISE, own, context=context, sender=sender, key=key)
        with pytest.raises(SecureSumError, match=r"is not signed by it|not expected to take part"):
            sites["east"].respond(replace(asked, arrays=asked.arrays | message_arrays(message=forged)).to_bytes())


def test_the_key_holder_opens_one_sum_a_round_and_none_of_too_few(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "open")
    honest = server.request()
    asked, secure = SecureRequest.from_bytes(honest), server._secure
    alone = ciphertext_of(encrypted.folder / "server/secure/0-0/input/east.safetensors", "east")
    for named in (["east"], ["east", "south", "west"]):
        body = join_parts([join_set(named, sorted(sites)), alone])
        forged = seal(Kind.SURVIVORS, body, context=secure._sum._context, sender=SERVER, key=secure._members.key)
        with pytest.raises(SecureSumError, match="asks to open a sum of 1 sites"):
            sites["north"].respond(replace(asked, arrays=message_arrays(message=forged)).to_bytes())
    said = sites["north"].respond(honest)
    assert encrypted.site("north").respond(honest) == said  # heard again, also after a restart
    with pytest.raises(UpdateRefused, match="a sum of round 0 was opened"):
        encrypted.site("north").respond(replace(asked, attempt=1).to_bytes())


def test_nobody_else_opens_a_sum_and_a_sum_out_of_range_is_refused(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "open")
    with pytest.raises(UpdateRefused, match="asks nothing of east"):
        sites["east"].respond(server.request())
    answer = SecureAnswer.from_bytes(sites["north"].respond(server.request()))
    context, key = server._secure._sum._context, encrypted.members("sites/north").key
    size = server._secure._sum._config.length
    for body in (b"1234", np.full(size, 2**40, np.int64).tobytes()):
        said = seal(Kind.OPENED, body, context=context, sender="north", key=key)
        with pytest.raises(UpdateRefused, match="malformed"):
            server.receive(replace(answer, arrays=message_arrays(message=said)).to_bytes(), sender="north")
    carry(server, sites)
    assert server.round == 1


def test_a_damaged_ciphertext_is_refused_and_the_round_goes_on(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "input")
    answer = SecureAnswer.from_bytes(sites["east"].respond(server.request()))
    context, key = server._secure._sum._context, encrypted.members("sites/east").key
    said = seal(Kind.INPUT, b"SHE1 and nothing else", context=context, sender="east", key=key)
    with pytest.raises(UpdateRefused, match="malformed"):
        server.receive(replace(answer, arrays=message_arrays(message=said)).to_bytes(), sender="east")
    assert "east" in server.waiting_for
    carry(server, sites)
    carry(server, sites)
    assert server._journal.entries[-1].body["sites"] == sorted(sites)


def test_a_key_holder_whose_key_is_damaged_says_so(encrypted):
    server, sites = encrypted.server(), encrypted.sites()
    carry_to(server, sites, "open")
    (encrypted.folder / "sites/north" / SECRET_KEY).write_bytes(b"no key")
    with pytest.raises(EncryptionError, match="not one of this scheme"):
        encrypted.site("north").respond(server.request())
    assert (encrypted.folder / "sites/north" / PUBLIC_KEY).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upload": UploadChoice(key_holder="nobody")}, "upload.key_holder: expected one of east"),
        ({"upload": UploadChoice(key_holder="east", secure=True)}, "mask and encrypt"),
        ({"upload": UploadChoice(key_holder="east", bits=4)}, "quantize by group"),
        ({"upload": UploadChoice(key_holder="east", top_k=0.1)}, "every site would keep other positions"),
        ({"cohort": 3}, "cohort: north opens the sum of every round"),
        ({"quorum": 2}, "a sum of two shows each the other"),
        ({"sites": ("north", "south")}, "upload.key_holder: expected 3 to 256 sites"),
        ({"privacy": PrivacyChoice()}, "privacy.clip_norm: upload.key_holder needs a bound"),
        ({"aggregation": AggregationChoice()}, "aggregation.max_examples: upload.key_holder needs a bound"),
        ({"aggregation": AggregationChoice(method="trimmed_mean", trim=0.3)}, "trimmed_mean"),
        ({"privacy": PrivacyChoice(clip_norm=1, noise_multiplier=1, epsilon=9)}, "noise at the server"),
    ],
)
def test_a_job_that_cannot_be_encrypted_is_refused_before_it_begins(settings, message):
    names = ("east", "north", "south", "west")
    with pytest.raises(RecipeError, match=message):
        FederatedJob(**{"name": "job", "task": "simulated", "sites": names, **ENCRYPTED, **settings})


def test_who_is_not_a_member_takes_no_part(encrypted):
    encrypted.sites()
    with pytest.raises(FederationError, match=r"upload\.key_holder needs the keys"):
        encrypted.server("alone", members=None).request()
    with pytest.raises(SmallholdError):
        replace(encrypted.job, sites=("east", "north"))


def ciphertext_of(path, site):
    """What a site encrypted, out of its message: magic, kind, tag, name, then the body, then the signature."""
    return SecureAnswer.from_bytes(path.read_bytes()).said()[14 + len(site) : -64]
