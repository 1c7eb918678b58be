"""A bundle's weights in torch: exactly the numbers that its runtimes compute with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from smallhold.bundle.bring_gguf import read_gguf_trunk
from smallhold.decide.local import TRUNK_FILES, LocalBundle, LocalTask
from smallhold.device.gguf import read_gguf
from smallhold.errors import DataError
from smallhold.learn.model import SignalModel
from smallhold.learn.trunk_config import TrunkConfig


def shipped_trunk(bundle: LocalBundle) -> tuple[TrunkConfig, dict[str, Tensor]]:
    """Shape and state of an opened bundle's trunk.

    Raises:
        DataError: the trunk's file is missing or is no plain Llama.
    """
    path = TRUNK_FILES["reference"]
    config, arrays = read_gguf_trunk(bundle.files.path / path, bundle.read(path))
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return config, state


def shipped_encoder(bundle: LocalBundle, path: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of one of an opened bundle's signal encoders.

    Args:
        bundle: Verified.
        path: Inside the bundle.
        like: State of such an encoder.
    """
    tensors = read_gguf(bundle.read(path)).tensors
    # Quantized matrices were padded with zero columns up to a multiple of their group.
    return {name: torch.from_numpy(tensors[name][..., : t.shape[-1]].copy()) for name, t in like.items()}


def take_shipped(model: SignalModel, tokenizer: Tokenizer, bundle: LocalBundle) -> None:
    """Give a recipe's model the weights of a bundle that the same recipe made.

    Args:
        model: Its encoder is left alone where the bundle has none.
        tokenizer: Of the model, with the rows of its tasks.
        bundle: Opened, so verified.

    Raises:
        DataError: the bundle has another vocabulary or other shapes.
    """
    where = f"bundle {bundle.manifest.name} {bundle.manifest.version}"
    hint = "give the recipe that it was made by, and the base that its card names"
    if bundle.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise DataError(f"{where}: has another vocabulary than the recipe", hint=hint)
    tasks = map(bundle.task, bundle.manifest.tasks)
    signal = next((task for task in tasks if isinstance(task, LocalTask)), None)  # a recipe's signal tasks share one
    try:
        model.trunk.load_state_dict(shipped_trunk(bundle)[1])
        if signal is not None:
            model.encoder.load_state_dict(shipped_encoder(bundle, signal.task.encoder, model.encoder.state_dict()))
    except (RuntimeError, KeyError) as error:  # torch's word for a tensor of another shape
        raise DataError(f"{where}: its weights do not fit the recipe's model: {error}", hint=hint) from error
