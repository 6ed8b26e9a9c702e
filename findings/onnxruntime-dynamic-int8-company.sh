#!/usr/bin/env bash
# onnxruntime 1.31.1, onnx 1.23.0: a model quantised by quantize_dynamic, with a batch dimension.
# Expected: a row's result is the same alone and in a batch, as it is of the float32 model.
# Seen: activations get one scale for the whole batch, so a quiet image beside a loud one is rounded
#   by the loud one's range, and its result changes by many times the error that it has alone.
# For users: behind a dynamic batcher an answer depends on whose request shared the batch, and a
#   cache keeps it. Serve such models one request at a time, or scale every row by itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.0 onnxruntime==1.31.1
FOLDER=$folder "$folder/venv/bin/python" - <<'PROGRAM'
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

folder = Path(os.environ["FOLDER"])
generator = np.random.default_rng(0)
weights = generator.normal(0, 0.1, (64, 64)).astype(np.float32)
quiet = generator.normal(0, 1, (1, 16, 64)).astype(np.float32)  # batch, tokens, channels
loud = 30 * quiet[:, ::-1]

graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "weights"], ["y"])],
    "linear",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16, 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16, 64])],
    [numpy_helper.from_array(weights, "weights")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, folder / "float32.onnx")
# Seven-bit weights, which every CPU multiplies exactly.
quantize_dynamic(
    folder / "float32.onnx",
    folder / "int8.onnx",
    weight_type=QuantType.QInt8,
    per_channel=True,
    reduce_range=True,
)

exact = quiet @ weights


def error(name: str, batch: np.ndarray) -> float:
    """Largest error of the quiet image, over its largest value."""
    session = onnxruntime.InferenceSession(
        folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": batch})
    return float(np.abs(y[0] - exact[0]).max() / np.abs(exact).max())


errors = {
    name: [error(name, quiet), error(name, np.concatenate([quiet, loud]))]
    for name in ("float32", "int8")
}
for name, (alone, together) in errors.items():
    print(f"{name:8} error alone {alone:.5f}, beside a loud image {together:.5f}")
alone, together = errors["int8"]
sys.exit(not (max(errors["float32"]) < 1e-5 and alone < 0.03 and together > 5 * alone))
PROGRAM
