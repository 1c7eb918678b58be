"""From a shape and its bits to what a decision costs on one device, learned from graphs that were measured there.

A decision on a small model is a product of one vector with every matrix, so its time is nearly linear in the weights of
each encoding, the layers, and the cache that attention reads. The coefficients are found by non-negative least
squares (Lawson and Hanson 1974) on relative errors: no part of a model makes it faster. How far to trust the model is
measured by leaving each graph out in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from smallhold.errors import DataError, InputError
from smallhold.learn.trunk_config import TrunkConfig

#: Encodings that a graph's matrices may have.
ENCODINGS = (32, 8, 4)
QUANTITIES = ("p50_ms", "p95_ms", "resident_bytes", "joules")
_FEATURES = ("always", "layers", "width", "cache", "linear_32", "linear_8", "linear_4", "head_32", "head_8", "head_4")


@dataclass(frozen=True, slots=True)
class Measured:
    """One graph and what it cost.

    Attributes:
        config: Its shape.
        bits: 32, 8 or 4.
        positions: Longest sequence during the measurement.
        cost: Quantity (see `QUANTITIES`) to number; a quantity that the machine does not count is left out.
    """

    config: TrunkConfig
    bits: int
    positions: int
    cost: dict[str, float]


@dataclass(frozen=True, slots=True)
class CostModel:
    """What each part of a shape adds to each quantity.

    Attributes:
        coefficients: Quantity to one number a feature, none negative.
        errors: Quantity to the relative errors |predicted - measured| / measured, of each graph by a model fitted
            without it.
    """

    coefficients: dict[str, tuple[float, ...]]
    errors: dict[str, tuple[float, ...]]

    def predict(self, config: TrunkConfig, bits: int, positions: int) -> dict[str, float]:
        """Every quantity of a shape that need not have been measured.

        Raises:
            InputError: other bits.
        """
        row = features(config, bits, positions)
        return {name: float(row @ np.array(numbers)) for name, numbers in self.coefficients.items()}

    def error(self, quantity: str, *, share: float = 0.9) -> float:
        """The relative error that this share of the graphs, each left out, stayed within."""
        return float(np.quantile(self.errors[quantity], share))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "features": list(_FEATURES),
            "coefficients": {name: list(values) for name, values in self.coefficients.items()},
            "errors": {name: list(values) for name, values in self.errors.items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CostModel:
        """Read what `to_json` wrote.

        Raises:
            DataError: malformed, or made for other features.
        """
        try:
            if tuple(value["features"]) != _FEATURES:
                raise DataError(
                    f"cost model: expected the features {list(_FEATURES)}, got {value['features']}",
                    hint="measure the device again: smallhold doctor --profile",
                )
            coefficients = {str(k): tuple(float(x) for x in v) for k, v in value["coefficients"].items()}
            errors = {str(k): tuple(float(x) for x in v) for k, v in value["errors"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"cost model: malformed: {error!r}") from error
        if any(len(numbers) != len(_FEATURES) for numbers in coefficients.values()) or set(errors) != set(coefficients):
            raise DataError("cost model: malformed: coefficients and errors do not belong together")
        if not all(0 <= x < np.inf for numbers in (*coefficients.values(), *errors.values()) for x in numbers):
            raise DataError("cost model: malformed: expected finite numbers, none negative")
        return cls(coefficients, errors)


def features(config: TrunkConfig, bits: int, positions: int) -> NDArray[np.float64]:
    """(10,) what the cost of a decision is linear in, in millions where it counts weights.

    Raises:
        InputError: other bits.
    """
    if bits not in ENCODINGS:
        raise InputError(f"bits: expected one of {ENCODINGS}, got {bits}")
    layers = config.num_hidden_layers
    linear, head = layers * layer_weights(config) / 1e6, config.vocab_size * config.hidden_size / 1e6
    # Half of the longest sequence is read on average; keys and values.
    cache = layers * positions / 2 * 2 * config.num_key_value_heads * config.head_dim / 1e6
    return np.array(
        [
            1.0,
            layers,
            layers * config.hidden_size / 1e3,
            cache,
            *(linear if bits == encoding else 0.0 for encoding in ENCODINGS),
            *(head if bits == encoding else 0.0 for encoding in ENCODINGS),
        ]
    )


def layer_weights(config: TrunkConfig) -> int:
    """Weights of one layer's seven matrices."""
    width, queries = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return 2 * width * queries + 2 * width * keys + 3 * width * config.intermediate_size


def fit_cost_model(measured: Sequence[Measured]) -> CostModel:
    """Learn the coefficients of every quantity that all graphs have.

    Raises:
        DataError: fewer graphs than features, so that leaving one out would say nothing.
    """
    if len(measured) <= len(_FEATURES):
        raise DataError(f"cost model: expected more than {len(_FEATURES)} measured graphs, got {len(measured)}")
    rows = np.stack([features(item.config, item.bits, item.positions) for item in measured])
    coefficients, errors = {}, {}
    for name in QUANTITIES:
        if not all(item.cost.get(name, 0) > 0 for item in measured):
            continue
        cost = np.array([item.cost[name] for item in measured])
        coefficients[name] = tuple(_solve(rows, cost).tolist())
        left_out = [
            abs(rows[i] @ _solve(np.delete(rows, i, axis=0), np.delete(cost, i)) / cost[i] - 1)
            for i in range(len(cost))
        ]
        errors[name] = tuple(float(value) for value in left_out)
    return CostModel(coefficients, errors)


def _solve(rows: NDArray[np.float64], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients (F,), none negative, with the least sum of squared relative errors."""
    # Columns of very different size would hide the small ones from the solver's tolerance.
    size = np.maximum(np.abs(rows / cost[:, None]).max(axis=0), 1e-300)
    found, _ = nnls(rows / cost[:, None] / size, np.ones(len(cost)))
    solution: NDArray[np.float64] = found / size
    return solution
