"""An update inside the plan is installed; one that asks something else, or does worse for somebody, is not."""

import json

import numpy as np
import pytest

from smallhold.decide.local import open_bundle
from smallhold.device.gguf import read_gguf
from smallhold.device.home import Home
from smallhold.device.install import active_bundle
from smallhold.device.manifest import Manifest
from smallhold.errors import PolicyError, RecipeError
from smallhold.evaluate.change_plan import _figures, _probabilities, check_change, read_change_plan
from smallhold.records import canonical_json

SEXES = {"F": "women", "M": "men", None: "sex unknown"}
HEAD = """
format = 1
name = "ward 3"
version = "1.0.0"
note = "decided by the ward's board"
may_change = ["alert_threshold", "calibration"]

[data]
folder = "{folder}"
split = "all"
"""
CHECK = """
[[check]]
task = "icu-risk"
hours = 24
metric = "{metric}"
{bounds}
"""


def write_plan(path, flow, *checks, may_change=None):
    """(metric, bounds) each."""
    text = HEAD.format(folder=flow.data)
    if may_change is not None:
        text = text.replace('["alert_threshold", "calibration"]', json.dumps(may_change))
    for metric, bounds in checks or [("sensitivity", "most_fall = 0.1")]:
        text += CHECK.format(metric=metric, bounds=bounds)
    path.write_text(text)
    return read_change_plan(path)


@pytest.fixture
def update(resigned):
    """A later version of the bundle with some files replaced, signed by the publisher whom the device trusts."""
    return lambda files=None, *, version="9.0.0", **changes: resigned(
        f"update-{version}", files=files, version=version, **changes
    )


def task_file(flow, **changes):
    """The task with members of its one field changed."""
    task = json.loads((flow.bundle / "tasks/icu-risk.json").read_bytes())
    task["fields"][0].update(changes)
    return {"tasks/icu-risk.json": canonical_json(task)}


def worse_weights(flow):
    """Weights of the encoder drawn anew: a model that has learnt nothing."""
    from smallhold.bundle.gguf import write_gguf

    name = "gguf/icu-risk.encoder.gguf"
    file = read_gguf((flow.bundle / name).read_bytes())
    rng = np.random.default_rng(0)
    drawn = {
        key: (rng.normal(size=tensor.shape) * max(float(np.std(tensor)), 1e-3)).astype(np.float32)
        for key, tensor in file.tensors.items()
    }
    return {name: write_gguf(dict(file.metadata), drawn)}


def test_an_update_that_keeps_what_the_plan_asks_is_let_through_and_told(flow, tmp_path, update):
    plan = write_plan(tmp_path / "plan.toml", flow, ("sensitivity", "most_fall = 0.1"), ("auroc", "most_fall = 0.02"))
    held = check_change(plan, update(), flow.bundle)
    assert len(held) == 2 and held[0].startswith("icu-risk sensitivity at 24 h, everybody: ")
    assert check_change(plan, flow.bundle, None)  # a first install has nothing to be held against


def test_a_worse_model_is_refused_with_the_figures(flow, tmp_path, update):
    local = open_bundle(flow.bundle, unsafe_skip_verification=True)
    plan = write_plan(tmp_path / "plan.toml", flow, ("auroc", "most_fall = 0.02"))
    before = _figures(local, plan.checks[0], flow.stays, {})["everybody"]
    with pytest.raises(PolicyError, match=rf"icu-risk auroc at 24 h, everybody: 0\.\d+, was {before:.3f}, may fall by"):
        check_change(plan, update(worse_weights(flow)), flow.bundle)


def test_a_bound_of_its_own_holds_at_the_first_install_too(flow, tmp_path):
    plan = write_plan(tmp_path / "plan.toml", flow, ("alert_rate", "at_most = 0.0"), ("auroc", "at_least = 1.0"))
    with pytest.raises(PolicyError, match="expected at most 0") as refused:
        check_change(plan, flow.bundle, None)
    assert "expected at least 1" in str(refused.value)  # everything that is wrong, at once


def test_another_question_other_choices_and_other_inputs_are_outside_whatever_the_figures(flow, tmp_path, update):
    plan = write_plan(tmp_path / "plan.toml", flow)
    with pytest.raises(PolicyError, match=r"is outside the change plan ward 3 1.0.0: choices: of task icu-risk"):
        check_change(plan, update(task_file(flow, positive="no")), flow.bundle)
    task = json.loads((flow.bundle / "tasks/icu-risk.json").read_bytes())
    asked = {"tasks/icu-risk.json": canonical_json(task | {"question": "Will this patient leave tomorrow?"})}
    with pytest.raises(PolicyError, match="question: of task icu-risk"):
        check_change(plan, update(asked, version="9.0.1"), flow.bundle)
    with pytest.raises(PolicyError, match=r"training_data: \['elsewhere'\]"):
        manifest = Manifest.from_bytes((flow.bundle / "manifest.json").read_bytes())
        more = (*manifest.training_data, "elsewhere")
        check_change(plan, update(version="9.0.2", training_data=more), flow.bundle)


