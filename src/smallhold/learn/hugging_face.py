"""Directories in Hugging Face's layout as arrays: `config.json`, one safetensors file or shards with an index.

Weights in float16, bfloat16 or float32 become float32, tensor by tensor, so that no more than the model itself and one
tensor lie in memory. Matrices that a family stores fused are split. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from smallhold.errors import DataError
from smallhold.learn.families import FAMILIES, config_from_json
from smallhold.learn.model import Trunk
from smallhold.learn.trunk_config import TrunkConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_HEAD = "lm_head.weight"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_T = TypeVar("_T")


def read_hugging_face(folder: Path) -> tuple[TrunkConfig, dict[str, NDArray[np.float32]]]:
    """Configuration and weights of a local directory.

    Args:
        folder: With `config.json`, and `model.safetensors` or `model.safetensors.index.json` and its shards.

    Returns:
        The configuration, and parameter names of `Trunk` to float32 arrays; without `lm_head.weight` when tied.

    Raises:
        DataError: a file is missing, truncated or malformed, or the tensors are not those of the configuration.
        RecipeError: a family or a variant that is not supported.
    """
    try:
        config = config_from_json(_read_object(folder / "config.json"))
        return config, read_tensors(folder, config)
    except FileNotFoundError as error:
        absent = [name for name in ("config.json", WEIGHTS) if not (folder / name).exists()]
        missing = ", ".join(absent) or Path(error.filename or "a shard").name
        raise DataError(f"checkpoint {folder}: missing: {missing}", hint=_advice(folder)) from error
    except (SafetensorError, ValueError, AttributeError) as error:
        raise DataError(f"checkpoint {folder}: truncated or malformed: {error}") from error


def read_tensors(folder: Path, config: TrunkConfig) -> dict[str, NDArray[np.float32]]:
    """The weights alone; see `read_hugging_face`."""
    shapes = parameter_shapes(config)
    fused = FAMILIES[config.model_type].fused
    found: dict[str, NDArray[np.float32]] = {}
    for path in weight_files(folder):
        with safe_open(str(path), framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - it is no dictionary
                if name.endswith("rotary_emb.inv_freq") or (name == _HEAD and config.tie_word_embeddings):
                    continue  # angles follow from the configuration; a tied head is the embedding
                found |= _split(name, _to_float32(name, shard.get_tensor(name)), fused, shapes)
    problems = [
        *(f"{name} is missing" for name in shapes if name not in found),
        *(f"{name} is unknown" for name in found if name not in shapes),
        *(
            f"{name}: expected {shapes[name]}, got {array.shape}"
            for name, array in found.items()
            if name in shapes and array.shape != shapes[name]
        ),
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(f"checkpoint {folder}: tensors do not fit config.json: {'; '.join(problems[:3])}{more}")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory, in the order of their names.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the index is malformed or names a file elsewhere.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    names = sorted(set(_read_object(folder / INDEX)["weight_map"].values()))
    if outside := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise ValueError(f"{INDEX}: expected names of safetensors files beside it, got {outside[0]!r}")
    return [folder / name for name in names]


def parameter_shapes(config: TrunkConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter; without `lm_head.weight` when tied."""
    with torch.device("meta"):  # shapes alone: no memory, no random numbers
        state = Trunk(config).state_dict()
    if config.tie_word_embeddings:
        state.pop(_HEAD)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def fuse(config: TrunkConfig, tensors: Mapping[str, _T], join: Callable[[list[_T]], _T]) -> dict[str, _T]:
    """Parameters as the family's own class names them: the inverse of what reading splits.

    Args:
        config: Of the model.
        tensors: By names of `Trunk`.
        join: Puts matrices one below the other: `torch.cat` or `np.concatenate`.
    """
    found = dict(tensors)
    for whole, parts in FAMILIES[config.model_type].fused.items():
        for i in range(config.num_hidden_layers):
            names = [f"model.layers.{i}.{part}.weight" for part in parts]
            found[f"model.layers.{i}.{whole}.weight"] = join([found.pop(name) for name in names])
    return found


def _split(
    name: str,
    array: NDArray[np.float32],
    fused: Mapping[str, Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, NDArray[np.float32]]:
    for whole, parts in fused.items():
        if name.endswith(f".{whole}.weight"):
            prefix = name.removesuffix(f"{whole}.weight")
            names = [f"{prefix}{part}.weight" for part in parts]
            ends = np.cumsum([shapes.get(part, (0,))[0] for part in names])
            if array.ndim != 2 or len(array) != ends[-1]:
                raise ValueError(f"{name}: expected {ends[-1]} rows, got {array.shape}")
            return dict(zip(names, np.split(array, ends[:-1]), strict=True))
    return {name: array}


def _to_float32(name: str, tensor: torch.Tensor) -> NDArray[np.float32]:
    if tensor.dtype not in _FLOATS:
        raise ValueError(f"{name}: expected float32, float16 or bfloat16, got {str(tensor.dtype).split('.')[-1]}")
    array: NDArray[np.float32] = tensor.to(torch.float32).numpy()
    return array


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name}: expected an object, got {type(value).__name__}")
    return value


def _advice(folder: Path) -> str | None:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if not pickles:
        return None
    return (
        f"{pickles[0]} is a pickle, which may run code when it is read, so it is not; take the model's safetensors, or "
        "convert it where you trust it: transformers' model.save_pretrained(DIR)"
    )
