"""What no runtime on this machine can beat, one thread: reading the weights, and multiplying by them in 8 bits."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_ROUNDS = 7


def read_gb_per_second(size_bytes: int) -> float:
    """Fastest reading of so many bytes again and again, from cache or memory as it comes: best of three sums."""
    words = np.ones(size_bytes // 8, np.uint64)
    floats = torch.ones(size_bytes // 4)
    integers = torch.ones(size_bytes // 8, dtype=torch.int64)
    seconds = min(_seconds(words.sum), _seconds(floats.sum), _seconds(integers.sum))
    return size_bytes / seconds / 1e9


def int8_giga_macs_per_second(rows: int) -> float:
    """Fastest product of 8-bit matrices with so many rows, by torch or ONNX Runtime; the best of a few shapes.

    Without VNNI, ONNX Runtime lets sums of two products saturate, and torch has no fast one.
    """
    best = 0.0
    for inner, columns in ((192, 512), (512, 192), (576, 1536), (1024, 1024), (2048, 8192)):
        left = torch.randint(-127, 128, (max(rows, 32), inner), dtype=torch.int8)
        right = torch.randint(-127, 128, (columns, inner), dtype=torch.int8).T
        products = (
            lambda left=left, right=right: torch._int_mm(left, right),
            _matrix_product(left.numpy().astype(np.uint8), np.ascontiguousarray(right.numpy())),
        )
        best = max(best, *(left.shape[0] * inner * columns / _seconds(product) / 1e9 for product in products))
    return best


def _matrix_product(left: NDArray[np.uint8], right: NDArray[np.int8]) -> Callable[[], object]:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, left.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (left.shape[0], right.shape[1]))],
        [numpy_helper.from_array(right, "w")],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"x": left})


def _seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call, the least of several rounds of at least 20 ms."""
    torch.set_num_threads(1)
    times = 1
    best = np.inf
    for _ in range(_ROUNDS):
        while True:
            begun = time.thread_time()
            for _ in range(times):
                work()
            spent = time.thread_time() - begun
            if spent >= 0.02:
                break
            times *= 2
        best = min(best, spent / times)
    return float(best)
