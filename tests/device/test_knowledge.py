"""A knowledge pack on a device: nothing is believed before it is proven, and what it says names its source."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from smallhold.device.envelope import key_id, sign_payload
from smallhold.device.knowledge import PAYLOAD_TYPE, Dimension, KnowledgePack
from smallhold.device.trust import generate_private_key
from smallhold.errors import ExpiredError, InputError, IntegrityError, SignatureError
from smallhold.records import canonical_json

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = generate_private_key()
TRUSTED = {key_id(KEY.public_key()): KEY.public_key()}
PACK = KnowledgePack(
    name="counts",
    data="some data, train",
    created="2026-01-01T00:00:00Z",
    valid_until="2027-01-01T00:00:00Z",
    dimensions=(
        Dimension(name="condition", categories=("sepsis", "stroke", "burn")),
        Dimension(name="outcome", categories=("alive", "died")),
    ),
    counts=(190, 23, 40, None, None, None),
    stddev=6.0,
    min_cohort=10,
    max_cells=4,
    sites=4,
    noise="sites",
    epsilon=1.39,
    delta=1e-5,
    job="a" * 64,
    receipt="b" * 64,
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pack.json"
    path.write_bytes(PACK.sign(KEY))
    return path


def test_what_was_signed_is_what_is_read(path):
    assert KnowledgePack.open(path, TRUSTED, now=NOW) == PACK


def test_cells_are_found_by_their_categories():
    finding = PACK.look_up({"condition": "sepsis"})
    assert [(cell.where, cell.count) for cell in finding.cells] == [
        ({"condition": "sepsis", "outcome": "alive"}, 190),
        ({"condition": "sepsis", "outcome": "died"}, 23),
    ]
    assert finding.total == 213 and finding.stddev == pytest.approx(6.0 * 2**0.5)
    assert finding.interval(23) == (11, 35) and finding.interval(10) == (0, 22)  # 1.96 * 6 = 11.8
    assert [cell.count for cell in PACK.look_up({"outcome": "alive"}).cells] == [190, 40, None]
    assert len(PACK.look_up({}).cells) == 6


def test_a_citation_names_counts_noise_pack_and_privacy():
    cited = PACK.look_up({"condition": "sepsis"}).citation()
    assert cited.startswith(
        "condition sepsis, at 4 sites: alive 190 ± 6.0, died 23 ± 6.0 persons, summed 213 ± 8.5; knowledge pack counts"
    )
    assert PACK.digest in cited and "epsilon 1.39 at delta 1e-05" in cited
    one = PACK.look_up({"outcome": "died", "condition": "sepsis"}).citation()
    assert one.startswith("condition sepsis, outcome died, at 4 sites: 23 ± 6.0 persons; ")


def test_what_is_withheld_is_neither_told_nor_summed():
    finding = PACK.look_up({"condition": "stroke"})
    assert finding.total is None
    assert "at 4 sites: alive 40 ± 6.0, 1 withheld; " in finding.citation()
    assert "at 4 sites: 2 withheld; " in PACK.look_up({"condition": "burn"}).citation()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"organ": "heart"}, "counts: no dimension 'organ'; expected one of condition, outcome"),
        ({"outcome": "unknown"}, "counts: no outcome 'unknown'; expected one of alive, died"),
    ],
)
def test_an_unknown_question_is_refused_by_name(where, message):
    with pytest.raises(InputError, match=message):
        PACK.look_up(where)


def test_a_pack_of_a_stranger_is_refused(path):
    stranger = generate_private_key().public_key()
    with pytest.raises(SignatureError, match="signed by nobody this device trusts"):
        KnowledgePack.open(path, {key_id(stranger): stranger}, now=NOW)


@pytest.mark.parametrize("where", ["payload", "sig"])
def test_an_altered_pack_is_refused(path, where):
    data = path.read_bytes()
    place = data.index(f'"{where}":"'.encode()) + len(where) + 40
    path.write_bytes(data[:place] + (b"A" if data[place : place + 1] != b"A" else b"B") + data[place + 1 :])
    with pytest.raises(SignatureError, match=r"does not match|not a signed envelope"):
        KnowledgePack.open(path, TRUSTED, now=NOW)


def test_another_count_under_the_same_signature_is_refused(path):
    other = replace(PACK, counts=(190, 99, 40, None, None, None))
    forged = path.read_bytes().replace(*(_payload(pack.sign(KEY)) for pack in (PACK, other)))
    assert forged != path.read_bytes()
    path.write_bytes(forged)
    with pytest.raises(SignatureError, match="does not match the knowledge pack"):
        KnowledgePack.open(path, TRUSTED, now=NOW)


def _payload(envelope: bytes) -> bytes:
    return envelope.split(b'"payload":"')[1].split(b'"')[0]


def test_a_pack_is_refused_from_the_moment_it_names(path):
    KnowledgePack.open(path, TRUSTED, now=datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    with pytest.raises(ExpiredError, match="valid until 2027-01-01T00:00:00Z"):
        KnowledgePack.open(path, TRUSTED, now=datetime(2027, 1, 1, tzinfo=UTC))
    with pytest.raises(InputError, match="a time with its zone"):
        KnowledgePack.open(path, TRUSTED, now=datetime(2026, 6, 1))


def test_a_file_that_is_not_there_is_said_to_be(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        KnowledgePack.open(tmp_path / "none.json", TRUSTED, now=NOW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "smallhold.knowledge/2"}, "expected the schema smallhold.knowledge/1"),
        ({"extra": 1}, "expected the members"),
        ({"counts": [9, 23, 40, None, None, None]}, "none below the minimum cohort of 10"),
        ({"counts": [19.5, 23, 40, None, None, None]}, "expected whole numbers"),
        ({"counts": [190]}, "counts: expected 6, got 1"),
        ({"valid_until": "2025-01-01T00:00:00Z"}, "valid_until: expected a time after"),
        ({"valid_until": "tomorrow"}, "valid_until: expected a time such as"),
        ({"epsilon": 0}, "epsilon: expected a number above 0, got 0"),
        ({"stddev": "6"}, "stddev: expected a number"),
        ({"noise": "none"}, "noise: expected server or sites"),
        ({"receipt": "b"}, "receipt: expected a SHA-256"),
        ({"sites": True}, "sites: expected 1 or more"),
        ({"dimensions": [{"name": "a b", "categories": ["c"]}]}, "expected lower-case letters"),
        ({"dimensions": [{"name": "a", "categories": ["c", "c"]}]}, "expected categories, each once"),
        ({"dimensions": 3}, "not a knowledge pack of this version"),
    ],
)
def test_a_signed_file_that_is_no_pack_is_refused(tmp_path, changes, message):
    import json

    path = tmp_path / "pack.json"
    members = json.loads(PACK.to_bytes()) | changes
    path.write_bytes(sign_payload(canonical_json(members), PAYLOAD_TYPE, KEY))
    with pytest.raises(IntegrityError, match=message):
        KnowledgePack.open(path, TRUSTED, now=NOW)
