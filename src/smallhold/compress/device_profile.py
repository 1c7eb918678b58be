"""What decisions cost on this device: graphs of many shapes, measured, and a model learned from them.

Random weights: they cost what trained ones cost, and say nothing about quality. `smallhold doctor --profile` writes
the file; a search for a model that fits reads it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.cost_model import QUANTITIES, CostModel, Measured, fit_cost_model
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError
from smallhold.evaluate.device_cost import machine
from smallhold.evaluate.graph_cost import measure_content
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.families import config_from_json, config_to_json
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig

FORMAT = "smallhold.device-profile/2"
Progress = Callable[[str, int, int], None]
_POSITIONS = 48  # the hours of a stay
_DECISIONS = 1_000
#: (V, D, F, L, H, KV, bits) of the graph that all others are timed beside.
_REFERENCE = (4096, 128, 352, 4, 4, 2, 8)
#: The times that follow the machine's speed.
_TIMES = ("p50", "p95")

#: (V, D, F, L, H, KV, bits): spread so that no two features of the cost model grow together.
_GRID: tuple[tuple[int, int, int, int, int, int, int], ...] = (
    (512, 64, 128, 2, 4, 4, 8),
    (8192, 64, 256, 4, 4, 2, 8),
    (1024, 128, 352, 4, 4, 4, 8),
    (8192, 192, 512, 8, 6, 2, 8),
    (2048, 256, 1024, 4, 8, 2, 8),
    (16384, 128, 352, 2, 4, 2, 8),
    (1024, 384, 1024, 6, 6, 2, 8),
    (512, 64, 128, 8, 4, 2, 4),
    (1024, 128, 352, 4, 4, 4, 4),
    (8192, 192, 512, 8, 6, 2, 4),
    (2048, 256, 1024, 4, 8, 2, 4),
    (1024, 384, 1024, 6, 6, 2, 4),
    (8192, 128, 512, 12, 4, 2, 4),
    (1024, 128, 352, 4, 4, 4, 32),
    (8192, 192, 512, 8, 6, 2, 32),
    (512, 256, 1024, 4, 8, 2, 32),
    (4096, 128, 352, 2, 4, 2, 32),
)


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device, what was measured on it, and what was learned.

    Attributes:
        machine: Processor, cores and system.
        runtime: Name and version of what ran the graphs.
        measured_at: Moment, UTC, ISO 8601.
        reference: `p50_ms` and `p95_ms` of the reference graph: medians over the whole measurement. They are the speed
            at which every cost is told.
        measured: The graphs.
        model: Learned from them.
    """

    machine: str
    runtime: str
    measured_at: str
    reference: dict[str, float]
    measured: tuple[Measured, ...]
    model: CostModel

    def to_bytes(self) -> bytes:
        """Contents of the file."""
        value = {
            "format": FORMAT,
            "machine": self.machine,
            "runtime": self.runtime,
            "measured_at": self.measured_at,
            "reference": self.reference,
            "measured": [
                {
                    "config": config_to_json(item.config),
                    "bits": item.bits,
                    "positions": item.positions,
                    "cost": item.cost,
                }
                for item in self.measured
            ],
            "model": self.model.to_json(),
        }
        return json.dumps(value, indent=1).encode()

    @classmethod
    def read(cls, path: Path) -> DeviceProfile:
        """Read a profile.

        Raises:
            DataError: absent, truncated or malformed, or of another format.
        """
        advice = f"smallhold doctor --profile {path}"
        try:
            value: dict[str, Any] = json.loads(path.read_bytes())
            if value["format"] != FORMAT:
                raise DataError(f"expected the format {FORMAT}, got {value['format']!r}")
            measured = tuple(
                Measured(
                    config_from_json(item["config"]),
                    int(item["bits"]),
                    int(item["positions"]),
                    {str(name): float(number) for name, number in item["cost"].items()},
                )
                for item in value["measured"]
            )
            model = CostModel.from_json(value["model"])
            reference = {f"{time}_ms": float(value["reference"][f"{time}_ms"]) for time in _TIMES}
            if not all(0 < number < math.inf for number in reference.values()):
                raise DataError(f"expected positive times of the reference graph, got {reference}")
            machine, runtime, moment = (str(value[name]) for name in ("machine", "runtime", "measured_at"))
            return cls(machine, runtime, moment, reference, measured, model)
        except DataError as error:
            raise DataError(f"{path}: {error}", hint=advice) from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}", hint=advice) from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, RecipeError) as error:
            raise DataError(f"{path}: truncated or malformed: {error!r}", hint=advice) from error

    def foretell(self, config: TrunkConfig, bits: int) -> dict[str, float]:
        """What a shape would cost, from the model."""
        return self.model.predict(config, bits, _POSITIONS)

    def measure(self, graph: bytes) -> dict[str, float]:
        """What a graph costs on this machine, at the speed that it had when it was profiled.

        Raises:
            BackendError: the graph could not be run.
        """
        return _at_speed(_measure(graph), self.reference)


def measure_device(*, progress: Progress, grid: Sequence[tuple[int, ...]] = _GRID) -> DeviceProfile:
    """Measure every shape of the grid, one fresh process each, and learn the model.

    Args:
        progress: Called with a caption, graphs done and graphs in all.
        grid: (V, D, F, L, H, KV, bits) of each graph.

    Raises:
        BackendError: a graph could not be run.
        DataError: too few shapes to learn from.
    """
    costs = []
    for number, shape in enumerate(grid):
        costs.append(_measure(random_graph(*_of_shape(shape))))
        progress("measuring this device", number + 1, len(grid))
    reference = {f"{time}_ms": median(cost[f"reference_{time}_ms"] for cost in costs) for time in _TIMES}
    measured = tuple(
        Measured(*_of_shape(shape), _POSITIONS, _at_speed(cost, reference))
        for shape, cost in zip(grid, costs, strict=True)
    )
    now = datetime.now(UTC).replace(microsecond=0).isoformat()
    runtime = f"onnxruntime {version('onnxruntime')}, one thread"
    return DeviceProfile(machine(), runtime, now, reference, measured, fit_cost_model(measured))


def _of_shape(shape: Sequence[int]) -> tuple[TrunkConfig, int]:
    """Configuration and bits of (V, D, F, L, H, KV, bits)."""
    vocab, width, mlp, layers, heads, kv_heads, bits = shape
    config = TrunkConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    return config, bits


def _measure(graph: bytes) -> dict[str, float]:
    """A graph beside the reference; what the machine does not count is left out."""
    cost = measure_content(graph, _reference_graph(), positions=_POSITIONS, decisions=_DECISIONS)
    return {name: float(value) for name, value in cost.items() if isinstance(value, int | float)}


@cache
def _reference_graph() -> bytes:
    return random_graph(*_of_shape(_REFERENCE))


def _at_speed(cost: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """The quantities of the cost model, times as they would be where the reference takes as long as it says."""
    times = {f"{time}_ms": cost[f"{time}_of_reference"] * reference[f"{time}_ms"] for time in _TIMES}
    return times | {name: cost[name] for name in QUANTITIES if name in cost and name not in times}


def random_graph(config: TrunkConfig, bits: int) -> bytes:
    """A graph of this shape with random weights."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        plain, quantized = Path(scratch) / "random", Path(scratch) / "random-quantized"
        save_trunk(Trunk(config), plain)
        if bits == 32:
            return trunk_onnx(read_weights(plain))
        quantize_checkpoint(plain, quantized, bits=bits)
        return trunk_onnx(read_weights(quantized))


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [profile.to_bytes()], mode=0o644)
