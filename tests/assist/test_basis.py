"""What stands behind a decision is read from what decided, and from nothing else."""

import json

import pytest

from smallhold.assist.basis import decision_basis
from smallhold.assist.policy import load_profile
from smallhold.assist.step import Step
from smallhold.assist.ward import recorded_ward
from smallhold.decide.local import open_bundle
from smallhold.errors import InputError
from smallhold.records import Provenance, sha256_hex
from smallhold.sectors.hospital.stays import observations

from .small_ward import EU, HOUR_MS, make_bed, reading

PROVENANCE = Provenance(trace_id="0" * 32, clock="stay", simulated=True)


@pytest.fixture(scope="module")
def bundle(flow):
    return open_bundle(flow.bundle, trusted_keys=flow.home / "trust")


def steps_of(flow, bundle):
    stay = flow.stays[0]
    bed = recorded_ward({stay.record_id: stay}, bundle.task("icu-risk"), EU, deadline_seconds=10.0)("r", stay.record_id)
    steps = [bed.observe(o, o.t_received_ms) for o in observations(stay, PROVENANCE) if o.t_received_ms <= HOUR_MS]
    return [*steps, bed.close_bin(HOUR_MS)]


def test_a_floor_s_alarm_names_its_score_and_every_clause_with_source_and_status():
    bed = make_bed("p")
    step = next(
        s
        for event in (reading("RespRate", 26, 3), reading("SysABP", 88, 3), reading("HR", 115, 4))
        if (s := bed.observe(event, event.t_received_ms)).announced and s.announced[0].priority.value == "high"
    )
    basis = decision_basis(step, EU)
    assert basis["scores"][0]["total"] == 8 and basis["scores"][0]["parts"]["systolic"] == 3
    assert basis["model"] is None and basis["data_sheet"]["training_data"] is None
    floor = next(item for item in basis["policy"]["verdicts"] if item["source"] == "floor")
    assert (floor["action"], floor["effect"], floor["priority"]) == ("A1", "auto", "high")
    listed = {clause["id"]: clause for clause in basis["policy"]["clauses"]}
    assert set(listed) == {clause for verdict in step.verdicts for clause in verdict.clauses}
    for name, clause in listed.items():
        assert clause["source"] == EU.clauses[name].source and clause["actions"] == ["A1"]
        assert clause["status"] == ("draft" if EU.clauses[name].is_draft else "read")
    assert basis["policy"]["profile"]["extends"] == ["base-clinical"]
    assert json.loads(json.dumps(basis)) == basis


def test_a_model_s_answer_comes_with_its_card_its_figures_and_its_data(flow, bundle):
    step = Step.from_payload(steps_of(flow, bundle)[-1].to_payload())  # as the journal gives it back
    basis = decision_basis(step, EU, bundle)
    model, field = basis["model"], bundle.task("icu-risk").task.fields[0]
    assert model["digest"] == bundle.manifest.digest == basis["decision"]["bundle"]
    assert sha256_hex(model["card"]["text"].encode()) == model["card"]["sha256"]
    assert model["key_figures"]["alert_threshold"] == field.alert_threshold
    assert model["key_figures"]["promised_error"] == field.conformal.alpha
    assert basis["answer"]["probabilities"] == step.risk.probabilities and basis["answer"]["error"] is None
    names = [item["data_set"] for item in basis["data_sheet"]["training_data"]]
    assert names == list(bundle.manifest.training_data)
    assert basis["data_sheet"]["window"]["observations"] == list(step.window.observations)
    assert basis["decision"]["is_simulated"] is True


def test_another_profile_or_bundle_than_the_one_in_force_is_refused(flow, bundle):
    step = steps_of(flow, bundle)[-1]
    with pytest.raises(InputError, match=r"basis: the step was judged under profile .*, this is base-clinical"):
        decision_basis(step, load_profile("base-clinical"), bundle)
    floor_alone = make_bed("p").close_bin(HOUR_MS)  # names a bundle that is not this one
    with pytest.raises(InputError, match="basis: the step names bundle bbbbbbbbbbbb, this is"):
        decision_basis(floor_alone, EU, bundle)
