#!/usr/bin/env bash
# nvidia-pytriton 0.7.0 (tritonserver 2.51), numpy 1.26.4: the process of a Python model ends, as the
#   kernel's memory killer ends it; here by a SIGKILL to it alone.
# Expected: Triton starts the process again, or says that the model, or the server, is not ready.
# Seen: it does neither; the server and the model stay ready, and every request fails for ever.
# For users: readiness probes do not see it. Send a tiny request through every model as the health
#   check, and restart the whole server when that fails.
set -euo pipefail
# shellcheck source=lib/triton.sh
. "$(dirname "$0")/lib/triton.sh" numpy==1.26.4
copy_model echo
cat >"$folder/models/echo/1/model.py" <<'MODEL'
import os

import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        with open(os.path.join(args["model_repository"], "pid"), "w") as file:
            file.write(str(os.getpid()))

    def execute(self, requests):
        arrays = [utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("y", array)]) for array in arrays]
MODEL
start_triton --strict-readiness=true
"$folder/venv/bin/python" - "$http" "$folder/models/echo/pid" <<'PROGRAM'
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request

URL = sys.argv[1]
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()


def status(path: str, body: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(URL + path, body, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        print("  ", json.loads(error.read())["error"][:90])
        return error.code


def report(when: str) -> tuple[int, int, int]:
    print(when)
    seen = (
        status("/v2/health/ready"),
        status("/v2/models/echo/ready"),
        status("/v2/models/echo/infer", BODY),
    )
    print("  server ready %d, model ready %d, inference %d" % seen)
    return seen


before = report("before")
with open(sys.argv[2]) as file:
    os.kill(int(file.read()), signal.SIGKILL)
time.sleep(5)
after = [report("5 s after")]
time.sleep(25)
after.append(report("30 s after"))
sys.exit(before != (200, 200, 200) or any(a[:2] != (200, 200) or a[2] == 200 for a in after))
PROGRAM
