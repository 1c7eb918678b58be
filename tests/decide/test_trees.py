from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from smallhold.decide.trees import Trees
from smallhold.errors import DataError, ShapeError

# One tree for hour 6: x0 <= 1.5 ? 10 : (x1 <= 0 ? 20 : 30), and a constant -1 for hour 12.
STUMPS = Trees(
    hours=np.array([6, 12], np.int32),
    base=np.array([0.5, 0.25]),
    root=np.array([0, 5], np.int32),
    tree_hour=np.array([0, 1], np.int32),
    feature=np.array([0, -1, 1, -1, -1, -1], np.int16),
    threshold=np.array([1.5, 0, 0, 0, 0, 0.0]),
    left=np.array([1, 0, 3, 0, 0, 0], np.int32),
    right=np.array([2, 0, 4, 0, 0, 0], np.int32),
    value=np.array([0, 10, 0, 20, 30, -1], np.float32),
    num_features=np.array([2], np.int32),
)


def test_a_tree_of_two_splits_by_hand() -> None:
    x = np.array([[1.5, 9], [1.6, 0], [1.6, 0.1]], np.float32)
    assert STUMPS.logit(x, 6).tolist() == [10.5, 20.5, 30.5]
    assert STUMPS.logit(x, 12).tolist() == [-0.75] * 3
    assert STUMPS.logit(x[:0], 6).shape == (0,)


@pytest.mark.parametrize(("leaves", "iterations"), [(2, 1), (7, 20), (31, 40)])
def test_every_prediction_is_that_of_scikit_learn(leaves: int, iterations: int) -> None:
    pytest.importorskip("sklearn", reason="the slow twin is scikit-learn, the extra 'train'")
    from smallhold.teach.trees import TreeConfig, _fit_one, _to_arrays

    rng = np.random.default_rng(leaves)
    x = rng.normal(size=(600, 9)).astype(np.float32)
    x[:, 3] = rng.integers(0, 3, 600)  # ties
    y = (x[:, 0] * x[:, 1] + x[:, 3] + rng.normal(size=600)) > 1
    config = TreeConfig(hours=(6, 12), leaves=leaves, iterations=iterations)
    models = [_fit_one(x, y, config, 0), _fit_one(x, ~y, config, 1)]
    trees = _to_arrays(models, config.hours)
    fresh = np.concatenate([x, rng.normal(size=(300, 9)).astype(np.float32) * 5])
    for hour, model in zip(config.hours, models, strict=True):
        # Leaves are stored as float32: 2^-24 of a leaf of at most about one, a few dozen times.
        np.testing.assert_allclose(trees.logit(fresh, hour), model.decision_function(fresh), rtol=0, atol=1e-6)


def test_equal_trees_give_equal_bytes_without_pickles() -> None:
    data = STUMPS.to_bytes()
    again = Trees.from_bytes(data)
    assert again.to_bytes() == data
    x = np.array([[1.6, 0.1]], np.float32)
    assert again.logit(x, 6) == STUMPS.logit(x, 6)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            assert archive.read(name).startswith(b"\x93NUMPY")
            assert np.load(io.BytesIO(archive.read(name)), allow_pickle=False).dtype != object


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_in_the_file_is_refused_and_not_run(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.savez(data, hours=np.array([_Bomb(tmp_path / "exploded")], dtype=object))
    with pytest.raises(DataError, match="baseline trees: malformed file"):
        Trees.from_bytes(data.getvalue())
    with pytest.raises(DataError, match="baseline trees: malformed file"):
        Trees.from_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1])
def test_a_truncated_file_is_refused(cut: int) -> None:
    with pytest.raises(DataError, match="baseline trees: malformed file"):
        Trees.from_bytes(STUMPS.to_bytes()[:cut])


def test_a_lone_array_is_refused() -> None:
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    with pytest.raises(DataError, match="baseline trees: malformed file"):
        Trees.from_bytes(data.getvalue())


def test_features_of_another_length_and_hours_without_trees_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"features: expected \(B, 2\), got \(1, 3\)"):
        STUMPS.logit(np.zeros((1, 3), np.float32), 6)
    with pytest.raises(ShapeError, match=r"hour: expected one of \[6, 12\], got 7"):
        STUMPS.logit(np.zeros((1, 2), np.float32), 7)
