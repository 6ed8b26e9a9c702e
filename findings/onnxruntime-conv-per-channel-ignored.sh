#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_dynamic with per_channel=True.
# Expected: one weight scale per output channel, for MatMul and Conv alike, or an error.
# Seen: MatMul gets one scale per column; Conv silently keeps one scale for all of its channels.
# For users: a convolution whose channels differ in range (SAM's patch embedding and neck do) loses
#   its small channels entirely. Quantise the MatMuls alone, or fold scales into the weights first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.0 onnxruntime==1.31.1
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import logging
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

logging.disable(logging.WARNING)
generator = np.random.default_rng(0)
ranges = np.array([1e-3, 1e-2, 1e-1, 1], np.float32)


def save(operator: str, weights: np.ndarray, x: list[int], y: list[int]) -> None:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "weights"], ["y"])],
        operator,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, f"{operator}.onnx")


def scales(operator: str, weight_type: QuantType) -> tuple[int, ...]:
    quantize_dynamic(
        f"{operator}.onnx",
        "int8.onnx",
        per_channel=True,
        weight_type=weight_type,
        op_types_to_quantize=[operator],
    )
    (scale,) = (
        tensor
        for tensor in onnx.load("int8.onnx").graph.initializer
        if tensor.name.endswith("weights_scale")
    )
    return tuple(scale.dims)


save("MatMul", generator.normal(size=(16, 4)).astype(np.float32) * ranges, [5, 16], [5, 4])
convolution = generator.normal(size=(4, 3, 3, 3)).astype(np.float32) * ranges[:, None, None, None]
save("Conv", convolution, [1, 3, 16, 16], [1, 4, 14, 14])
found = {
    "MatMul": scales("MatMul", QuantType.QInt8),
    "Conv": scales("Conv", QuantType.QUInt8),
}
for operator, shape in found.items():
    print(f"{operator:7} per_channel=True: scale of shape {shape}")

x = {"x": generator.normal(size=(1, 3, 16, 16)).astype(np.float32)}
run = lambda file: onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, x)[0]
want, got = run("Conv.onnx"), run("int8.onnx")
lost = [float(np.abs(got - want)[0, c].max() / np.abs(want[0, c]).max()) for c in range(4)]
print("Conv, largest error of each channel over its range:", [round(value, 3) for value in lost])
sys.exit(not (found == {"MatMul": (4,), "Conv": ()} and lost[0] == 1.0 and lost[3] < 0.02))
PROGRAM
