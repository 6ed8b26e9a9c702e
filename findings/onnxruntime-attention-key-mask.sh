#!/usr/bin/env bash
# onnx 1.23.0, onnxruntime 1.31.1: opset-23 Attention with a key padding mask of (batch, 1, 1, keys).
# Expected: the mask broadcasts, as ONNX defines and torch's scaled_dot_product_attention exports it.
# Seen: the checker passes and ONNX's reference evaluator computes it; ONNX Runtime loads the model
#   and refuses every run, since it wants the mask's third dimension to equal the query length.
# For users: an attention exported at opset 23 with padded tokens cannot run. Expand the mask to
#   (batch, 1, queries, keys), or export at opset 18 with plain MatMul and Softmax.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.0 onnxruntime==1.31.1
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

batch, heads, queries, keys, width = 2, 4, 3, 5, 8
onnxruntime.set_default_logger_severity(4)
generator = np.random.default_rng(0)
feeds = {
    name: generator.normal(size=(batch, heads, length, width)).astype(np.float32)
    for name, length in (("q", queries), ("k", keys), ("v", keys))
}
key_mask = np.ones((batch, 1, 1, keys), bool)
key_mask[1, ..., 3:] = False  # the second item has two padded keys


def attempt(mask: np.ndarray) -> str:
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in feeds.items()]
    inputs.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, mask.shape))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, heads, queries, width))
    node = helper.make_node("Attention", ["q", "k", "v", "mask"], ["y"])
    graph = helper.make_graph([node], "attention", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    checker.check_model(model, full_check=True)
    values = {**feeds, "mask": mask}
    (expected,) = ReferenceEvaluator(model).run(None, values)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    try:
        (y,) = session.run(None, values)
    except Exception as error:
        return f"checker and reference pass, ONNX Runtime refuses: {str(error).rpartition('. ')[2]}"
    return f"largest difference to the reference {np.abs(y - expected).max():.1e}"


broadcast = attempt(key_mask)
expanded = attempt(np.broadcast_to(key_mask, (batch, 1, queries, keys)).copy())
print(f"mask {key_mask.shape}: {broadcast}")
print(f"mask {(batch, 1, queries, keys)}: {expanded}")
sys.exit(not ("refuses" in broadcast and expanded.startswith("largest difference")))
PROGRAM
