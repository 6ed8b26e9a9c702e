"""The gateway as a child process, restarted with backoff when it ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import IO, Final

from cpcsam.errors import ServingError
from serving.supervision.exec_with_pdeathsig import ending_with_this_process
from serving.supervision.restarts import Backoff, RestartLog

__all__ = ["supervised_gateway"]

LOG = logging.getLogger(__name__)
MODULE: Final = "serving.gateway"
LAST_LINE: Final = "metrics"
"""Start of the line that the gateway prints when it listens."""
POLL_S: Final = 0.2
KILL_S: Final = 5.0


@contextmanager
def supervised_gateway(
    options: Sequence[str], restarts: RestartLog, grace_s: float
) -> Iterator[None]:
    """Run `python -m serving.gateway` while the block runs; it listens when the block begins.

    It also ends when this process does. The addresses that it prints are passed on.

    Args:
        options: of the command; its ports are fixed, so that clients find it again.
        restarts: to count in, and for its metrics.
        grace_s: for its running requests when the block ends.

    Raises:
        ServingError: it did not start.
    """
    gateway = _GatewayThread([*options, "--restarts", str(restarts.path)], restarts)
    gateway.start()
    try:
        gateway.listening.result()
        yield
    finally:
        gateway.stop(grace_s + KILL_S)


class _GatewayThread(threading.Thread):
    """Starts the gateway, waits for its end, and starts it again.

    Attributes:
        listening: ends when the gateway listens for the first time, or does not.
    """

    def __init__(self, options: Sequence[str], restarts: RestartLog) -> None:
        super().__init__(name="gateway supervisor", daemon=True)
        self.listening: Future[None] = Future()
        self._options = options
        self._restarts = restarts
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                end = f"exit status {self._run_once()}"
            except OSError as error:  # no memory for a process, say
                end = str(error)
            if self._stopping.is_set():
                return
            if not self.listening.done():
                self.listening.set_exception(_not_started(end))
                return
            delay_s = backoff.delay_s(time.monotonic() - started)
            self._restarts.add("gateway", "exit")
            LOG.error("gateway: %s; it is restarted in %g s", end, delay_s)
            self._stopping.wait(delay_s)

    def stop(self, patience_s: float) -> None:
        """End the gateway, by SIGKILL if SIGTERM does not, and the thread."""
        self._stopping.set()
        deadline = time.monotonic() + patience_s
        try:
            # Repeated, as the process may be about to start.
            while self.is_alive() and time.monotonic() < deadline:
                if self._process is not None:
                    self._process.terminate()
                self.join(POLL_S)
        finally:
            while self.is_alive():
                if self._process is not None:
                    self._process.kill()
                self.join(POLL_S)

    def _run_once(self) -> int:
        """Run the gateway until it ends, and return its exit status."""
        command = [sys.executable, "-m", MODULE, *self._options]
        # In a session of its own: Ctrl-C in a terminal reaches this process alone, which ends it,
        # and processes that a killed gateway leaves behind can be killed with their group.
        process = subprocess.Popen(
            ending_with_this_process(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[self._restarts.descriptor],
            start_new_session=True,
        )
        self._process = process
        printed = threading.Thread(target=self._pass_on, args=(process.stdout,), daemon=True)
        printed.start()
        with suppress(ChildProcessError):  # `stop` has waited for it
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        printed.join(POLL_S)
        return process.wait()

    def _pass_on(self, stdout: IO[str]) -> None:
        """Print what the gateway does when it starts for the first time, and drop the rest."""
        with stdout:
            for line in stdout:
                if not self.listening.done():
                    print(line, end="", flush=True)
                    if line.startswith(LAST_LINE):
                        self.listening.set_result(None)


def _not_started(end: str) -> ServingError:
    return ServingError.of("the gateway", got=end, expected="a server", fix="see its message above")
