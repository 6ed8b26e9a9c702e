#!/usr/bin/env bash
# superqt 0.9.0 (napari's threading), PyQt6 6.11.0: functions of workers that return an exception object.
# Expected: a returned value is a value, `returned` carries it, and `finished` follows.
# Seen: a returned ValueError is raised, so `errored` carries it and `returned` is silent; after a
#   returned RuntimeError there is no signal at all, not even `finished`, though one that is raised has both.
# For users: errors as values need a wrapper, such as a tuple, or a waiting widget waits forever.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet PyQt6==6.11.0 PyQt6-Qt6==6.11.2 qtpy==2.4.3 superqt==0.9.0
QT_QPA_PLATFORM=offscreen "$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import sys

from qtpy.QtCore import QCoreApplication, QThreadPool
from superqt.utils import create_worker

app = QCoreApplication(sys.argv[:1])


def signals_of(work: object) -> list[str]:
    """Run a function in a worker, and return the signals that came."""
    came: list[str] = []
    worker = create_worker(work, _start_thread=False, _ignore_errors=True)
    for name in ("returned", "errored", "finished"):
        getattr(worker, name).connect(lambda *_, name=name: came.append(name))
    worker.start()
    QThreadPool.globalInstance().waitForDone()
    for _ in range(100):
        app.processEvents()
    return came


def raising() -> None:
    raise RuntimeError("raised")


seen = {
    "returns a number": signals_of(lambda: 1),
    "raises a RuntimeError": signals_of(raising),
    "returns a ValueError": signals_of(lambda: ValueError("a value")),
    "returns a RuntimeError": signals_of(lambda: RuntimeError("a value")),
}
for name, came in seen.items():
    print(f"a function that {name}: {', '.join(came) or 'no signal'}")
expected = [["returned", "finished"], ["errored", "finished"], ["errored", "finished"], []]
sys.exit(list(seen.values()) != expected)
PROGRAM
