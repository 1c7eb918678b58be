"""The smaller model as other tools read it: a plain Hugging Face directory with its card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from smallhold.compress.language_source import LanguageSource
from smallhold.device.durable_file import write_durably
from smallhold.learn.checkpoint import save_trunk
from smallhold.learn.model import Trunk
from smallhold.sectors.data_sets import KNOWN

_WITH_ID = ("bos_token", "eos_token", "pad_token")
_MARKS = (*_WITH_ID, "unk_token")
_KEPT = ("chat_template", "clean_up_tokenization_spaces")


def write_plain_checkpoint(trunk: Trunk, tokenizer: Tokenizer, source: LanguageSource, folder: Path) -> None:
    """Write `config.json`, weights, tokenizer, the teacher's chat template and its licence.

    The marks have the ids of this vocabulary, which a trimmed one does not share with the teacher's.

    Raises:
        RecipeError: the family's `config.json` cannot say a feature of the trunk.
    """
    save_trunk(trunk, folder)
    marks = {name: mark for name in _MARKS if (mark := _spelled(source.marks.get(name))) is not None}
    ids = {f"{name}_id": tokenizer.token_to_id(marks.get(name, "")) for name in _WITH_ID}
    config = json.loads((folder / "config.json").read_text()) | ids
    about = marks | {name: source.marks[name] for name in _KEPT if name in source.marks}
    about |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": trunk.config.max_position_embeddings}
    _write(folder / "config.json", json.dumps(config, indent=1))
    _write(folder / "tokenizer_config.json", json.dumps(about, indent=1, ensure_ascii=False))
    _write(folder / "tokenizer.json", tokenizer.to_str())
    write_licences(source, folder)


def write_licences(source: LanguageSource, folder: Path) -> None:
    """Put the teacher's licence files beside a checkpoint."""
    for name, data in source.licences.items():
        write_durably(folder / name, [data], mode=0o644)


def write_language_card(
    folder: Path,
    *,
    name: str,
    source: LanguageSource,
    digest: str,
    parameters: Sequence[int],
    documents: Mapping[str, int],
    tokens: int,
    targets: str,
    bits_per_byte: Mapping[str, float],
    rounding: str,
    recipe_digest: str,
) -> None:
    """Write `README.md`: of whom the model was made, on what, and what that left of it.

    Args:
        folder: Of the checkpoint.
        name: Of the model.
        source: The teacher.
        digest: SHA-256 of the teacher's files.
        parameters: The teacher's and the smaller model's.
        documents: Training documents of each source.
        tokens: Read in healing.
        targets: Of the healing.
        bits_per_byte: Model to bits per byte of the held-out documents.
        rounding: What `rounded` means there, in words.
        recipe_digest: Of the recipe.
    """
    licence = ", ".join(f"[{path}]({path})" for path in source.licences)
    terms = {known.name: known.licence for known in KNOWN}
    rows = {
        "teacher": f"`{source.origin}`",
        "SHA-256 of its files": f"`{digest}`",
        "its licence": licence or "none lay beside it: ask its authors; it holds for this model too",
        "parameters": f"{parameters[1]:,} of the teacher's {parameters[0]:,}",
        "texts": "; ".join(
            f"{Path(n).name} ({count:,} documents; {terms.get(n, 'licence unknown')})" for n, count in documents.items()
        ),
        "healing": f"{tokens:,} tokens, targets `{targets}`",
        "recipe": f"`sha256:{recipe_digest}`",
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    bits = [f"| {rounding if key == 'rounded' else key} | {value:.4f} |" for key, value in bits_per_byte.items()]
    text = [
        f"# {name}",
        "",
        "A language model made smaller by `smallhold compress`: parts of the teacher were removed, and what is left "
        "learned again. Not a medical device.",
        "",
        "| | |",
        "| --- | --- |",
        *lines,
        "",
        "Bits per byte of documents that were held out; they chose nothing. Lower is better.",
        "",
        "| Model | Bits per byte |",
        "| --- | --- |",
        *bits,
        "",
    ]
    _write(folder / "README.md", "\n".join(text))


def _spelled(mark: Any) -> str | None:
    value = mark.get("content") if isinstance(mark, dict) else mark
    return value if isinstance(value, str) else None


def _write(path: Path, text: str) -> None:
    write_durably(path, [text.encode()], mode=0o644)
