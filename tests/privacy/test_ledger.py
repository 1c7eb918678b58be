"""The ledger: what it costs, checked against two other accountants; and attempts to spend unseen."""

import json
import math
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.errors import BudgetExceeded, InputError, LedgerError, MissingExtraError
from smallhold.privacy.accountant import Charge, compose_epsilon, fit_noise_multiplier
from smallhold.privacy.ledger import Budget, Head, begin_ledger, check_spends, read_ledger, spend_budget
from smallhold.privacy.ledger_file import Ledger

pytest.importorskip("dp_accounting", reason="privacy accounting: pip install 'smallhold[dp]'")

KEY = Ed25519PrivateKey.generate()
BUDGETS = {"record": Budget(3.0, 1e-5), "site": Budget(20.0, 1e-3)}
ROUND = {"record": Charge(noise_multiplier=4.0), "site": Charge(noise_multiplier=1.0)}


# What it costs


def test_one_gaussian_release_agrees_with_its_closed_form():
    """Balle, Wang 2018, theorem 8: delta = Phi(1/2s - eps s) - e^eps Phi(-1/2s - eps s)."""

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    for noise in (0.7, 1.0, 5.0):
        epsilon = compose_epsilon([Charge(noise_multiplier=noise)], delta=1e-5)
        delta = phi(0.5 / noise - epsilon * noise) - math.exp(epsilon) * phi(-0.5 / noise - epsilon * noise)
        assert 0.98e-5 < delta <= 1e-5 * (1 + 1e-6)


def test_releases_compose_as_one_with_less_noise():
    """Gaussian releases are together one Gaussian release of noise z / sqrt(k): exact, in any order and grouping."""
    one = compose_epsilon([Charge(noise_multiplier=2.0)], delta=1e-6)
    four = compose_epsilon([Charge(noise_multiplier=4.0)] * 4, delta=1e-6)
    grouped = compose_epsilon([Charge(noise_multiplier=4.0, steps=3), Charge(noise_multiplier=4.0)], delta=1e-6)
    assert math.isclose(one, four, rel_tol=2e-3)
    assert four == grouped


@pytest.mark.parametrize(("epsilon", "noise"), [(1, 0.884), (2, 0.723), (4, 0.591), (8, 0.479)])
def test_subsampled_training_agrees_with_opacus(epsilon, noise):
    """Noise multipliers that Opacus' PRV accountant gave for q = 256/50000, 600 steps, delta 1e-5."""
    charge = Charge(noise_multiplier=noise, sampling_rate=256 / 50_000, steps=600)
    assert abs(compose_epsilon([charge], delta=1e-5) / epsilon - 1) < 0.02


def test_a_short_training_agrees_with_opacus_prv_itself():
    pytest.importorskip("opacus", reason="a second accountant: pip install 'smallhold[dp]'")
    from opacus.accountants import PRVAccountant

    prv = PRVAccountant()
    for noise, rate, steps in ((1.1, 0.02, 100), (0.8, 0.05, 20)):
        prv.history.append((noise, rate, steps))
    theirs = prv.get_epsilon(delta=1e-5)
    ours = compose_epsilon(
        [
            Charge(noise_multiplier=1.1, sampling_rate=0.02, steps=100),
            Charge(noise_multiplier=0.8, sampling_rate=0.05, steps=20),
        ],
        delta=1e-5,
    )
    assert abs(ours / theirs - 1) < 0.02


def test_sampling_amplifies_and_concentrated_charges_cost_a_little_more():
    plain = compose_epsilon([Charge(noise_multiplier=1.0, steps=10)], delta=1e-5)
    sampled = compose_epsilon([Charge(noise_multiplier=1.0, steps=10, sampling_rate=0.1)], delta=1e-5)
    concentrated = compose_epsilon([Charge(noise_multiplier=1.0, steps=10, mechanism="concentrated")], delta=1e-5)
    assert sampled < plain / 4
    assert plain < concentrated < 1.2 * plain


def test_almost_no_noise_costs_a_finite_and_useless_epsilon_at_once():
    assert 1000 < compose_epsilon([Charge(noise_multiplier=0.01, sampling_rate=0.01)], delta=1e-5) < math.inf


