#!/usr/bin/env bash
# onnxruntime-gpu 1.31.1, on a machine (or in a container) without the libraries of CUDA 13 and cuDNN 9.
# Expected: a session that was asked for CUDAExecutionProvider alone, with enable_fallback=False, cannot be
#   created; or get_available_providers() does not list the provider.
# Seen: the provider is listed, the session is created, get_providers() of it says CPUExecutionProvider,
#   and it answers. Nothing is raised; the reason is a line that C++ writes to stderr.
# For users: an image that lacks one library serves the whole model on the CPU, healthy and dozens of times
#   slower. Compare session.get_providers() with what was asked for, and refuse to start.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.2.6 onnx==1.23.0 onnxruntime-gpu==1.31.1
cd "$folder"
# Libraries that happen to be on this machine are kept out of sight.
env -u LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES= "$folder/venv/bin/python" - 2>stderr.txt <<'PROGRAM'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
opset = helper.make_opsetid("", 18)
onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), "relu.onnx")

listed = onnxruntime.get_available_providers()
session = onnxruntime.InferenceSession("relu.onnx", providers=[CUDA], enable_fallback=False)
(answer,) = session.run(None, {"x": np.float32([[-1, 0, 1, 2]])})
print("onnxruntime-gpu", onnxruntime.__version__)
print("available providers:", *listed)
print("asked for:          ", CUDA, "alone, without fallback")
print("the session has:    ", *session.get_providers())
print("its answer:         ", *answer[0])
sys.exit(not (CUDA in listed and session.get_providers() == [CPU] and answer[0, 3] == 2))
PROGRAM
echo "on stderr:           $(grep -o 'Failed to create CUDAExecutionProvider' stderr.txt | head -n 1)"
