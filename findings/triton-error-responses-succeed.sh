#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: metrics of a Python model that refuses.
# Expected: a request that is answered by InferenceResponse(error=...) counts as failed.
# Seen: it counts in nv_inference_request_success; only an exception that leaves execute() counts in
#   nv_inference_request_failure, and it fails all requests of its batch.
# For users: an alert on Triton's failure counter misses every error that a Python model reports the
#   documented way. Count failures in front of Triton.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
mkdir -p "$folder/models/refuse/1"
cat >"$folder/models/refuse/config.pbtxt" <<'CONFIG'
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { kind: KIND_CPU }
CONFIG
cat >"$folder/models/refuse/1/model.py" <<'MODEL'
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = utils.get_input_tensor_by_name(request, "x").as_numpy()
            if x[0] == 2:
                raise ValueError("an exception")
            error = utils.TritonError("an error response") if x[0] == 1 else None
            responses.append(utils.InferenceResponse([utils.Tensor("y", x)], error=error))
        return responses
MODEL
start_triton
"$folder/venv/bin/python" - "$http" "$metrics" <<'PROGRAM'
import json
import re
import sys
import urllib.error
import urllib.request

http, metrics = sys.argv[1:]


def counters() -> tuple[int, int]:
    page = urllib.request.urlopen(metrics, timeout=30).read().decode()
    success = re.findall(r'^nv_inference_request_success\{model="refuse".*?\} (\d+)', page, re.M)
    failure = re.findall(r'^nv_inference_request_failure\{model="refuse".*?\} (\d+)', page, re.M)
    return sum(map(int, success)), sum(map(int, failure))


def ask(value: int) -> tuple[str, int, int]:
    before = counters()
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]}
    request = urllib.request.Request(f"{http}/v2/models/refuse/infer", json.dumps(body).encode())
    try:
        urllib.request.urlopen(request, timeout=30).read()
        answer = "200"
    except urllib.error.HTTPError as error:
        answer = f"{error.code}"
    success, failure = counters()
    return answer, success - before[0], failure - before[1]


seen = {name: ask(value) for value, name in enumerate(("answer", "error response", "exception"))}
for name, (answer, success, failure) in seen.items():
    print(f"{name:15} HTTP {answer}: success +{success}, failure +{failure}")
sys.exit(
    not (
        seen["answer"] == ("200", 1, 0)
        and seen["error response"][0] != "200"
        and seen["error response"][1:] == (1, 0)
        and seen["exception"][0] != "200"
        and seen["exception"][1:] == (0, 1)
    )
)
PROGRAM
