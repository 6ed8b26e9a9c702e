#!/usr/bin/env bash
# tensorrt-rtx 1.7.1.116 (CUDA 13 wheels), onnx 1.23.0: opset-23 Attention in a strongly typed network, built
# ahead of time for compute capability 8.9 (no GPU needed).
# Expected: a graph that the parser accepts builds, or the parser names what is unsupported.
# Seen: float16 and bfloat16 build; float32 parses without a complaint and then fails in the builder,
#   since Attention without a dedicated kernel is not decomposed into products and softmax.
# For users: a clean parse proves nothing. Export float32 (the reference engine of an accuracy check, for
#   example) with MatMul and Softmax, and gate exports on a build.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.0 \
  tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import tensorrt_rtx_bindings as tensorrt
from onnx import TensorProto, checker, helper


class Errors(tensorrt.ILogger):
    def __init__(self) -> None:
        super().__init__()

    def log(self, severity: object, message: str) -> None:
        """Keep quiet: the outcome says enough."""


def outcome(dtype: int) -> tuple[bool, bool]:
    """Whether the graph parses, and whether it builds."""
    values = {
        name: helper.make_tensor_value_info(name, dtype, (1, 8, 64, 64)) for name in ("q", "k", "v", "y")
    }
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    graph = helper.make_graph([node], "attention", [values[n] for n in "qkv"], [values["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    checker.check_model(model, full_check=True)
    builder = tensorrt.Builder(logger)
    flag = tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parsed = tensorrt.OnnxParser(network, logger).parse(model.SerializeToString())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(tensorrt.ComputeCapability.SM89, 0)
    return parsed, builder.build_serialized_network(network, config) is not None


logger = Errors()
seen = {name: outcome(getattr(TensorProto, name)) for name in ("FLOAT", "FLOAT16", "BFLOAT16")}
for name, (parsed, built) in seen.items():
    print(f"{name:9} parsed: {parsed}, built: {built}")
sys.exit(seen != {"FLOAT": (True, False), "FLOAT16": (True, True), "BFLOAT16": (True, True)})
PROGRAM
