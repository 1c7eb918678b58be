"""What a federation is worth: figures that a slow twin computes again, sites counted alike, texts and tables."""

import numpy as np
import pytest

from smallhold.evaluate.metrics import accuracy, auroc
from smallhold.federate.compare import compare, format_comparison
from smallhold.federate.job import FederatedJob, LocalChoice
from smallhold.federate.local_model import Rows, odds_of_label
from smallhold.federate.logistic import Logistic
from smallhold.federate.measure import ACCURACY, AUROC
from smallhold.federate.personalise import choose_share, mix

SITES = ("north", "south")
LOCAL = LocalChoice(epochs=1.0, batch_size=8, learning_rate=0.2)
JOB = FederatedJob(name="j", task="t", sites=SITES, rounds=3, local=LOCAL)


def rows(count: int, *, seed: int, num_labels: int = 2, shift: float = 0.0) -> Rows:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, num_labels, count)
    features = rng.normal(size=(count, 4)) + shift
    features[np.arange(count), label % 4] += 1.5
    return Rows({"features": features.astype(np.float32)}, label.astype(np.int64), tuple(map(str, range(count))))


def parts(num_labels: int = 2) -> list[dict[str, Rows]]:
    return [
        {site: rows(60, seed=10 * place + part, num_labels=num_labels, shift=place) for place, site in enumerate(SITES)}
        for part in range(3)
    ]


def test_the_mean_counts_every_site_alike_and_all_rows_together_do_not():
    training, held_out, choosing = parts()
    held_out["north"] = held_out["north"].take(list(range(30)))
    model = Logistic(4)
    federated = model.train(model.initial(0), Rows.together(list(training.values())), LOCAL, 0).model
    found = compare(JOB, model, federated, training, held_out, choosing)
    own = [auroc(held_out[s].label, model.predict(federated, held_out[s])) for s in SITES]
    assert [row["site"] for row in found["rows"]] == ["north", "south", "all"]
    assert [row["federated"]["value"] for row in found["rows"][:2]] == pytest.approx(own)
    assert found["mean"]["federated"]["value"] == pytest.approx(np.mean(own))
    mean = found["mean"]
    assert mean["minus_local"]["value"] == pytest.approx(mean["federated"]["value"] - mean["local"]["value"])
    assert mean["minus_local"]["low"] < mean["minus_local"]["value"] < mean["minus_local"]["high"]
    assert "mean over 2 sites" in format_comparison(found)


def test_a_site_with_too_few_of_either_outcome_has_no_figure_and_no_say_in_the_mean():
    training, held_out, choosing = parts()
    held_out["south"] = held_out["south"].take(np.flatnonzero(held_out["south"].label == 1))
    model = Logistic(4)
    found = compare(JOB, model, model.initial(0), training, held_out, choosing)
    assert "federated" not in found["rows"][1] and found["mean"]["sites"] == ["north"]
    assert "too few" in format_comparison(found)


def test_a_site_that_the_common_model_harms_is_named_and_gets_its_own_model_back():
    training, held_out, choosing = parts()
    model = Logistic(4)
    good = model.train(model.initial(0), Rows.together(list(training.values())), LOCAL, 0).model
    found = compare(JOB, model, -good, training, held_out, choosing)
    assert [row["share"] for row in found["rows"][:2]] == [1.0, 1.0]
    assert found["mean"]["personalised"] == found["mean"]["local"]
    said = format_comparison(found)
    assert said.startswith("federated is worse than each site alone") and "north is worse off" in said


def test_several_labels_are_measured_by_accuracy_beside_the_commonest_one():
    training, held_out, choosing = parts(num_labels=4)
    model = Logistic(4, num_labels=4)
    federated = model.train(model.initial(0), Rows.together(list(training.values())), LOCAL, 0).model
    other = {"epsilon 1": model.initial(0)}
    found = compare(JOB, model, federated, training, held_out, choosing, ACCURACY, other)
    for site, row in zip(SITES, found["rows"], strict=False):
        answers = model.predict(federated, held_out[site]).argmax(1)
        assert row["federated"]["value"] == pytest.approx(accuracy(held_out[site].label, answers))
        commonest = np.bincount(training[site].label).argmax()
        assert row["commonest"]["value"] == pytest.approx((held_out[site].label == commonest).mean())
        assert row["epsilon 1"]["value"] == pytest.approx((held_out[site].label == 0).mean())  # all logits alike
    assert found["metric"] == "accuracy" and "accuracy in the mean" in format_comparison(found, ACCURACY.title)


def test_odds_of_the_true_label_are_those_of_its_probability():
    logits = np.random.default_rng(0).normal(size=(6, 3))
    label = np.array([0, 1, 2, 0, 1, 2])
    odds = np.exp(logits)
    p = (odds / odds.sum(1, keepdims=True))[np.arange(6), label]
    assert odds_of_label(logits, label) == pytest.approx(np.log(p / (1 - p)))
    assert odds_of_label(logits[:, 0], label % 2) == pytest.approx(np.where(label % 2 == 1, 1, -1) * logits[:, 0])


def test_gradients_of_several_labels_agree_with_finite_differences():
    training, several = rows(80, seed=3, num_labels=3), Logistic(4, num_labels=3, ridge=0.0)
    model = np.random.default_rng(1).normal(size=several.layout.size).astype(np.float32) * 0.1
    step = LocalChoice(epochs=1.0, batch_size=80, learning_rate=1e-2)
    moved = (several.train(model, training, step, 0).model - model) / 1e-2

    def loss(at):
        return np.logaddexp(0, -odds_of_label(several.predict(at, training), training.label)).mean()

    for place in (0, 4, 9, 14):
        nudge = np.zeros(several.layout.size)
        nudge[place] = 1e-4
        slope = (loss(model + nudge) - loss(model - nudge)) / 2e-4
        assert moved[place] == pytest.approx(-slope, abs=2e-4)


def test_the_share_with_the_least_loss_is_taken_and_without_rows_the_common_model():
    label = np.array([1, 1, 0, 0])
    right, wrong = np.array([3.0, 3.0, -3.0, -3.0]), np.array([-3.0, -3.0, 3.0, 3.0])
    assert choose_share(wrong, right, label) == 1.0 and choose_share(right, wrong, label) == 0.0
    assert choose_share(right, right, label) == 0.0
    assert choose_share(np.zeros(0), np.zeros(0), np.zeros(0, np.int64)) == 0.0
    assert mix(right, wrong, 0.5) == pytest.approx(np.zeros(4))


def test_auroc_wants_five_of_either():
    assert not AUROC.has_enough(np.array([1] * 4 + [0] * 50)) and AUROC.has_enough(np.array([1] * 5 + [0] * 5))
