#!/usr/bin/env bash
# torch 2.14.1: workers of a DataLoader after their training was killed (kill -9, out of memory), by the
# start method of multiprocessing: fork, the default up to Python 3.13, and forkserver, that of 3.14.
# Expected: a worker notices within seconds that the process it works for is gone, and ends.
# Seen: so it does with fork. With forkserver it lives on, with all the memory it holds: it compares the id
#   of its parent, which is the fork server, and the server lives as long as its last worker.
# For users: from Python 3.14 on give multiprocessing_context="fork", or let the scheduler end the job's
#   whole group of processes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 torch==2.14.1
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import multiprocessing
import os
import signal
import subprocess
import sys
import time

METHODS = ("fork", "forkserver")
PATIENCE_S = 30

TRAIN = '''
import multiprocessing, sys
from torch.utils.data import DataLoader

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    batches = iter(DataLoader(range(1_000_000), batch_size=None, num_workers=1))
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    for batch in batches:
        pass
'''


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


with open("train.py", "w") as file:
    file.write(TRAIN)
seen = {}
for method in METHODS:
    training = subprocess.Popen([sys.executable, "train.py", method], stdout=subprocess.PIPE)
    worker = int(training.stdout.readline())
    training.kill()
    training.wait()
    end = time.monotonic() + PATIENCE_S
    while is_alive(worker) and time.monotonic() < end:
        time.sleep(0.5)
    seen[method] = is_alive(worker)
    state = "lives on" if seen[method] else "is gone"
    print(f"{method}: {PATIENCE_S} s after the training was killed, its worker {state}")
    if seen[method]:
        os.kill(worker, signal.SIGKILL)
print(multiprocessing.get_all_start_methods()[0], "is the default of this Python")
sys.exit(seen != {"fork": False, "forkserver": True})
PROGRAM
