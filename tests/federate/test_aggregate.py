import numpy as np
import pytest

from smallhold.errors import FederationError
from smallhold.federate import aggregate
from smallhold.federate.aggregate import Adam, krum, trimmed_mean, weighted_mean
from smallhold.federate.stored_rows import StoredRows


def numbers(count, size, seed):
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def test_the_mean_weighs_sites_by_their_examples():
    updates = [(np.array([1.0, 0.0], np.float32), 1.0), (np.array([4.0, 8.0], np.float32), 3.0)]
    assert weighted_mean(updates).tolist() == [3.25, 6.0]
    with pytest.raises(FederationError, match="got none"):
        weighted_mean([])


@pytest.mark.parametrize(("count", "trim"), [(3, 0.34), (5, 0.2), (10, 0.2), (11, 0.4)])
def test_a_trimmed_mean_is_what_sorting_each_coordinate_says(count, trim):
    updates = numbers(count, 70_001, count)
    found, cut = trimmed_mean(updates, trim=trim), int(trim * count)
    for column in (0, 65_535, 65_536, 70_000):
        ordered = sorted(updates[:, column].tolist())[cut : count - cut]
        assert found[column] == pytest.approx(sum(ordered) / len(ordered), abs=1e-6)


def test_a_liar_moves_the_mean_and_neither_the_trimmed_mean_nor_krum():
    honest = 1 + 0.01 * numbers(6, 50, 0)
    updates = np.concatenate([honest, np.full((1, 50), -1000, np.float32)])
    assert weighted_mean((row, 1.0) for row in updates).mean() < -100
    assert abs(trimmed_mean(updates, trim=0.2).mean() - 1) < 0.01
    assert krum(updates, byzantine=1) < 6


def test_krum_by_the_slow_twin():
    updates, byzantine = numbers(9, 20, 3), 2
    scores = []
    for i, row in enumerate(updates):
        others = sorted(float(np.square(row.astype(float) - other).sum()) for j, other in enumerate(updates) if j != i)
        scores.append(sum(others[: 9 - byzantine - 2]))
    assert krum(updates, byzantine=byzantine) == int(np.argmin(scores))
    with pytest.raises(FederationError, match="at least 7"):
        krum(updates[:6], byzantine=byzantine)


def test_adam_by_hand():
    moments, step = Adam.start(1).step(np.array([0.5], np.float32), learning_rate=0.1)
    assert moments.first[0] == pytest.approx(0.05) and moments.second[0] == pytest.approx(0.99e-6 + 0.0025)
    assert step[0] == pytest.approx(0.1 * 0.05 / (0.00250099**0.5 + 1e-3), rel=1e-5)


def test_updates_on_the_disk_give_the_same_bytes_as_in_memory(tmp_path, monkeypatch):
    updates = numbers(23, 301, 5)
    updates[7] = updates[3]  # equal ones: ties must not fall otherwise
    whole = trimmed_mean(updates, trim=0.2), krum(updates, byzantine=4)
    monkeypatch.setattr(aggregate, "_BLOCK", 64)  # blocks of a few rows, and of a few columns
    with StoredRows(tmp_path, 301) as rows:
        for row in updates:
            rows.append(row)
        assert rows.shape == updates.shape
        assert np.array_equal(rows[2:9], updates[2:9]) and np.array_equal(rows[:, 5:8], updates[:, 5:8])
        assert trimmed_mean(rows, trim=0.2).tobytes() == whole[0].tobytes()
        assert krum(rows, byzantine=4) == whole[1]
    assert list(tmp_path.iterdir()) == []  # nothing is left
