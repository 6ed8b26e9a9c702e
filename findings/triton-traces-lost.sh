#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), tritonclient 2.57.0, numpy 1.26.4: OpenTelemetry mode, requests
#   with a caller's `traceparent`, one after another, by HTTP and by gRPC.
# Expected: the spans of every request are exported, whichever way it came; the queue of the exporter (2,048
#   spans) never fills.
# Seen: by HTTP all are; by gRPC those of some requests never come, all of a request together, and nothing
#   is logged about it. Others of the same batch of spans do come.
# For users: a trace without Triton's part is no sign that Triton was not called, or failed. Count requests
#   by Triton's metrics; a test that waits for the spans of one call waits for ever now and then.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4 "tritonclient[grpc]==2.57.0"
copy_model copy
grpc_port=$("$folder/venv/bin/python" -c 'import socket as s
print(s.create_server(("127.0.0.1", 0)).getsockname()[1])')
start_traced_triton --allow-grpc=true --grpc-address=127.0.0.1 --grpc-port="$grpc_port"
"$folder/venv/bin/python" - "$http" "$grpc_port" "$folder" <<'PROGRAM'
import json
import pathlib
import secrets
import sys
import time
import urllib.request

import numpy
import tritonclient.grpc as triton

url, folder = sys.argv[1] + "/v2/models/copy/infer", pathlib.Path(sys.argv[3])
body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[2]}")
x = triton.InferInput("x", [1, 4], "FP32")
x.set_data_from_numpy(numpy.ones((1, 4), numpy.float32))


def by_http(headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=30).read()


def by_grpc(headers):
    client.infer("copy", [x], headers=headers)


seen = {}
for ask in (by_http, by_grpc):
    traces = [secrets.token_hex(16) for _ in range(1000)]
    for trace in traces:
        ask({"traceparent": f"00-{trace}-{'3' * 16}-01"})
    time.sleep(5)  # many of the 200 ms in which spans are sent
    received = b"".join(path.read_bytes() for path in (folder / "received").iterdir())
    seen[ask] = sum(trace.encode() in received for trace in traces)
    print(f"{ask.__name__}: spans of {seen[ask]} of {len(traces)} requests")
errors = [line for line in (folder / "log").read_text().splitlines() if "OTLP" in line]
print(f"the exporter's lines in Triton's log: {len(errors)}")
sys.exit(not (seen[by_http] == 1000 and seen[by_grpc] < 1000 and not errors))
PROGRAM
