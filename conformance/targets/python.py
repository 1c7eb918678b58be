"""What has sessions in Python: the oracle, ONNX Runtime, and the engine's native library with each of its kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from conformance.compare import FloatArray
from conformance.decisions import ask_python
from conformance.models import Model
from conformance.prompts import Prompt
from conformance.target import Request, Target, build_engine, of_backend, of_program
from smallhold.bundle.bring_gguf import read_gguf_source
from smallhold.device.backends.engine import EngineBackend, kernel_families
from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend
from smallhold.device.backends.reference import ReferenceBackend


def reference() -> list[Target]:
    """The oracle itself, beside our decoder in torch: plain Llama, which is all that it computes."""

    def beside(model: Model, prompts: Sequence[Prompt]) -> Iterator[FloatArray]:
        import torch

        from smallhold.learn.model import Trunk

        source = read_gguf_source(model.gguf)
        assert source.config is not None  # noqa: S101 - only a graph has none
        trunk = Trunk(source.config)
        state = {name: torch.from_numpy(array.copy()) for name, array in source.trunk.items()}
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
        trunk.load_state_dict(state)
        with torch.no_grad():
            for prompt in prompts:
                (part,) = prompt.parts
                is_embedded = isinstance(part, np.ndarray)
                inputs = torch.from_numpy(part)[None] if is_embedded else trunk.embed(torch.tensor([part]))
                yield trunk.eval()(inputs)[0].numpy()

    def decide(bundle: Path, keys: Path, requests: Sequence[Request]) -> list[Request]:
        return ask_python(bundle, keys, requests, "reference")

    logits = of_backend(lambda model: ReferenceBackend(model.gguf.read_bytes()))
    return [
        Target(
            name="reference (numpy)",
            logits=logits,
            beside=beside,
            decide=decide,
            tolerance="reference",
            families=False,
        )
    ]


def onnx_runtime() -> list[Target]:
    """The default where Python is."""

    def decide(bundle: Path, keys: Path, requests: Sequence[Request]) -> list[Request]:
        return ask_python(bundle, keys, requests, "onnx_runtime")

    logits = of_backend(lambda model: OnnxRuntimeBackend(model.onnx.read_bytes()))
    return [Target(name="ONNX Runtime", logits=logits, decide=decide, tolerance="onnx_runtime")]


def engine() -> list[Target]:
    """The native library over its C interface, decisions by the program."""
    release = build_engine()
    program = release / "smallhold-engine"

    def of_family(family: str) -> Target:
        def open_backend(model: Model) -> EngineBackend:
            return EngineBackend(model.gguf, kernels=family)

        def words(bundle: Path, keys: Path) -> Sequence[str | Path]:
            return program, bundle, "--trusted-keys", keys, "--kernels", family

        return Target(
            name=f"engine, {os.uname().machine}, {family}",
            logits=of_backend(open_backend),
            decide=of_program(words, deadline_seconds=300),
            is_exact_in_pieces=True,
        )

    return [of_family(family) for family in kernel_families()]