def test_a_threshold_may_move_only_where_the_plan_says_so(flow, tmp_path, update):
    moved = update(task_file(flow, alert_threshold=0.999))
    strict = write_plan(tmp_path / "strict.toml", flow, may_change=[])
    with pytest.raises(PolicyError, match="alert_threshold: of task icu-risk"):
        check_change(strict, moved, flow.bundle)
    lenient = write_plan(tmp_path / "lenient.toml", flow, ("specificity", "at_least = 0.5"))
    assert check_change(lenient, moved, flow.bundle)


def test_lower_sensitivity_in_one_subgroup_is_refused_although_all_together_are_within_bounds(flow, tmp_path, update):
    plan = write_plan(tmp_path / "plan.toml", flow, ("sensitivity", 'most_fall = 0.4\nsubgroups = ["sex"]'))
    bundle = open_bundle(flow.bundle, unsafe_skip_verification=True)
    local = bundle.task("icu-risk")
    lowest = update(task_file(flow, alert_threshold=0.0001))
    groups = set(_figures(bundle, plan.checks[0], flow.stays, {})) - {"everybody"}
    if not groups:
        pytest.skip("the simulated ward has no sex with ten of either outcome")
    # The threshold at which everybody falls by at most, and one group by more than, some bound between the two.
    died = [stay for stay in flow.stays if stay.died]
    probability = _probabilities(local, died, 24)
    falls = {}
    for threshold in np.unique(probability):
        called = probability >= threshold + 1e-9
        sex = {name: np.array([f"sex {SEXES[stay.sex]}" == name for stay in died]) for name in groups}
        falls[float(threshold)] = (1 - called.mean(), max(1 - called[member].mean() for member in sex.values()))
    threshold, (everybody, worst) = max(falls.items(), key=lambda item: item[1][1] - item[1][0])
    if worst - everybody < 0.02:
        pytest.skip("the groups of this ward fall together")
    bound = (everybody + worst) / 2
    plan = write_plan(tmp_path / "plan.toml", flow, ("sensitivity", f'most_fall = {bound}\nsubgroups = ["sex"]'))
    raised = update(task_file(flow, alert_threshold=round(threshold + 1e-6, 7)), version="9.0.5")
    with pytest.raises(PolicyError, match=r"icu-risk sensitivity at 24 h, sex \w+: .* may fall by") as refused:
        check_change(plan, raised, lowest)
    assert "everybody" not in str(refused.value)
    whole = write_plan(tmp_path / "whole.toml", flow, ("sensitivity", f"most_fall = {bound}"))
    assert check_change(whole, raised, lowest)


def test_install_refuses_what_is_outside_the_plan_and_the_old_bundle_goes_on(flow, home, smallhold, update):
    assert smallhold("device", "install", flow.bundle).code == 0
    write_plan(home / "change-plan.toml", flow, ("auroc", "most_fall = 0.02"))
    refused = smallhold("device", "install", update(worse_weights(flow)))
    assert refused.code == 1 and "is outside the change plan ward 3 1.0.0" in refused.err
    assert open_bundle(active_bundle(Home(home)), unsafe_skip_verification=True).manifest.version == "1.0.0"
    taken = smallhold("device", "install", update(version="9.0.9"))
    assert taken.code == 0 and "change plan ward 3 1.0.0" in taken.err and "icu-risk auroc at 24 h" in taken.err
    (home / "change-plan.toml").write_text("format = 2")
    broken = smallhold("device", "install", update(version="9.1.0"))
    assert broken.code == 1 and "change plan" in broken.err  # a plan that cannot be read lets nothing through


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format 2 is not supported"),
        ('split = "all"', 'split = "most"', "data.split: expected one of train"),
        ('["alert_threshold", "calibration"]', '["weights"]', "may_change: expected a list of tasks, question"),
        ('metric = "sensitivity"', 'metric = "luck"', r"check\[0\]: metric: expected one of sensitivity"),
        ("most_fall = 0.1", "most_fall = 7", r"check\[0\]: most_fall: expected a number from 0 to 1, got 7"),
        ("most_fall = 0.1", "", r"check\[0\]: expected one of at_least"),
        ("most_fall = 0.1", "most_falls = 0.1", r"unknown entries \['most_falls'\]"),
        ("hours = 24", "hours = 0", "hours: expected a whole number of 1 or more"),
        ("[[check]]", "[[checks]]", r"missing entries \['check'\]"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_by_name(flow, tmp_path, old, new, message):
    path = tmp_path / "plan.toml"
    write_plan(path, flow)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        read_change_plan(path)


def test_an_hour_that_the_task_does_not_answer_is_refused(flow, tmp_path):
    path = tmp_path / "plan.toml"
    write_plan(path, flow)
    path.write_text(path.read_text().replace("hours = 24", "hours = 49"))
    with pytest.raises(RecipeError, match="answers at 1 to 48 h, got 49"):
        check_change(read_change_plan(path), flow.bundle, None)
