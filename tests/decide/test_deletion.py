"""Evidence verified by deletion: the whole record without what is cited, and with nothing else."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from smallhold.decide.deletion import LEAST_EFFECT, MOST_CITED, Trial, explain
from smallhold.decide.local import open_bundle
from smallhold.decide.plan import Field
from smallhold.decide.signal import CHANNELS
from smallhold.errors import DecisionError, RecipeError
from smallhold.records import Provenance
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.stays import observations

FIELD = "in_hospital_death"
PROVENANCE = Provenance(trace_id="0" * 32, clock="stay", simulated=True)


@pytest.fixture(scope="module")
def local(flow):
    return open_bundle(flow.bundle, trusted_keys=flow.home / "trust").task("icu-risk")


def play(local, stay, hours, leave_out=()):
    """A session that never got the readings of some parameters."""
    session, hour = local.session(static_features(stay)), 1
    for reading in observations(stay, PROVENANCE):
        while reading.t_received_ms > hour * 3_600_000 and hour <= hours:
            session.close_bin()
            hour += 1
        if hour > hours:
            return session
        if reading.code not in leave_out:
            session.observe(reading.code, reading.value)
    for _ in range(hour, hours + 1):
        session.close_bin()
    return session


@pytest.mark.parametrize(("index", "hours"), [(0, 1), (1, 7), (2, 20)])
def test_zeroed_channels_are_a_session_played_again_without_the_readings(flow, local, index, hours):
    stay = flow.stays[index]
    session = play(local, stay, hours)
    found = explain(session, FIELD)
    assert session.trial(FIELD).margin == pytest.approx(session.trial(FIELD, session.channels()).margin, abs=1e-3)
    parameters = set(local.task.signal.parameters)
    without = play(local, stay, hours, leave_out=set(found.cited)).trial(FIELD)
    alone = play(local, stay, hours, leave_out=parameters - set(found.cited)).trial(FIELD)
    assert (found.without.margin, found.alone.margin) == pytest.approx((without.margin, alone.margin), abs=1e-3)
    assert found.whole == session.trial(FIELD) and found.passes >= 2


def test_the_probability_of_a_trial_is_that_of_the_decision(flow, local):
    session = play(local, flow.stays[3], 5)
    assert session.trial(FIELD).probability == session.decide().answers[FIELD].probabilities["yes"]


def test_it_refuses_before_the_first_bin_and_an_unknown_field(flow, local):
    session = local.session(static_features(flow.stays[0]))
    with pytest.raises(DecisionError, match="close a bin before asking for effects"):
        explain(session, FIELD)
    session.close_bin()
    with pytest.raises(RecipeError):
        explain(session, "fever")


@dataclass
class Additive:
    """A model one can compute in the head: the margin is the base and what each parameter in the record adds."""

    adds: dict[str, float]
    shown: dict[str, float]  # what clearing the newest bin alone would show
    base: float = -2.0

    @property
    def task(self):
        field = Field(name="f", choices=("no", "yes"), positive="yes", alert_threshold=0.5)
        return SimpleNamespace(signal=SimpleNamespace(parameters=tuple(self.adds)), field=lambda _: field)

    def effects(self, _field):
        return dict(self.shown)

    def channels(self):
        return np.ones((3, len(self.adds) * len(CHANNELS)), np.float32)

    def trial(self, _field, channels=None):
        kept = (self.channels() if channels is None else channels)[:, :: len(CHANNELS)]
        assert set(np.ptp(kept, axis=0)) == {0.0}  # a parameter is cleared from every bin or from none
        margin = self.base + float(kept[-1] @ np.array(list(self.adds.values())))
        return Trial(margin, 1 / (1 + np.exp(-margin)))


def test_what_carries_an_alert_is_cited_and_verified_by_hand():
    adds = {"a": 2.0, "b": 1.0, "c": 0.01, "d": -0.5}
    found = explain(Additive(adds, adds), "f")
    assert list(found.cited) == ["a", "b"]  # c is not worth a line, d speaks against
    assert (found.whole.margin, found.without.margin, found.alone.margin) == pytest.approx((0.51, -2.49, 1.0))
    assert found.is_alert and found.is_necessary and found.is_sufficient and found.is_verified
    assert found.passes == 2


def test_an_alert_that_many_small_things_carry_is_not_verified():
    adds = dict.fromkeys("abcdefghi", 0.25)
    found = explain(Additive(adds, adds), "f")
    assert len(found.cited) == MOST_CITED and found.is_alert and found.is_necessary
    assert not found.is_sufficient and not found.is_verified  # four of them alone call nobody


def test_what_counts_over_the_whole_record_is_found_although_the_newest_bin_hides_it():
    adds = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1, "e": 1.9, "f": 0.2}
    shown = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5, "f": 0.4}
    found = explain(Additive(adds, shown), "f")
    assert found.is_verified and "e" in found.cited
    assert list(found.cited.values()) == sorted(found.cited.values(), reverse=True)
    assert found.passes == 2 + 6 + 2


def test_the_weakest_is_exchanged_when_ranking_again_does_not_help():
    class Interacting(Additive):
        """Only together do a and i call anybody; nobody misses i alone."""

        def trial(self, field, channels=None):
            plain = super().trial(field, channels)
            kept = (self.channels() if channels is None else channels)[-1, :: len(CHANNELS)]
            if kept.all():
                return Trial(0.1, 0.52)
            margin = plain.margin + (3.0 if kept[0] and kept[8] and kept.sum() == 4 else 0.0)
            return Trial(margin, 1 / (1 + np.exp(-margin)))

    shown = {name: 0.9 - 0.1 * at for at, name in enumerate("abcdefgh")} | {"i": 0.05}
    found = explain(Interacting(dict.fromkeys(shown, 0.05), shown), "f")
    assert found.is_verified and list(found.cited) == ["a", "b", "c", "i"]
    assert found.passes == 2 + 8 + 2 + 5 + 1


def test_without_anything_measured_nothing_is_cited_and_nothing_verified():
    found = explain(Additive({"a": 0.0}, {}, base=1.0), "f")
    assert found.is_alert and not found.cited and not found.is_verified


@pytest.mark.parametrize("fall", [LEAST_EFFECT / 2, LEAST_EFFECT * 2])
def test_a_margin_that_hardly_falls_is_no_necessity(fall):
    found = explain(Additive({"a": fall}, {"a": 1.0}, base=1.0), "f")
    assert found.is_necessary == (fall > LEAST_EFFECT) and found.is_sufficient
