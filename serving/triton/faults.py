"""Faults of a running Triton that only a restart mends: its end, a dead step, failing inference.

Triton stays ready when the process of a Python step has ended, by the kernel's memory killer for
example, and does not start it again; every request fails from then on.
"""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.errors import ServingError
from serving.supervision.processes import processes, read_process
from serving.triton.probe import Answered, answered_requests, infer_tiny_image

__all__ = ["OUTDATED", "Fault", "steps_of", "wait_for_fault"]

POLL_S: Final = 0.2
STEP: Final = "triton_python_b"
"""Name of the processes of Python steps, as the kernel cuts it."""
CHECK_PERIOD_S: Final = 5.0
RETRY_S: Final = 1.0
MAX_SHARE: Final = 0.02
"""Largest share of the time that inference of its own may take."""
MAX_FAILURES: Final = 3
PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Fault:
    """Reason to restart Triton.

    Attributes:
        cause: `exit`, `step`, `inference` or `start`, as restarts are counted; or `version`.
        text: for the log.
    """

    cause: str
    text: str


OUTDATED: Final = Fault("version", "another version is current")
"""Reason to replace a Triton that is well."""


def wait_for_fault(
    server: subprocess.Popen[bytes],
    address: str,
    steps: Mapping[int, str],
    is_outdated: Callable[[], bool] = lambda: False,
) -> Fault:
    """Watch a server that is ready until it has to be restarted, or replaced by another version.

    The end of the server or of a step is noticed in less than a second.

    Args:
        server: its process.
        address: HOST:PORT of its HTTP.
        steps: as `steps_of` returned when it became ready.
        is_outdated: whether another version is current; `OUTDATED` is returned then.
    """
    inference = _InferenceCheck(address)
    try:
        while True:
            dead = [name for pid, name in steps.items() if not _is_child(pid, server.pid)]
            # A pause after a step was seen dead, as it may have ended with its server.
            with suppress(subprocess.TimeoutExpired):
                return Fault("exit", f"it ended with exit status {server.wait(POLL_S)}")
            if dead:
                return Fault("step", f"the process of its step {dead[0]} ended")
            if inference.failure is not None:
                return Fault("inference", inference.failure)
            if is_outdated():
                return OUTDATED
    finally:
        inference.stop()


def _is_child(pid: int, parent: int) -> bool:
    """Return whether a process runs and has not left its number to another."""
    process = read_process(pid)
    return process is not None and process.parent == parent


def steps_of(server: int) -> dict[int, str]:
    """Return the models of a server's Python steps by process."""
    return {
        step.pid: _model_of(step.pid)
        for step in processes()
        if step.parent == server and step.name == STEP
    }


def _model_of(pid: int) -> str:
    """Read the model's name from the arguments of a step: stub, MODEL/VERSION/model.py, ..."""
    words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    parents = Path(words[1]).parents if len(words) > 1 else ()
    return parents[1].name if len(parents) > 1 else str(pid)


class _InferenceCheck:
    """Thread that checks every few seconds whether `segment` has answered, else by a tiny image.

    A server in use is left alone, so is one that may still be at work on a request, and an idle one
    spends at most `MAX_SHARE` of its time on this. A long queue is no failure: requests before the
    tiny image are answered, or it is itself, though too late.

    Attributes:
        failure: description of `MAX_FAILURES` failures in a row, if there were.
    """

    def __init__(self, address: str) -> None:
        self.failure: str | None = None
        self._address = address
        self._answered = Answered(0, 0.0)
        self._shortest_s = math.inf
        self._was_silent = False
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="inference check", daemon=True).start()

    def stop(self) -> None:
        """End the thread after its current check."""
        self._stopped.set()

    def _run(self) -> None:
        failures, pause_s = 0, CHECK_PERIOD_S
        while not self._stopped.wait(pause_s):
            try:
                pause_s = max(CHECK_PERIOD_S, self._check() / MAX_SHARE)
                failures = 0
            except (OSError, ServingError) as error:
                failures, pause_s = failures + 1, RETRY_S
                if failures == MAX_FAILURES:
                    self.failure = f"a tiny image failed {failures} times: {error}"
                    return

    def _check(self) -> float:
        """Return the seconds that inference takes by itself, as far as they are known."""
        before, self._answered = self._answered, answered_requests(self._address, PATIENCE_S)
        requests = self._answered.requests - before.requests
        if requests > 0:
            seconds = (self._answered.total_s - before.total_s) / requests
        elif not self._was_silent:
            self._was_silent = True
            return 0.0
        else:
            started = time.monotonic()
            infer_tiny_image(self._address, PATIENCE_S)
            seconds = time.monotonic() - started
        self._was_silent = False
        self._shortest_s = min(self._shortest_s, seconds)  # others waited for each other
        return self._shortest_s
