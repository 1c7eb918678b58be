"""A linear truth is found again; what was left out is foretold; nonsense is refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from smallhold.compress.cost_model import CostModel, Measured, features, fit_cost_model, layer_weights
from smallhold.errors import DataError, InputError
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig

TRUTH = np.array([0.1, 0.03, 0.05, 0.2, 0.19, 0.07, 0.04, 0.1, 0.06, 0.04])


def config(vocab: int = 512, width: int = 64, mlp: int = 128, layers: int = 2, kv: int = 2) -> TrunkConfig:
    return TrunkConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv,
    )


def graphs(noise: float = 0.0, quantity: str = "p95_ms") -> list[Measured]:
    rng = np.random.default_rng(0)
    shapes = itertools.product((512, 4096), (64, 256), (128, 512), (2, 6), (8, 4, 32))
    found = []
    for i, (vocab, width, mlp, layers, bits) in enumerate(shapes):
        shape = config(vocab, width, mlp, layers, kv=4 if i % 2 else 2)
        positions = 48 if i % 3 else 400
        cost = float(features(shape, bits, positions) @ TRUTH) * float(np.exp(noise * rng.normal()))
        found.append(Measured(shape, bits, positions, {quantity: cost}))
    return found


def test_the_weights_of_a_layer_are_those_of_the_trunk() -> None:
    shape = config(width=96, mlp=160, kv=1)
    block = Trunk(shape).blocks[0]
    assert layer_weights(shape) == sum(p.numel() for p in block.parameters() if p.ndim == 2)


def test_a_linear_truth_is_found_again() -> None:
    model = fit_cost_model(graphs())
    assert np.allclose(model.coefficients["p95_ms"], TRUTH, rtol=1e-6, atol=1e-9)
    assert model.error("p95_ms") < 1e-6
    unseen = config(1024, 128, 352, 4)
    assert model.predict(unseen, 4, 100)["p95_ms"] == pytest.approx(features(unseen, 4, 100) @ TRUTH, rel=1e-6)


def test_the_error_is_that_of_graphs_left_out() -> None:
    model = fit_cost_model(graphs(noise=0.05))
    assert 0.03 < model.error("p95_ms") < 0.25
    assert min(model.coefficients["p95_ms"]) >= 0


def test_a_quantity_that_one_graph_lacks_is_not_learned() -> None:
    measured = graphs()
    measured[3] = Measured(measured[3].config, measured[3].bits, measured[3].positions, {"p50_ms": 1.0})
    assert fit_cost_model(measured).coefficients == {}


def test_more_of_anything_never_costs_less() -> None:
    model = fit_cost_model(graphs(noise=0.2))
    small = model.predict(config(), 8, 48)["p95_ms"]
    for bigger in (config(vocab=9000), config(width=128), config(mlp=256), config(layers=3), config(kv=4)):
        assert model.predict(bigger, 8, 48)["p95_ms"] >= small


def test_json_and_back() -> None:
    model = fit_cost_model(graphs())
    assert CostModel.from_json(json.loads(json.dumps(model.to_json()))) == model


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": ["always"]}, "smallhold doctor --profile"),
        ({"coefficients": {"p95_ms": [1.0]}}, "malformed"),
        ({"coefficients": 3}, "malformed"),
        ({"errors": {}}, "malformed"),
    ],
)
def test_a_malformed_model_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(DataError) as caught:
        CostModel.from_json(fit_cost_model(graphs()).to_json() | change)
    assert says in f"{caught.value} {caught.value.hint}"


def test_too_few_graphs_and_unknown_bits_are_refused() -> None:
    with pytest.raises(DataError, match="more than 10"):
        fit_cost_model(graphs()[:10])
    with pytest.raises(InputError, match="bits"):
        features(config(), 3, 48)
