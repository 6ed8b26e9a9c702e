#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: dynamic batching with a queue timeout.
# Expected: a default queue timeout of 10 s only drops requests that wait for 10 s; an idle model
#   answers eight small requests at once.
# Seen: with the timeout set, some of the eight answers take half a second or a multiple of it; the
#   same model without the timeout answers all of them in milliseconds.
# For users: set no default_timeout_microseconds in this version; bound the waiting in front of it.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
for name in plain limited; do
  mkdir -p "$folder/models/$name/1"
  policy=
  [ "$name" = plain ] || policy='default_queue_policy { default_timeout_microseconds: 10000000 }'
  cat >"$folder/models/$name/config.pbtxt" <<CONFIG
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
instance_group { kind: KIND_CPU }
dynamic_batching { $policy }
CONFIG
  cat >"$folder/models/$name/1/model.py" <<'MODEL'
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("y", array)]) for array in arrays]
MODEL
done
start_triton
"$folder/venv/bin/python" - "$http" <<'PROGRAM'
import json
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()


def seconds(model: str) -> float:
    started = time.monotonic()
    urllib.request.urlopen(f"{sys.argv[1]}/v2/models/{model}/infer", BODY, timeout=60).read()
    return time.monotonic() - started


slowest = {}
with ThreadPoolExecutor(8) as pool:
    for model in ("plain", "limited"):
        rounds = [sorted(pool.map(seconds, [model] * 8)) for _ in range(60)]
        slowest[model] = sum(times[-1] > 0.49 for times in rounds)
        worst = max(rounds, key=lambda times: times[-1])
        print(f"{model:8} worst round of eight, ms:", *(f"{1000 * t:.0f}" for t in worst))
        print(f"{model:8} rounds with an answer after 490 ms: {slowest[model]} of 60")
sys.exit(not (slowest["plain"] == 0 < slowest["limited"]))
PROGRAM
