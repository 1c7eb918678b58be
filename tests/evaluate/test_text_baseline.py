import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the baseline is fitted with scikit-learn, the extra 'train'")

from smallhold.errors import DataError
from smallhold.evaluate.text_baseline import baseline_answers, fit_baseline, score_answers
from smallhold.sectors.scaffold import write_simulated_sector
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import load_examples, split


def test_scores_by_hand() -> None:
    score = score_answers(["a", "b", "b", "c"], ["a", "a", "b", "a"])
    # F1: a 2*1/(1+3), b 2*1/(2+1), c 2*0/(1+0)
    assert (score.num_texts, score.accuracy, score.most_frequent) == (4, 0.5, 0.75)
    assert score.macro_f1 == pytest.approx((0.5 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_that_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(seed)
    labels, answers = rng.choice(list("abcde"), 60).tolist(), rng.choice(list("abcdf"), 60).tolist()
    expected = f1_score(labels, answers, average="macro", zero_division=0)
    assert score_answers(answers, labels).macro_f1 == pytest.approx(expected, abs=1e-12)


def test_nothing_to_score_and_nothing_to_learn_are_refused() -> None:
    with pytest.raises(DataError, match="as many answers as labels, at least one, got 0, 0"):
        score_answers([], [])
    with pytest.raises(DataError, match="got 1, 2"):
        score_answers(["a"], ["a", "b"])
    with pytest.raises(DataError, match="at least two labels"):
        fit_baseline([])


def measured(task, data, part=Split.VALIDATION):
    examples = load_examples(task, data)
    chosen = split(examples, part)
    answers = baseline_answers(fit_baseline(split(examples, Split.TRAIN)), chosen)
    return score_answers(answers, [example.label for example in chosen])


def test_the_rows_of_a_new_sector_can_be_learnt_but_not_wholly(tmp_path) -> None:
    write_simulated_sector("desk", tmp_path / "desk")
    score = measured(find_task("desk-topic", tmp_path / "desk"), tmp_path / "desk" / "data", Split.TEST)
    assert 0.75 < score.accuracy < 1  # one row in eight does not say what it is about


@pytest.mark.data
@pytest.mark.skipif("SMALLHOLD_DATA" not in os.environ, reason="SMALLHOLD_DATA is not set: no real rows")
@pytest.mark.parametrize(("name", "accuracy"), [("triage", 0.95), ("evidence", 0.54)])
def test_real_rows_are_learnt_as_well_as_others_report(name: str, accuracy: float) -> None:
    # Validation split. A wrong member or shuffled labels would fall to the most frequent label.
    score = measured(find_task(name), Path(os.environ["SMALLHOLD_DATA"]))
    assert score.accuracy >= max(accuracy, score.most_frequent)
