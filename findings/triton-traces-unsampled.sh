#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: OpenTelemetry mode with rate=0, so that only
#   requests with a caller's `traceparent` are traced.
# Expected: as W3C Trace Context says, the last field tells whether the caller records the trace, and a
#   server that follows its parent exports nothing for 00.
# Seen: spans are exported for 00 just as for 01.
# For users: a sampler in the client does not lessen what Triton sends to the collector, and fragments of
#   traces that nobody else recorded arrive there. Send `traceparent` to Triton only for sampled requests.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
copy_model copy
start_traced_triton
"$folder/venv/bin/python" - "$http" "$folder/received" <<'PROGRAM'
import json
import pathlib
import sys
import time
import urllib.request

url, folder = sys.argv[1] + "/v2/models/copy/infer", pathlib.Path(sys.argv[2])
body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
traces = {"01": "1" * 32, "00": "2" * 32, "no traceparent": ""}
for flag, trace in traces.items():
    request = urllib.request.Request(url, json.dumps(body).encode())
    if trace:
        request.add_header("traceparent", f"00-{trace}-{'3' * 16}-{flag}")
    urllib.request.urlopen(request, timeout=30).read()
time.sleep(3)  # several of the 200 ms in which spans are sent
bodies = [path.read_bytes() for path in folder.glob("body*")]
seen = {
    flag: sum(bytes.fromhex(trace) in one or trace.encode() in one for one in bodies)
    for flag, trace in traces.items()
    if trace
}
print(f"posts to the collector: {len(bodies)}; with the trace of flag 01: {seen['01']}, of flag 00: {seen['00']}")
sys.exit(not (seen["01"] and seen["00"]))
PROGRAM
