#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 2.2.6 against 1.26.4: a Python model that returns
# its input.
# Expected: the same answer under both, or a clear refusal to import numpy 2.
# Seen: with numpy 2 the model loads and Triton reports it ready; every output arrives with 0 bytes,
#   so the request fails on its size, or the next model of an ensemble does.
# For users: pin numpy below 2 wherever this Python backend runs; "ready" proves nothing about it.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==2.2.6
mkdir -p "$folder/models/echo/1"
cat >"$folder/models/echo/config.pbtxt" <<'CONFIG'
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
instance_group { kind: KIND_CPU }
CONFIG
cat >"$folder/models/echo/1/model.py" <<'MODEL'
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("y", array * 2)]) for array in arrays]
MODEL
cat >"$folder/ask.py" <<'PROGRAM'
import json, sys, urllib.error, urllib.request

body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}]}
request = urllib.request.Request(sys.argv[1], json.dumps(body).encode())
try:
    with urllib.request.urlopen(request, timeout=30) as response:
        print(json.loads(response.read())["outputs"][0]["data"])
except urllib.error.HTTPError as error:
    print("error:", json.loads(error.read())["error"])
PROGRAM
ask() { "$folder/venv/bin/python" "$folder/ask.py" "$http/v2/models/echo/infer"; }

start_triton
two=$(ask)
echo "numpy 2.2.6:  $two"
kill -9 -- "-$triton" && wait "$triton" 2>/dev/null || true
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 2>/dev/null
start_triton
one=$(ask)
echo "numpy 1.26.4: $one"
[[ $two == error:* ]] && [ "$one" = "[2.0, 4.0, 6.0, 8.0]" ]
