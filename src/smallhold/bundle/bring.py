"""An existing model as a bundle, without training: a Hugging Face directory, a GGUF file or an ONNX graph of ours.

The bundle has no task. It holds the trunk, the tokenizer, the model's own chat template and licence where it has them,
and a card that says where all of it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.bundle.assemble import MANIFEST, Files, sign_bundle
from smallhold.bundle.bring_card import write_card
from smallhold.bundle.bring_gguf import read_gguf_source
from smallhold.bundle.bring_hugging_face import read_directory_source
from smallhold.bundle.bring_onnx import find_graph, read_onnx_source
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.publish import is_bundle, new_bundle
from smallhold.bundle.rounding import encode_weight
from smallhold.bundle.source import Source
from smallhold.bundle.weights import ModelWeights, QuantizedWeight, Weight
from smallhold.decide.local import TRUNK_FILES, open_bundle
from smallhold.device.durable_file import write_durably
from smallhold.device.home import Home
from smallhold.device.manifest import FileEntry, Manifest, is_bundle_name, parse_version
from smallhold.errors import BackendError, DataError, InputError
from smallhold.learn.checkpoint import Checkpoint
from smallhold.learn.trunk_config import TrunkConfig
from smallhold.records import sha256_hex
from smallhold.version import __version__

Progress = Callable[[str, int, int], None]
BITS = (4, 8, 16, 32)
#: Context of a bundle unless the caller says otherwise: the cache of a long one is larger than most devices.
MOST_CONTEXT = 8192


def bundle_from_checkpoint(
    source: Path,
    out: Path,
    *,
    home: Home | None,
    name: str,
    version: str = "1.0.0",
    bits: int = 8,
    progress: Progress,
    context: int | None = None,
    origin: str | None = None,
) -> Path:
    """Make a bundle without tasks of an existing model.

    Args:
        source: A directory with `config.json`, safetensors and `tokenizer.json`; a `.gguf` file of the architecture
            `llama`; or a directory with an ONNX graph of ours and `tokenizer.json`.
        out: Where the bundle goes: a directory, or a file ending in `.zip`; replaced when it is a bundle already.
        home: Whose publisher's key signs; None leaves the bundle unsigned.
        name: What the bundle calls itself.
        version: `1.2.3`.
        bits: Of the weights: 4 or 8 (groups of 32), 16 (float16) or 32. An ONNX graph stays
            as it is.
        progress: Called with a caption, how much is done, and of how much.
        context: Positions of context; default: the model's own, at most 8192.
        origin: Where the source came from, for the card; default: its name.

    Returns:
        `out`.

    Raises:
        InputError: an argument is impossible, or `out` exists and is no bundle.
        DataError: a file of the source is missing, truncated or malformed, or its parts do not fit together.
        RecipeError: a family or a variant that is not supported; the message names it.
    """
    _check_arguments(source, name, version, bits, context)
    key = None if home is None else home.publisher_key()  # before the long work: it may be missing
    with new_bundle(out) as folder:
        progress("reading the model", 0, 1)
        found = _read(source)
        progress("reading the model", 1, 1)
        length = _context(found, context)
        if found.config is None:
            graph = found.graph
        else:
            config = replace(found.config, max_position_embeddings=length)
            graph = _export(found.trunk, found.quantized, config, bits, progress)
        files: Files = {
            TRUNK_FILES["onnx_runtime"]: (graph, "trunk", "onnx_runtime"),
            "tokenizer.json": (found.tokenizer, "tokenizer", None),
            "card.md": (
                write_card(found, name=name, bits=bits, context=length, origin=origin).encode(),
                "model card",
                None,
            ),
            **{path: (data, role, None) for path, (data, role) in found.chat.items()},
            **{f"licences/{path}": (data, "licence", None) for path, data in found.licences.items()},
        }
        manifest = Manifest(
            name=name,
            version=version,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            expires=None,
            minimum_runtime=__version__,
            base_digest=found.digest,
            context_length=length,
            tasks=(),
            is_simulated=False,
            training_data=(),
            files={
                path: FileEntry(sha256=sha256_hex(data), bytes=len(data), role=role, runtime=runtime)
                for path, (data, role, runtime) in sorted(files.items())
            },
        )
        for path, (data, _, _) in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_durably(folder / path, [data], mode=0o644)
        write_durably(folder / MANIFEST, [manifest.to_bytes()], mode=0o644)
        del files, graph  # the trial loads the model once more
        _try_out(folder, progress)
        if key is not None:
            sign_bundle(folder, key)
    return out


def _check_arguments(source: Path, name: str, version: str, bits: int, context: int | None) -> None:
    if not source.exists():
        raise InputError(f"{source}: there is no such file or directory")
    if not is_bundle_name(name):
        raise InputError(f"--name: expected letters, digits, '.', '_' and '-', got {name!r}")
    parse_version(version)
    if bits not in BITS:
        raise InputError(f"--bits: expected one of {', '.join(map(str, BITS))}, got {bits}")
    if context is not None and context < 1:
        raise InputError(f"--context: expected 1 position or more, got {context}")


def _read(source: Path) -> Source:
    if source.is_file() and source.suffix == ".gguf":
        return read_gguf_source(source)
    if source.is_dir() and (source / "config.json").exists():
        return read_directory_source(source)
    if (graph := find_graph(source)) is not None:
        return read_onnx_source(graph)
    hint = "a run of ours needs no --from: smallhold bundle build RUN --out BUNDLE"
    if is_bundle(source):
        hint = "it is a bundle already: smallhold bundle inspect"
    raise DataError(
        f"{source}: expected a directory with config.json and safetensors, a .gguf file, or a directory with "
        "model.onnx; found none of them",
        hint=hint,
    )


def _context(found: Source, wanted: int | None) -> int:
    if found.config is None:
        if wanted is not None and wanted != found.context_length:
            raise InputError(f"--context: the graph is made for {found.context_length} positions, got {wanted}")
        return found.context_length
    if wanted is not None and wanted > found.context_length:
        raise InputError(f"--context: the model is made for at most {found.context_length} positions, got {wanted}")
    return wanted or min(found.context_length, MOST_CONTEXT)


def _export(
    weights: dict[str, NDArray[np.float32]],
    quantized: Mapping[str, QuantizedWeight],
    config: TrunkConfig,
    bits: int,
    progress: Progress,
) -> bytes:
    """The graph; `weights` is emptied: each is let go as soon as it is encoded.

    A matrix that was quantized to the same bits keeps its integers: rounding again would undo what chose them.
    """
    trunk: dict[str, Weight] = {}
    names = list(weights)
    for done, name in enumerate(names):
        progress("encoding the weights", done, len(names))
        weight = weights.pop(name)
        if not np.isfinite(weight).all():
            raise DataError(f"{name}: holds NaN or infinity")
        kept = quantized.get(name)
        if kept is None or (kept.bits, kept.values.shape) != (bits, weight.shape):
            trunk[name] = encode_weight(name, weight, bits)
        else:
            trunk[name] = kept
    progress("encoding the weights", len(names), len(names))
    progress("writing the graph", 0, 1)
    graph = trunk_onnx(ModelWeights(Checkpoint(config, {}, {}, {}, Path()), trunk, {}))
    progress("writing the graph", 1, 1)
    return graph


def _try_out(folder: Path, progress: Progress) -> None:
    """Run the finished bundle once, so that nothing is shipped that does not load.

    Raises:
        DataError: the tokenizer spells tokens that the model does not have.
        BackendError: the runtime refuses the graph, or the logits are not finite.
    """
    progress("trying it out", 0, 1)
    bundle = open_bundle(folder, unsafe_skip_verification=True)
    largest = max(bundle.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= bundle.backend.vocab_size:
        raise DataError(
            f"tokenizer.json: has a token {largest}, and the model has {bundle.backend.vocab_size}: they do not belong "
            "together"
        )
    logits = bundle.backend.session().score([0, bundle.backend.vocab_size - 1][: bundle.backend.context_length], [0])
    if not np.isfinite(logits).all():
        raise BackendError("the model's logits are not finite", hint="try --bits 32")
    progress("trying it out", 1, 1)
