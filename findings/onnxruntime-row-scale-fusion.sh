#!/usr/bin/env bash
# onnxruntime 1.31.1, onnx 1.23.0: int8 product with one scale per row, one per column, and a bias.
# Expected: graph optimisation changes no result: y = product · rows · columns + bias.
# Seen: if both scales are multiplied first and a bias follows, the extended level (the default is
#   above it) fuses all of it into MatMulIntegerToFloat, which adds the bias before the row scale.
# For users: activations quantised per token come out wrong at the size of the bias, without a
#   warning. Multiply by the two scales one after the other, or disable the extended optimisations.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.0 onnxruntime==1.31.1
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

generator = np.random.default_rng(0)
x = generator.integers(0, 256, (4, 8)).astype(np.uint8)
weights = generator.integers(-31, 32, (8, 6)).astype(np.int8)  # small: exact on every CPU
rows = np.array([[0.001], [0.01], [0.1], [1.0]], np.float32)
columns = generator.uniform(0.01, 0.02, 6).astype(np.float32)
bias = np.full(6, 5, np.float32)
product = (x.astype(np.int32) - 128) @ weights.astype(np.int32)
expected = product * rows * columns + bias


def model(scales_first: bool) -> bytes:
    node = helper.make_node
    if scales_first:
        scaling = [node("Mul", ["rows", "columns"], ["scale"]), node("Mul", ["float", "scale"], ["s"])]
    else:
        scaling = [node("Mul", ["float", "columns"], ["half"]), node("Mul", ["half", "rows"], ["s"])]
    graph = helper.make_graph(
        [
            node("MatMulInteger", ["x", "weights", "zero_point"], ["product"]),
            node("Cast", ["product"], ["float"], to=TensorProto.FLOAT),
            *scaling,
            node("Add", ["s", "bias"], ["y"]),
        ],
        "int8_by_rows",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", 8]),
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["rows", 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 6])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array(128, np.uint8), "zero_point"),
            numpy_helper.from_array(columns, "columns"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(made, full_check=True)
    return made.SerializeToString()


def error(scales_first: bool, level: str) -> float:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(
        model(scales_first), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x, "rows": rows})
    return float(np.abs(y - expected).max())


errors = {
    (order, level): error(order, level)
    for order in (True, False)
    for level in ("ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
}
for (order, level), value in errors.items():
    print(f"{'scales multiplied first' if order else 'one scale after the other':26} {level:20} {value:.6f}")
wrong = {key for key, value in errors.items() if value > 1e-3}
sys.exit(wrong != {(True, "ORT_ENABLE_EXTENDED"), (True, "ORT_ENABLE_ALL")})
PROGRAM
