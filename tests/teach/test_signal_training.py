import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smallhold.decide.signal import CHANNELS
from smallhold.errors import RecipeError
from smallhold.learn.model import SignalModel, TrunkConfig
from smallhold.teach.signal_training import (
    SignalData,
    SignalLoss,
    SignalTrainingConfig,
    SyntheticSet,
    draw_donors,
    hour_weights,
    recombine,
)

NUM_PARAMETERS = 3


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_donor_lies_in_the_same_kind_of_unit(groups, probability, seed):
    group = np.array(groups)
    donor, is_swapped = draw_donors(group, NUM_PARAMETERS, probability, np.random.default_rng(seed))
    assert np.array_equal(group[donor], group)
    assert is_swapped.shape == (len(group), NUM_PARAMETERS)


def test_parameters_are_swapped_as_often_as_asked():
    _, is_swapped = draw_donors(np.zeros(4000, int), 10, 0.3, np.random.default_rng(0))
    assert is_swapped.mean() == pytest.approx(0.3, abs=0.01)  # standard error 0.0023
    assert not draw_donors(np.zeros(10, int), 10, 0.0, np.random.default_rng(0))[1].any()


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_recombination_agrees_with_one_column_at_a_time(count, num_bins, seed):
    rng = np.random.default_rng(seed)
    channels = rng.normal(size=(count, num_bins, NUM_PARAMETERS * len(CHANNELS))).astype(np.float16)
    donor, is_swapped = draw_donors(np.zeros(count, int), NUM_PARAMETERS, 0.5, rng)
    rows = rng.integers(0, count, 5)
    out = recombine(channels, donor, is_swapped, rows)
    for i, row in enumerate(rows):
        for parameter in range(NUM_PARAMETERS):
            source = donor[row] if is_swapped[row, parameter] else row
            columns = slice(parameter * len(CHANNELS), (parameter + 1) * len(CHANNELS))
            np.testing.assert_array_equal(out[i, :, columns], channels[source, :, columns])


def test_hour_weights_by_hand():
    weight = hour_weights(8, (6, 12))
    np.testing.assert_allclose(weight * (0.9 + 4 + 3) / 8, [0.3, 0.3, 0.3, 1, 1, 3, 1, 1], rtol=1e-6)
    assert hour_weights(48, (6, 12, 24, 48)).mean() == pytest.approx(1)


def make_data(count, num_bins=4, *, synthetic=0):
    rng = np.random.default_rng(3)
    channels = rng.normal(size=(count, num_bins, NUM_PARAMETERS * len(CHANNELS))).astype(np.float16)
    target = rng.random((count, num_bins)).astype(np.float32)
    sets = tuple(
        SyntheticSet(
            *draw_donors(np.zeros(count, int), NUM_PARAMETERS, 0.5, rng),
            rng.random((count, num_bins)).astype(np.float32),
        )
        for _ in range(synthetic)
    )
    static = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    return SignalData(channels, static, target, sets, hour_weights(num_bins, (4,)))


class Witness(SignalModel):
    """Writes down whom it is shown, by the static features, which are never mixed."""

    def __init__(self):
        super().__init__(
            TrunkConfig(
                vocab_size=8,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                max_position_embeddings=16,
            ),
            NUM_PARAMETERS * len(CHANNELS),
            2,
        )
        self.seen, self.inputs = [], []

    def choice_logits(self, channels, static, choices):
        self.seen.append((static[:, 0] / 2).int().tolist())
        self.inputs.append(channels.detach().clone())
        return super().choice_logits(channels, static, choices)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (7, 7), (5, 8), (12, 3)])
@pytest.mark.parametrize("synthetic", [0, 2])
def test_every_pass_visits_every_patient_once(count, batch_size, synthetic):
    config = SignalTrainingConfig(
        batch_size=batch_size, synthetic_share=0.5 if synthetic else 0.0, parameter_dropout=0.0
    )
    loss = SignalLoss(make_data(count, synthetic=synthetic), config, (1, 2), 0)
    model = Witness()
    steps = 4 * count * (2 if synthetic else 1)
    for step in range(steps):
        loss(model, step, np.random.default_rng(step))
    kinds = {"real": model.seen[::2], "synthetic": model.seen[1::2]} if synthetic else {"real": model.seen}
    for name, batches in kinds.items():
        visits = [patient for batch in batches for patient in batch]
        assert len(visits) == 4 * count * batch_size
        passes = [visits[i : i + count] for i in range(0, len(visits) - count + 1, count)]
        assert all(sorted(turn) == list(range(count)) for turn in passes), name
        if count > 5:
            assert len({tuple(turn) for turn in passes}) > 1, name  # each in another order


def test_a_step_is_the_same_whatever_came_before():
    config = SignalTrainingConfig(batch_size=4, dropout=0.0)
    data, model = make_data(9, synthetic=1), Witness()
    first, second = SignalLoss(data, config, (1, 2), 0), SignalLoss(data, config, (1, 2), 0)
    for step in range(200):
        first(model, step, np.random.default_rng(step))
    again = first(model, 7, np.random.default_rng(7))
    assert again.item() == second(model, 7, np.random.default_rng(7)).item()


def test_the_loss_by_hand():
    config = SignalTrainingConfig(batch_size=3, synthetic_share=0.0, dropout=0.0, parameter_dropout=0.0)
    data, model = make_data(3), Witness()
    value = SignalLoss(data, config, (1, 2), 0)(model, 0, np.random.default_rng(0)).item()
    rows = model.seen[0]
    with torch.no_grad():
        logits = model.choice_logits(
            torch.from_numpy(data.channels[rows].astype(np.float32)),
            torch.from_numpy(data.static[rows]),
            torch.tensor([1, 2]),
        ).numpy()
    p = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
    slow = -(data.target[rows] * np.log(p) + (1 - data.target[rows]) * np.log(1 - p)) * data.hour_weight
    assert value == pytest.approx(slow.mean(), rel=1e-5)


def test_whole_parameters_are_hidden_not_single_channels():
    config = SignalTrainingConfig(batch_size=50, synthetic_share=0.0, parameter_dropout=0.4)
    model = Witness()
    SignalLoss(make_data(50), config, (1, 2), 0)(model, 0, np.random.default_rng(0))
    shown = (model.inputs[0] != 0).reshape(50, 4, NUM_PARAMETERS, len(CHANNELS))
    assert torch.equal(shown.all(dim=(1, 3)), shown.any(dim=1).any(dim=2))
    assert 0.4 < shown.float().mean() < 0.8  # six tenths are shown; 150 draws


def test_steps_follow_from_epochs():
    config = SignalTrainingConfig(epochs=2, batch_size=10, synthetic_share=0.5)
    assert config.num_steps(100) == 40  # 20 real batches, as many synthetic ones
    assert SignalTrainingConfig(epochs=0.001).num_steps(10) == 1


def test_a_model_without_a_signal_door_is_refused():
    loss = SignalLoss(make_data(3), SignalTrainingConfig(), (1, 2), 0)
    with pytest.raises(TypeError, match="expected a SignalModel, got Linear"):
        loss(torch.nn.Linear(1, 1), 0, np.random.default_rng(0))


def test_impossible_settings_are_refused():
    with pytest.raises(RecipeError, match=r"student\.parameter_dropout: expected a share in \[0, 1\), got 1"):
        SignalTrainingConfig(parameter_dropout=1.0)