def test_the_fitted_noise_is_the_least():
    noise = fit_noise_multiplier(2.0, delta=1e-5, steps=10)
    assert compose_epsilon([Charge(noise_multiplier=noise, steps=10)], delta=1e-5) <= 2.0
    assert compose_epsilon([Charge(noise_multiplier=noise - 0.001, steps=10)], delta=1e-5) > 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier: expected a finite number above 0, got 0.0"),
        ({"sampling_rate": 0.0}, "sampling_rate: expected a finite number above 0"),
        ({"sampling_rate": 1.5}, "sampling_rate: expected a probability above 0, at most 1, got 1.5"),
        ({"steps": 0}, "steps: expected a whole number at least 1, got 0"),
        ({"mechanism": "laplace"}, "mechanism: expected one of gaussian, concentrated"),
        ({"mechanism": "concentrated", "sampling_rate": 0.5}, "for a concentrated charge it must be 1"),
    ],
)
def test_charges_without_meaning_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Charge(**{"noise_multiplier": 1.0, **changes})


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtraError) as caught:
        compose_epsilon([Charge(noise_multiplier=1.0)], delta=1e-5)
    assert caught.value.hint == "pip install 'smallhold[dp]'"


# Spending


def spent_ledger(rounds):
    state = begin_ledger(BUDGETS, key=KEY, t_ms=0)
    for number in range(rounds):
        state = spend_budget(state, f"round {number}", ROUND, key=KEY, t_ms=number + 1)
    return state


def as_file(lines):
    return b"".join(line + b"\n" for line in lines)


def reading(data, **options):
    return read_ledger(data, public_key=KEY.public_key(), **options)


def test_the_round_that_exceeds_is_refused_before_it_happens():
    state, refused = begin_ledger(BUDGETS, key=KEY, t_ms=0), None
    for number in range(100):
        try:
            state = spend_budget(state, f"round {number}", ROUND, key=KEY, t_ms=0)
        except BudgetExceeded as error:
            refused = (number, str(error))
            break
    assert refused is not None
    number, message = refused
    assert f"release 'round {number}' would bring the record-level epsilon from" in message
    assert "granted are 3 at delta 1e-05; nothing was spent" in message
    assert state.spent("record") <= 3.0
    assert len(state.spends) == number
    more = compose_epsilon([ROUND["record"]] * (number + 1), delta=1e-5)
    assert more > 3.0  # and one round fewer would have been too cautious
    check_spends(state)


def test_a_ledger_comes_back_from_its_bytes():
    state = spent_ledger(3)
    again = reading(as_file(state.lines), at_least=state.head)
    assert again == state
    assert again.find("round 1").charges == ROUND
    assert again.find("round 9") is None
    check_spends(again)


def test_a_release_is_paid_once_and_covers_every_unit():
    state = spent_ledger(1)
    with pytest.raises(LedgerError, match="release 'round 0' was paid for already"):
        spend_budget(state, "round 0", ROUND, key=KEY, t_ms=0)
    with pytest.raises(InputError, match=r"one for each unit with a budget \(record, site\), got record"):
        spend_budget(state, "round 1", {"record": ROUND["record"]}, key=KEY, t_ms=0)
    with pytest.raises(InputError, match="budgets: expected some of record, patient, site, got user"):
        begin_ledger({"user": Budget(1.0, 1e-5)}, key=KEY, t_ms=0)


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_changed_line_is_found(line):
    lines = list(spent_ledger(2).lines)
    value = json.loads(lines[line])
    if line == 0:
        value["entry"]["budgets"]["record"]["epsilon"] = 300.0
    else:
        value["entry"]["epsilon"]["record"] = 0.1
    lines[line] = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(LedgerError, match=f"line {line + 1} is altered"):
        reading(as_file(lines))


def test_a_removed_swapped_or_repeated_line_is_found():
    lines = spent_ledger(3).lines
    for wrong in (
        [lines[0], *lines[2:]],
        [lines[0], lines[2], lines[1], lines[3]],
        [*lines[:2], lines[1], *lines[2:]],
        [*lines[1:]],
    ):
        with pytest.raises(LedgerError, match=r"does not follow the line before|malformed"):
            reading(as_file(wrong))


