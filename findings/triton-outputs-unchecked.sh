#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: a model's output differs from its configuration.
# Expected: Triton names the model whose output has another shape than its config.pbtxt declares.
# Seen: asked alone, the model succeeds with the undeclared shape; inside an ensemble the *next* step is
#   blamed, for an input of the wrong shape, and the first model's metrics count a success.
# For users: after such an error look at the step before the one that is named, and check outputs in
#   the model itself.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
model() { # NAME EXPRESSION
  mkdir -p "$folder/models/$1/1"
  cat >"$folder/models/$1/config.pbtxt" <<CONFIG
backend: "python"
max_batch_size: 1
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
instance_group { kind: KIND_CPU }
CONFIG
  cat >"$folder/models/$1/1/model.py" <<MODEL
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("y", $2)]) for array in arrays]
MODEL
}
model first 'array[:, :2]' # declares four values, returns two
model second 'array'
mkdir -p "$folder/models/both/1"
cat >"$folder/models/both/config.pbtxt" <<'CONFIG'
platform: "ensemble"
max_batch_size: 1
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
ensemble_scheduling {
  step {
    model_name: "first" model_version: -1
    input_map { key: "x" value: "x" } output_map { key: "y" value: "between" }
  }
  step {
    model_name: "second" model_version: -1
    input_map { key: "x" value: "between" } output_map { key: "y" value: "y" }
  }
}
CONFIG
start_triton
"$folder/venv/bin/python" - "$http" <<'PROGRAM'
import json
import sys
import urllib.error
import urllib.request


def ask(model: str) -> str:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    request = urllib.request.Request(
        f"{sys.argv[1]}/v2/models/{model}/infer", json.dumps(body).encode()
    )
    try:
        answer = json.loads(urllib.request.urlopen(request, timeout=30).read())
        return f"shape {answer['outputs'][0]['shape']}"
    except urllib.error.HTTPError as error:
        return "error: " + json.loads(error.read())["error"]


seen = {model: ask(model) for model in ("first", "both")}
for model, answer in seen.items():
    print(f"{model}: {answer}")
blames_second = "'second'" in seen["both"] and "'first'" not in seen["both"]
sys.exit(not (seen["first"] == "shape [1, 2]" and blames_second))
PROGRAM
