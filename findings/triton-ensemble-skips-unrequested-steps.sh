#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: an ensemble of two steps on the same input,
#   each giving one output of the ensemble.
# Expected: a request runs every step of the ensemble; naming outputs only chooses what is returned.
# Seen: a step whose output nobody requested is left out, without a word in answer or log.
# For users: a health check that names one output does not test the other steps, and steps with
#   side effects (stores, counters) do not see every request. Request an output of each step.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
copy_model left
copy_model right
mkdir -p "$folder/models/both/1"
cat >"$folder/models/both/config.pbtxt" <<'CONFIG'
platform: "ensemble"
max_batch_size: 1
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "left" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "right" data_type: TYPE_FP32 dims: [ 4 ] }
ensemble_scheduling {
  step {
    model_name: "left" model_version: -1
    input_map { key: "x" value: "x" } output_map { key: "y" value: "left" }
  }
  step {
    model_name: "right" model_version: -1
    input_map { key: "x" value: "x" } output_map { key: "y" value: "right" }
  }
}
CONFIG
start_triton
"$folder/venv/bin/python" - "$http" <<'PROGRAM'
import json
import sys
import urllib.request

URL = sys.argv[1]


def get(path: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(URL + path, data, timeout=30) as answer:
        return json.load(answer)


def runs(model: str) -> int:
    return get(f"/v2/models/{model}/stats")["model_stats"][0]["execution_count"]


def count(outputs: list[str] | None) -> tuple[int, int]:
    before = runs("left"), runs("right")
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    for _ in range(10):
        get("/v2/models/both/infer", body)
    ran = runs("left") - before[0], runs("right") - before[1]
    print(f"10 requests for {outputs or 'all outputs'}: left ran {ran[0]} times, right {ran[1]}")
    return ran


seen = count(None), count(["left", "right"]), count(["left"])
sys.exit(seen != ((10, 10), (10, 10), (10, 0)))
PROGRAM
