"""What decisions cost on this device: graphs of many shapes, measured, and a model learned from them.

Random weights: they cost what trained ones cost, and say nothing about quality. `smallhold doctor --profile` writes
the file; a search for a model that fits reads it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.cost_model import CostModel, Measured, fit_cost_model
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError
from smallhold.evaluate.device_cost import machine
from smallhold.evaluate.graph_cost import measure_graph
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.families import config_from_json, config_to_json
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig

FORMAT = "smallhold.device-profile/1"
Progress = Callable[[str, int, int], None]
_POSITIONS = 48  # the hours of a stay
_DECISIONS = 200

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
        measured: The graphs.
        model: Learned from them.
    """

    machine: str
    runtime: str
    measured_at: str
    measured: tuple[Measured, ...]
    model: CostModel

    def to_bytes(self) -> bytes:
        """Contents of the file."""
        value = {
            "format": FORMAT,
            "machine": self.machine,
            "runtime": self.runtime,
            "measured_at": self.measured_at,
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
            return cls(str(value["machine"]), str(value["runtime"]), str(value["measured_at"]), measured, model)
        except DataError as error:
            raise DataError(f"{path}: {error}", hint=advice) from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}", hint=advice) from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, RecipeError) as error:
            raise DataError(f"{path}: truncated or malformed: {error!r}", hint=advice) from error


def measure_device(*, progress: Progress, grid: Sequence[tuple[int, ...]] = _GRID) -> DeviceProfile:
    """Measure every shape of the grid, one fresh process each, and learn the model.

    Args:
        progress: Called with a caption, graphs done and graphs in all.
        grid: (V, D, F, L, H, KV, bits) of each graph.

    Raises:
        BackendError: a graph could not be run.
        DataError: too few shapes to learn from.
    """
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (vocab, width, mlp, layers, heads, kv_heads, bits) in enumerate(grid):
            config = TrunkConfig(
                vocab_size=vocab,
                hidden_size=width,
                intermediate_size=mlp,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=kv_heads,
            )
            graph = Path(scratch) / "graph.onnx"
            graph.write_bytes(random_graph(config, bits, Path(scratch)))
            cost = measure_graph(graph, positions=_POSITIONS, decisions=_DECISIONS)
            known = {name: float(value) for name, value in cost.items() if isinstance(value, int | float)}
            measured.append(Measured(config, bits, _POSITIONS, known))
            progress("measuring this device", number + 1, len(grid))
    now = datetime.now(UTC).replace(microsecond=0).isoformat()
    runtime = f"onnxruntime {version('onnxruntime')}, one thread"
    return DeviceProfile(machine(), runtime, now, tuple(measured), fit_cost_model(measured))


def random_graph(config: TrunkConfig, bits: int, scratch: Path) -> bytes:
    """A graph of this shape with random weights."""
    torch.manual_seed(0)
    plain = scratch / "random"
    save_trunk(Trunk(config), plain)
    if bits == 32:
        return trunk_onnx(read_weights(plain))
    quantized = scratch / "random-quantized"
    quantize_checkpoint(plain, quantized, bits=bits)
    return trunk_onnx(read_weights(quantized))


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [profile.to_bytes()], mode=0o644)