def test_a_cut_ledger_is_found_by_a_head_kept_elsewhere():
    state = spent_ledger(3)
    short = reading(as_file(state.lines[:-1]))  # by itself it is in order: nothing inside can tell
    assert len(short.spends) == 2
    with pytest.raises(LedgerError, match="no longer holds line 4, which it held before"):
        reading(as_file(state.lines[:-1]), at_least=state.head)
    with pytest.raises(LedgerError, match="no longer holds line 1"):
        reading(as_file(begin_ledger(BUDGETS, key=KEY, t_ms=5).lines), at_least=Head(0, "0" * 64))


def test_a_ledger_of_another_key_is_refused():
    other = Ed25519PrivateKey.generate()
    with pytest.raises(LedgerError, match="signed by another key"):
        reading(as_file(begin_ledger(BUDGETS, key=other, t_ms=0).lines))


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"entry":{},"signature":""}'])
def test_what_is_no_ledger_is_refused(data):
    with pytest.raises(LedgerError, match="privacy ledger"):
        reading(data)


def test_a_site_that_signs_a_wrong_sum_is_found(monkeypatch):
    """The site has the key, so signatures are right; the sum is computed anew."""
    monkeypatch.setattr("smallhold.privacy.ledger.compose_epsilon", lambda charges, delta: 0.01)
    state = spent_ledger(2)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=r"it says 0.01 for record, its charges cost"):
        check_spends(reading(as_file(state.lines)))


# On the disk


def test_a_ledger_file_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, key=KEY, budgets=BUDGETS, clock=lambda: 7) as ledger:
        first = ledger.spend("round 0", ROUND)
        head = ledger.head
        assert reading(path.read_bytes()).head == head  # on the disk before spend returns
    with Ledger(path, key=KEY, at_least=head) as ledger:
        second = ledger.spend("round 1", ROUND)
        assert second["record"] > first["record"]
        assert ledger.find("round 0").t_ms == 7
    with pytest.raises(LedgerError, match="is closed"):
        ledger.spend("round 2", ROUND)


def test_a_ledger_that_is_gone_is_not_begun_anew(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(LedgerError, match="is gone or was never begun"):
        Ledger(path, key=KEY)
    with Ledger(path, key=KEY, budgets=BUDGETS) as ledger:
        head = ledger.head
    path.unlink()
    with pytest.raises(LedgerError, match="is gone or was never begun"):
        Ledger(path, key=KEY, budgets=BUDGETS, at_least=head)


def test_a_larger_budget_is_not_slipped_in(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path, key=KEY, budgets=BUDGETS).close()
    with pytest.raises(LedgerError, match="a budget is granted once"):
        Ledger(path, key=KEY, budgets={**BUDGETS, "record": Budget(30.0, 1e-5)})


def test_two_writers_cannot_spend_the_same_money(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, key=KEY, budgets=BUDGETS), pytest.raises(LedgerError, match="is open in another process"):
        Ledger(path, key=KEY)


def test_a_full_disk_spends_nothing_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, key=KEY, budgets=BUDGETS) as ledger:

        def full(*_args, **_options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("smallhold.privacy.ledger_file.write_durably", full)
        with pytest.raises(LedgerError, match="No space left on device; nothing was spent"):
            ledger.spend("round 0", ROUND)
        monkeypatch.undo()
        assert ledger.find("round 0") is None
        ledger.spend("round 0", ROUND)


def test_epsilon_grows_and_never_goes_back():
    epsilons = [spend.epsilon["record"] for spend in spent_ledger(5).spends]
    assert (np.diff(epsilons) > 0).all()


def test_rdp_orders_that_do_not_converge_are_not_told_line_after_line(caplog, capfd):
    charge = Charge(noise_multiplier=1.994, sampling_rate=0.178273, steps=60)
    assert 0 < compose_epsilon([charge], delta=1e-5) < 10
    assert "Excluding this order" not in caplog.text + capfd.readouterr().err
