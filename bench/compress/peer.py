"""One peer's quantizer, run by the interpreter of its own environment: `python peer.py TASK CHECKPOINT FOLDER`.

Reads `FOLDER/calibration.safetensors` (`tokens`, (N, T) int64). Writes either a graph or, in Hugging Face's layout, the
weights that its runtime computes with as float32; and `FOLDER/peer.json`, the fields of `methods.Artefact`. Imports
nothing of this project, whose packages may conflict.
"""

# mypy: ignore-errors
# Its imports are those of other environments.

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
_SIMULATED = "simulated in torch: its own runtime is not a device's, or wants another processor"
_GROUP = 32


def main() -> None:
    """Do one task."""
    task, checkpoint, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    family, _, variant = task.partition("-")
    made = {"ort": ort, "genai": genai, "torchao": torchao, "llmc": llmc}[family](variant, checkpoint, folder)
    (folder / "peer.json").write_text(json.dumps(made, indent=1))


def ort(variant: str, checkpoint: Path, folder: Path) -> dict[str, Any]:  # noqa: ARG001 - the graph holds the weights
    """ONNX Runtime's `MatMulNBits` quantizer on `FOLDER/float32.onnx`: round to nearest, or HQQ; blocks of 32."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as peer

    bits = 8 if variant == "int8" else 4
    if variant == "hqq":
        config = peer.HQQWeightOnlyQuantConfig(block_size=_GROUP, bits=bits)
    else:
        # Accuracy level 4, activations in 8 bits, as in our own graphs: only the rounding of weights differs.
        config = peer.DefaultWeightOnlyQuantConfig(block_size=_GROUP, is_symmetric=True, accuracy_level=4, bits=bits)
    quantizer = peer.MatMulNBitsQuantizer(onnx.load(folder / "float32.onnx"), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / "model.onnx"), use_external_data_format=False)
    size = (folder / "model.onnx").stat().st_size
    return artefact("graph", "model.onnx", size, f"layers and head int{bits}, embedding float32", "onnxruntime")


def genai(variant: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """onnxruntime-genai's model builder, for the CPU, with blocks of 32 and activations in 8 bits as in our graphs."""
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    precision = "int8" if variant == "int8" else "int4"
    words = [f"block_size={_GROUP}", "accuracy_level=4"]
    words += ["algo_config=k_quant"] if variant == "k-quant" else []
    out = folder / "genai"
    given = (None, str(checkpoint), str(out), precision, "cpu", str(folder / "cache"))
    create_model(*given, **parse_extra_options(*given, words))
    size = sum(path.stat().st_size for path in out.glob("model.onnx*"))
    return artefact("genai", "genai", size, f"{types_of(out)}", "onnxruntime-genai")


def types_of(out: Path) -> str:
    """What the builder quantized: operators of the graph, counted."""
    import onnx

    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized", "MatMul", "Gather"):
            bits = next((f" {item.i} bits" for item in node.attribute if item.name == "bits"), "")
            found[node.op_type + bits] = found.get(node.op_type + bits, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))


def torchao(variant: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """torchao, weights alone: int8 with a scale a row, int4 with a scale for 32 weights."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_

    model = load(checkpoint)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    inside = {name: module for name, module in linears.items() if name != "lm_head"}
    if variant == "int8":
        config = Int8WeightOnlyConfig()
    else:
        config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(_GROUP))
    quantize_(model, config, filter_fn=lambda _module, name: name in inside)
    size = 0
    for name, module in inside.items():
        rows, columns = module.weight.shape
        bits, scales = (8, rows) if variant == "int8" else (4, rows * columns // _GROUP)
        size += rows * columns * bits // 8 + scales * 2
        dense = module.weight.dequantize().float()
        module.weight = torch.nn.Parameter(dense, requires_grad=False)
        linears[name] = module
    size += sum(p.numel() * 4 for name, p in model.named_parameters() if name.removesuffix(".weight") not in inside)
    save(model, checkpoint, folder)
    about = f"layers {variant}, embedding and head float32; bytes computed, scales in 16 bits"
    return artefact("weights", "weights", size, about, "torchao", _SIMULATED)


def llmc(variant: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """llm-compressor: GPTQ in 4 bits with groups of 32, symmetric; or half of each row's weights zero (Wanda)."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from safetensors.torch import load_file

    tokens = load_file(folder / "calibration.safetensors")["tokens"]
    rows = {"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()}
    model = load(checkpoint)
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    oneshot(
        model=model,
        dataset=Dataset.from_dict(rows),
        recipe=[gptq() if variant == "gptq" else wanda()],
        max_seq_length=tokens.shape[1],
        num_calibration_samples=len(tokens),
    )
    inside = {f"{name}.weight" for name in linears}
    if variant == "gptq":
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize

        for module in linears.values():
            scheme = module.quantization_scheme.weights
            zero = getattr(module, "weight_zero_point", None)
            dense = fake_quantize(module.weight, module.weight_scale, zero, scheme)
            module.weight = torch.nn.Parameter(dense.float(), requires_grad=False)
    names = {name: p for name, p in model.named_parameters() if name.endswith(("weight", "bias"))}
    size = sum(p.numel() * 4 for name, p in names.items() if name not in inside)
    if variant == "gptq":
        size += sum(p.numel() // 2 + p.numel() // _GROUP * 2 for name, p in names.items() if name in inside)
        about = "layers int4, embedding and head float32; bytes computed, scales in 16 bits"
    else:
        size += sum(p.numel() * 4 for name, p in names.items() if name in inside)
        share = sum(int((names[n] == 0).sum()) for n in inside) / sum(names[n].numel() for n in inside)
        about = f"float32, {share:.0%} of the layers' weights zero: zeros take as many bytes as other numbers"
    save(model, checkpoint, folder)
    return artefact("weights", "weights", size, about, "llmcompressor", _SIMULATED)


def gptq() -> Any:
    """GPTQ in groups of 32; the preset of 128 does not divide rows of 192."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import GPTQModifier

    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=_GROUP)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])


def wanda() -> Any:
    """Wanda, half of the weights of each row."""
    try:
        from llmcompressor.modifiers.pruning import WandaPruningModifier
    except ImportError:
        from llmcompressor.modifiers.obcq import WandaPruningModifier
    return WandaPruningModifier(sparsity=0.5, mask_structure="0:0", targets=["Linear"], ignore=["lm_head"])


def load(checkpoint: Path) -> Any:
    """The checkpoint as `transformers` reads it, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def save(model: Any, checkpoint: Path, folder: Path) -> None:
    """Dense float32 weights in Hugging Face's layout; the tied head is left out, as in the source."""
    from safetensors.torch import save_file

    out = folder / "weights"
    out.mkdir(exist_ok=True)
    kept = ("weight", "bias")
    state = {n: p.detach().float().contiguous() for n, p in model.named_parameters() if n.rpartition(".")[2] in kept}
    state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(checkpoint / "config.json", out)


def artefact(kind: str, path: str, size: int, about: str, package: str, why_no_speed: str = "") -> dict[str, Any]:
    """The fields of `methods.Artefact`."""
    versions = {name: version(name) for name in (package, "torch", "transformers")}
    return {
        "kind": kind,
        "path": path,
        "size_bytes": size,
        "about": about,
        "versions": versions,
        "why_no_speed": why_no_speed,
    }


if __name__ == "__main__":
    main()
