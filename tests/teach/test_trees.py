import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.teach.trees import TreeConfig, features_at, fit_trees, interpolate_hours, out_of_fold_logits

sklearn = pytest.importorskip("sklearn", reason="trees are grown with scikit-learn, the extra 'train'")


def silent(done, total):
    pass


def patients(count=240, channels=8, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3, channels)).astype(np.float32)
    static = rng.normal(size=(count, 2)).astype(np.float32)
    died = rng.random(count) < 1 / (1 + np.exp(-x[:, -1, 0] - static[:, 0]))
    return x, static, died


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_arrays_predict_what_scikit_learn_predicts(dtype):
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, static, died = patients()
    x = x.astype(dtype)
    config = TreeConfig(hours=(1, 3), iterations=12, leaves=7)
    trees = fit_trees(x, static, died, config, 5, silent)
    for hour in config.hours:
        features = features_at(x, static, hour)
        own = HistGradientBoostingClassifier(
            max_iter=12,
            learning_rate=config.learning_rate,
            max_leaf_nodes=7,
            min_samples_leaf=config.min_samples_leaf,
            l2_regularization=config.l2,
            max_features=config.feature_share,
            max_bins=127,
            early_stopping=False,
            random_state=5,
        ).fit(features, died)
        np.testing.assert_allclose(trees.logit(features, hour), own.decision_function(features), rtol=0, atol=1e-5)


def test_out_of_fold_labels_never_see_their_own_fold():
    # The only feature tells the fold and nothing else, and a whole fold died or lived. Trees that had seen a patient's
    # own fold would know its outcome for sure; trees that have not can only say the opposite.
    fold = np.repeat([0, 1], 100)
    died = fold == 1
    channels = np.zeros((200, 1, 1), np.float32)
    channels[:, 0, 0] = fold
    static = np.zeros((200, 1), np.float32)
    config = TreeConfig(hours=(1,), iterations=30, leaves=2, folds=2, feature_share=1.0, min_samples_leaf=1)
    mixed = fold.copy()
    mixed[::10] = 1 - mixed[::10]  # ten of each hundred are held out with the others, so that both classes are seen
    logits = out_of_fold_logits(channels, static, died, mixed, config, 1, 0, silent)
    for part in (0, 1):
        held_out, others = mixed == part, mixed != part
        # Slow twin: fit on the others alone, say of the held-out ones.
        alone = fit_trees(channels[others], static[others], died[others], config, 0, silent)
        np.testing.assert_allclose(
            logits[held_out], alone.logit(features_at(channels, static, 1)[held_out], 1), atol=1e-5
        )


def test_an_outcome_written_into_a_feature_of_its_own_fold_alone_does_not_leak():
    # Feature k says the outcome, but only for the patients of fold k; elsewhere it is noise.
    rng = np.random.default_rng(0)
    count, folds = 400, 4
    fold = rng.permutation(count) % folds
    died = rng.random(count) < 0.5
    channels = rng.normal(size=(count, 1, folds)).astype(np.float32)
    channels[np.arange(count), 0, fold] = np.where(died, 9, -9)
    config = TreeConfig(hours=(1,), iterations=40, folds=folds, feature_share=1.0)
    static = np.zeros((count, 1), np.float32)
    honest = out_of_fold_logits(channels, static, died, fold, config, 1, 0, silent)
    # One fold for every patient's neighbours: now the trees have seen each patient's own kind of feature.
    leaking = out_of_fold_logits(channels, static, died, rng.permutation(fold), config, 1, 0, silent)
    assert np.mean((leaking > 0) == died) > 0.95
    assert np.mean((honest > 0) == died) < 0.75


def test_labels_depend_on_the_seed_alone():
    x, static, died = patients()
    fold = np.arange(len(died)) % 2
    config = TreeConfig(hours=(3,), iterations=5, folds=2)
    first, again, other = (out_of_fold_logits(x, static, died, fold, config, 3, seed, silent) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_hours_between_are_interpolated_and_hours_outside_held():
    logits = np.array([[1.0, 3.0, -1.0]], np.float32)
    out = interpolate_hours(logits, (2, 4, 8), 10)
    np.testing.assert_allclose(out, [[1, 1, 2, 3, 2, 1, 0, -1, -1, -1]], atol=1e-6)


def test_one_hour_is_held_everywhere():
    np.testing.assert_array_equal(interpolate_hours(np.array([[2.0]], np.float32), (5,), 7), np.full((1, 7), 2.0))


@given(
    st.lists(st.integers(1, 48), min_size=1, max_size=6, unique=True).map(sorted),
    st.integers(0, 2**32 - 1),
)
def test_interpolation_agrees_with_numpy(hours, seed):
    logits = np.random.default_rng(seed).normal(size=(3, len(hours))).astype(np.float32)
    slow = [np.interp(np.arange(1, 49), hours, row) for row in logits]
    np.testing.assert_allclose(interpolate_hours(logits, tuple(hours), 48), slow, atol=1e-5)
