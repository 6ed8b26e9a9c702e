#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: dynamic batching of requests of two shapes.
# Expected: sixteen waiting requests, eight of each of two shapes, make two batches of eight.
# Seen: only neighbours in the queue are merged and nothing is reordered: if the shapes alternate,
#   sixteen batches of one; sorted by shape, the same requests make a few large batches.
# For users: pad requests to few shapes (buckets) in front of Triton, or keep a queue for each shape.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
mkdir -p "$folder/models/count/1"
cat >"$folder/models/count/config.pbtxt" <<'CONFIG'
backend: "python"
max_batch_size: 16
input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "y" data_type: TYPE_INT32 dims: [ 1 ] }
instance_group { kind: KIND_CPU }
dynamic_batching { }
CONFIG
cat >"$folder/models/count/1/model.py" <<'MODEL'
import time

import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        first = utils.get_input_tensor_by_name(requests[0], "x").as_numpy()
        time.sleep(1.5 if first[0, 0] < 0 else 0.01)  # a negative value holds the model busy
        size = np.array([[len(requests)]], np.int32)
        return [utils.InferenceResponse([utils.Tensor("y", size)]) for _ in requests]
MODEL
start_triton
"$folder/venv/bin/python" - "$http" <<'PROGRAM'
import json
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor


def batch_size(length: int, value: float = 1.0) -> int:
    data = {"name": "x", "datatype": "FP32", "shape": [1, length], "data": [value] * length}
    body = json.dumps({"inputs": [data]}).encode()
    url = f"{sys.argv[1]}/v2/models/count/infer"
    answer = json.loads(urllib.request.urlopen(url, body, timeout=60).read())
    return int(answer["outputs"][0]["data"][0])


def executions(lengths: list[int]) -> float:
    """Number of batches in which requests that wait in this order are run."""
    with ThreadPoolExecutor(32) as pool:
        busy = pool.submit(batch_size, 4, -1.0)
        time.sleep(0.3)
        waiting = []
        for length in lengths:
            waiting.append(pool.submit(batch_size, length))
            time.sleep(0.04)  # keeps their order
        busy.result()
        return sum(1 / request.result() for request in waiting)


alternating, by_shape = executions([4, 8] * 8), executions([4] * 8 + [8] * 8)
print(f"16 requests, shapes alternating: {alternating:.0f} batches; sorted by shape: {by_shape:.0f}")
sys.exit(not (alternating >= 14 and by_shape <= 5))
PROGRAM
