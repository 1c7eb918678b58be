"""Checkpoints on disk, in Hugging Face's layout: ours, and those of other people (`hugging_face.py`).

A directory holds `config.json` and `model.safetensors` (the trunk, loadable by `transformers` unchanged) or shards,
`tokenizer.json`, and for the signal door `signal_encoder.safetensors`. `smallhold.json` says what was trained.
Nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save

from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.learn.families import config_to_json
from smallhold.learn.hugging_face import WEIGHTS, fuse, read_hugging_face
from smallhold.learn.model import SignalModel, Trunk, TrunkConfig

ENCODER_FILE = "signal_encoder.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as plain arrays.

    Attributes:
        config: Shape of the trunk.
        trunk: Parameter name (Hugging Face's) to float32 array; without `lm_head.weight` when tied.
        encoder: Signal encoder's parameters, empty when there is none.
        about: Contents of `smallhold.json`.
        folder: Where it was read.
    """

    config: TrunkConfig
    trunk: dict[str, NDArray[np.float32]]
    encoder: dict[str, NDArray[np.float32]]
    about: dict[str, Any]
    folder: Path


def save_checkpoint(
    model: SignalModel, folder: Path, about: dict[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write trunk, encoder and description; each file appears whole or not at all.

    Args:
        model: What was trained.
        folder: Created when absent.
        about: Contents of `smallhold.json`.
        dtype: float32, or float16 for half the size; it is read back as float32.
    """
    save_trunk(model.trunk, folder, dtype=dtype)
    save_tensors(folder / ENCODER_FILE, {name: t.to(dtype) for name, t in model.encoder.state_dict().items()})
    write_durably(folder / "smallhold.json", [json.dumps(about, indent=1).encode()], mode=0o644)


def save_trunk(trunk: Trunk, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write `config.json` and `model.safetensors` as `transformers` does.

    Raises:
        RecipeError: the family's `config.json` cannot say a feature of the trunk.
    """
    described = config_to_json(trunk.config)
    folder.mkdir(parents=True, exist_ok=True)
    state = trunk.state_dict()
    if trunk.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    stored = fuse(trunk.config, {name: t.to(dtype) for name, t in state.items()}, torch.cat)
    save_tensors(folder / WEIGHTS, stored)
    config = described | {"torch_dtype": str(dtype).removeprefix("torch.")}
    write_durably(folder / "config.json", [json.dumps(config, indent=1).encode()], mode=0o644)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file; it appears whole or not at all."""
    data = save({name: t.detach().contiguous() for name, t in tensors.items()}, metadata={"format": "pt"})
    write_durably(path, [data], mode=0o644)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint as arrays.

    Raises:
        DataError: a file is missing, truncated or malformed, or tensors do not fit the configuration.
        RecipeError: a family or a variant that is not supported.
    """
    config, trunk = read_hugging_face(folder)
    try:
        encoder = _load(folder / ENCODER_FILE) if (folder / ENCODER_FILE).exists() else {}
        about_file = folder / "smallhold.json"
        about = json.loads(about_file.read_text()) if about_file.exists() else {}
    except (SafetensorError, ValueError) as error:
        raise DataError(f"checkpoint {folder}: truncated or malformed: {error}") from error
    return Checkpoint(config, trunk, encoder, about, folder)


def _load(path: Path) -> dict[str, NDArray[np.float32]]:
    return {name: array.astype(np.float32) for name, array in load_file(path).items()}


def load_signal_model(folder: Path) -> SignalModel:
    """A trained model, in evaluation mode.

    Raises:
        DataError: see `read_checkpoint`; or the tensors do not fit the configuration.
    """
    checkpoint = read_checkpoint(folder)
    if not checkpoint.encoder:
        raise DataError(f"checkpoint {folder}: {ENCODER_FILE} is missing")
    try:
        num_channels = checkpoint.encoder["basis.weight"].shape[1] // 4
        model = SignalModel(checkpoint.config, num_channels, checkpoint.encoder["static.weight"].shape[1])
        trunk = {name: torch.from_numpy(array) for name, array in checkpoint.trunk.items()}
        if checkpoint.config.tie_word_embeddings:
            trunk["lm_head.weight"] = trunk["model.embed_tokens.weight"]
        model.trunk.load_state_dict(trunk)
        model.encoder.load_state_dict({name: torch.from_numpy(array) for name, array in checkpoint.encoder.items()})
    except (RuntimeError, KeyError, IndexError) as error:
        raise DataError(f"checkpoint {folder}: tensors do not fit config.json: {error}") from error
    return model.eval()
