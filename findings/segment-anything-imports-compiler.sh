#!/usr/bin/env bash
# segment-anything 1.0 with torchvision 0.29.1 and torch 2.14.1, on the CPU: `import segment_anything`.
# Expected: what a program pays for it is about what `import torch` costs; nothing is compiled in it.
# Seen: it imports torchvision.transforms for two functions that resize, that torchvision's models and operators,
#   and one of those torch._dynamo: with it come sympy and parts of torch.distributed, nearly as many modules again.
# For users: every worker, command and test that is started pays about twice the time of `import torch`, seconds
#   on a small machine, before it loads a weight; a process that is forked after the import pays it once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 segment-anything==1.0
"$folder/venv/bin/python" - <<'PROGRAM'
import json
import subprocess
import sys

SEEN = """
import json, sys, time
__import__(sys.argv[1])
compiler = [name for name in sys.modules if name.split(".")[:2] == ["torch", "_dynamo"]]
print(json.dumps([len(sys.modules), len(compiler), "sympy" in sys.modules, time.process_time()]))
"""


def imported(name):
    """The second run, which reads compiled files and a warm disk."""
    words = [sys.executable, "-c", SEEN, name]
    return json.loads([subprocess.check_output(words, text=True) for _ in range(2)][1])


torch, sam = imported("torch"), imported("segment_anything")
for name, (modules, compiler, sympy, seconds) in (("torch", torch), ("segment_anything", sam)):
    print(f"{name}: {modules} modules, {compiler} of torch._dynamo, sympy {sympy}, {seconds:.1f} CPU s")
sys.exit(not (torch[1] == 0 and not torch[2] and sam[1] > 50 and sam[2] and sam[0] > 1.4 * torch[0]))
PROGRAM
