"""A directory in Hugging Face's layout as the source of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smallhold.bundle.source import Source, chat_files, digest_files, read_licences, read_tokenizer
from smallhold.bundle.weights import read_quantized
from smallhold.errors import DataError
from smallhold.learn.hugging_face import read_hugging_face, weight_files


def read_directory_source(folder: Path) -> Source:
    """Read a checkpoint with its tokenizer, chat template and licence.

    Raises:
        DataError: a file is missing, truncated or malformed.
        RecipeError: a family or a variant that is not supported.
    """
    tokenizer = read_tokenizer(folder)  # cheap, so before the weights
    config, trunk = read_hugging_face(folder)
    about = _read_json(folder / "tokenizer_config.json")
    template: Any = about.get("chat_template")
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return Source(
        name=folder.resolve().name,
        kind="Hugging Face checkpoint",
        config=config,
        trunk=trunk,
        quantized=read_quantized(folder)["trunk"],
        family=config.model_type,
        context_length=config.max_position_embeddings,
        num_parameters=sum(array.size for array in trunk.values()),
        tokenizer=tokenizer,
        digest=digest_files(weight_files(folder)),
        chat=chat_files(template, {name: about.get(name) for name in ("bos_token", "eos_token")}),
        licences=read_licences(folder),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}
