#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: response cache of a Python model.
# Expected: a request with another parameter is another request.
# Seen: the cache's key holds the input tensors only: a request with another parameter gets the
#   answer that was cached for the first one, with status 200.
# For users: give whatever changes the answer (threshold, mask selection) as an input tensor, never as
#   a request parameter, where a response cache is on.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
for name in cached plain; do
  mkdir -p "$folder/models/$name/1"
  cat >"$folder/models/$name/config.pbtxt" <<CONFIG
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { kind: KIND_CPU }
response_cache { enable: $([ "$name" = cached ] && echo true || echo false) }
CONFIG
  cat >"$folder/models/$name/1/model.py" <<'MODEL'
import json

import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = utils.get_input_tensor_by_name(request, "x").as_numpy()
            factor = json.loads(request.parameters() or "{}").get("factor", 1)
            y = (x * factor).astype(np.float32)
            responses.append(utils.InferenceResponse([utils.Tensor("y", y)]))
        return responses
MODEL
done
start_triton --cache-config=local,size=1048576
"$folder/venv/bin/python" - "$http" <<'PROGRAM'
import json
import sys
import urllib.request


def ask(model: str, factor: int) -> float:
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [3]}],
        "parameters": {"factor": factor},
    }
    url = f"{sys.argv[1]}/v2/models/{model}/infer"
    answer = urllib.request.urlopen(url, json.dumps(body).encode(), timeout=30).read()
    return json.loads(answer)["outputs"][0]["data"][0]


seen = {model: [ask(model, factor) for factor in (1, 2, 10)] for model in ("plain", "cached")}
for model, answers in seen.items():
    print(f"{model:7} x = 3 with factor 1, 2, 10: {answers}")
sys.exit(not (seen["plain"] == [3, 6, 30] and seen["cached"] == [3, 3, 3]))
PROGRAM
