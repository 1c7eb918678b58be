"""Three ways to run what a method left: our graph, the graph of onnxruntime-genai, or plain weights in torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.learn.checkpoint import read_checkpoint
from smallhold.learn.model import Trunk

Kind = Literal["graph", "genai", "weights"]
Floats = NDArray[np.float32]
Step = Callable[[], object]


class Reader(Protocol):
    """Reads a sequence from its beginning."""

    @property
    def has_signal_door(self) -> bool:
        """Whether it takes embeddings in place of token ids."""
        ...

    def logits(self, inputs: NDArray[Any], at: Sequence[int]) -> Floats:
        """(len(at), V) of token ids (T,) or embeddings (T, D)."""
        ...

    def decode(self, prompt: NDArray[np.int64]) -> Step | None:
        """One more token behind a prompt, the same one at every call; None where nothing of this speed would ship."""
        ...


def open_reader(kind: Kind, path: Path) -> Reader:
    """Load what a method left.

    Args:
        kind: How it is run.
        path: An `.onnx` file of ours, a folder of onnxruntime-genai, or a folder in Hugging Face's layout.
    """
    readers: dict[Kind, Callable[[Path], Reader]] = {
        "graph": GraphReader,
        "genai": GenaiReader,
        "weights": WeightsReader,
    }
    return readers[kind](path)


class GraphReader:
    """A graph of `bundle/onnx_graph.py`, with or without matrices that a peer has quantized."""

    has_signal_door = True

    def __init__(self, path: Path) -> None:
        self._backend = OnnxRuntimeBackend(path.read_bytes())

    def logits(self, inputs: NDArray[Any], at: Sequence[int]) -> Floats:
        """See `Reader.logits`."""
        return self._backend.session().score(inputs.tolist() if inputs.ndim == 1 else inputs, at)

    def decode(self, prompt: NDArray[np.int64]) -> Step:
        """See `Reader.decode`."""
        session = self._backend.session()
        session.append(prompt.tolist())
        return lambda: session.score([int(prompt[0])], [0])


class GenaiReader:
    """A graph of onnxruntime-genai's builder, run by ONNX Runtime itself with the same options as ours."""

    has_signal_door = False

    def __init__(self, folder: Path) -> None:
        import onnxruntime as ort  # late: our backend's import has switched its telemetry off

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        self._runtime = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        config = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        heads, size = config["num_key_value_heads"], config["head_size"]
        self._empty = {
            item.name: np.zeros((1, heads, 0, size), np.float32)
            for item in self._runtime.get_inputs()
            if item.name.startswith("past_key_values")
        }
        self._asked = {item.name for item in self._runtime.get_inputs()}
        self._outputs = [item.name for item in self._runtime.get_outputs()]

    def logits(self, inputs: NDArray[Any], at: Sequence[int]) -> Floats:
        """See `Reader.logits`."""
        found: Floats = self._run(inputs, self._empty, 0)[0][0, list(at)]
        return found

    def decode(self, prompt: NDArray[np.int64]) -> Step:
        """See `Reader.decode`."""
        said = dict(zip(self._outputs, self._run(prompt, self._empty, 0), strict=True))
        past = {name: said[name.replace("past_key_values", "present")] for name in self._empty}
        return lambda: self._run(prompt[:1], past, len(prompt))

    def _run(self, ids: NDArray[np.int64], past: dict[str, Floats], length: int) -> list[Any]:
        end = length + len(ids)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(length, end)[None],
        }
        asked = {name: value for name, value in feeds.items() if name in self._asked}
        found: list[Any] = self._runtime.run(self._outputs, {**asked, **past})
        return found


class WeightsReader:
    """Dequantized weights in torch: the quality of a method whose own runtime is not measured here."""

    has_signal_door = True

    def __init__(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder)
        self._trunk = Trunk(checkpoint.config).eval()
        state = {name: torch.from_numpy(array) for name, array in checkpoint.trunk.items()}
        if checkpoint.config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self._trunk.load_state_dict(state)

    @torch.inference_mode()
    def logits(self, inputs: NDArray[Any], at: Sequence[int]) -> Floats:
        """See `Reader.logits`."""
        whole = torch.from_numpy(inputs)[None]
        hidden = self._trunk.hidden(self._trunk.embed(whole) if inputs.ndim == 1 else whole)[0, list(at)]
        found: Floats = self._trunk.lm_head(hidden).numpy()
        return found

    def decode(self, prompt: NDArray[np.int64]) -> None:
        """See `Reader.decode`."""
