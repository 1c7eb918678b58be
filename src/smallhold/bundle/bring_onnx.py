"""An ONNX graph as the source of a bundle: only one that our runtime's contract can run.

That contract is one cache with time first (docs/decisions/0001): inputs `ids`, `embeddings`, `past`, `at`, outputs
`logits`, `present`. Graphs with one pair of cache tensors a layer, as onnxruntime-genai's builder and optimum write
them, are refused; the checkpoint that they were made of is what to bring.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from smallhold.bundle.source import Source, digest_files, read_licences, read_tokenizer
from smallhold.errors import DataError

_NAMES = ("model.onnx", "trunk.onnx", "onnx/trunk.onnx", "onnx/model.onnx")
_INPUTS, _OUTPUTS = {"ids": 1, "embeddings": 2, "past": 5, "at": 1}, {"logits": 2, "present": 5}
_CONTEXT = "smallhold.context_length"


def find_graph(source: Path) -> Path | None:
    """The graph that a path names or holds, or None."""
    if source.is_file():
        return source if source.suffix == ".onnx" else None
    return next((source / name for name in _NAMES if (source / name).exists()), None)


def read_onnx_source(graph: Path) -> Source:
    """Read a graph with the tokenizer beside it, or in the folder above.

    Raises:
        DataError: no ONNX file, a graph of another contract, or weights in a second file.
    """
    folder = graph.parent if (graph.parent / "tokenizer.json").exists() else graph.parent.parent
    data = graph.read_bytes()
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's own type, which carries no types to import
        raise DataError(f"{graph}: is not an ONNX file: {error}") from error
    _check_contract(graph, model)
    context = next(item.value for item in model.metadata_props if item.key == _CONTEXT)
    return Source(
        name=graph.name,
        kind="ONNX graph",
        config=None,
        graph=data,
        family=f"a graph written by {model.producer_name or 'an unnamed program'}",
        context_length=int(context),
        num_parameters=0,
        tokenizer=read_tokenizer(folder),
        digest=digest_files([graph]),
        licences=read_licences(folder),
    )


def _check_contract(path: Path, model: onnx.ModelProto) -> None:
    inputs = {item.name: len(item.type.tensor_type.shape.dim) for item in model.graph.input}
    outputs = {item.name: len(item.type.tensor_type.shape.dim) for item in model.graph.output}
    if inputs != _INPUTS or outputs != _OUTPUTS:
        names = list(inputs)
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        kind = ""
        if any(name.startswith(("past_key_values", "past_key", "past.")) for name in names):
            kind = " It keeps one pair of cache tensors a layer, as onnxruntime-genai's builder and optimum write them."
        raise DataError(
            f"{path}: the runtime needs the inputs {', '.join(_INPUTS)} and the outputs {', '.join(_OUTPUTS)}; the "
            f"graph has the inputs {shown or 'none'}.{kind}",
            hint="bring the checkpoint that it was exported from: smallhold bundle build --from DIR --name NAME",
        )
    if any(item.data_location == onnx.TensorProto.EXTERNAL for item in model.graph.initializer):
        raise DataError(
            f"{path}: its weights lie in a second file; a bundle's graph is one file",
            hint="bring the checkpoint that it was exported from",
        )
    context = {item.key: item.value for item in model.metadata_props}.get(_CONTEXT, "")
    if not context.isdecimal() or int(context) < 1:
        raise DataError(f"{path}: its metadata lack {_CONTEXT}, the positions that it is made for")
