"""The gateway and the HTTP front as child processes, restarted when they end or stand still."""

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
from serving.supervision.allocator import allocator_environment
from serving.supervision.exec_with_pdeathsig import ending_with_this_process
from serving.supervision.heartbeat import wait_for_silence
from serving.supervision.restarts import Backoff, RestartLog

__all__ = ["supervised"]

LOG = logging.getLogger(__name__)
LAST_LINE: Final = "metrics"
"""Start of the last line that a server prints when it listens."""
POLL_S: Final = 0.2
SILENCE_S: Final = 20.0
"""Without a heartbeat, after which a program is killed; event loops halt for moments only."""
START_S: Final = 120.0
"""Until its first heartbeat."""
KILL_S: Final = 5.0


@contextmanager
def supervised(
    program: str, options: Sequence[str], restarts: RestartLog, grace_s: float
) -> Iterator[None]:
    """Run `python -m serving.PROGRAM` while the block runs; it listens when the block begins.

    It also ends when this process does. The addresses that it prints are passed on.

    Args:
        program: `gateway` or `http`.
        options: of the command; its ports are fixed, so that clients find it again.
        restarts: to count in; the child inherits its file.
        grace_s: for its running requests when the block ends.

    Raises:
        ServingError: it did not start.
    """
    child = _ChildThread(program, options, restarts)
    child.start()
    try:
        child.listening.result()
        yield
    finally:
        child.stop(grace_s + KILL_S)


class _ChildThread(threading.Thread):
    """Starts the program, waits for its end, and starts it again.

    Attributes:
        listening: ends when the program listens for the first time, or does not.
    """

    def __init__(self, program: str, options: Sequence[str], restarts: RestartLog) -> None:
        super().__init__(name=f"{program} supervisor", daemon=True)
        self.listening: Future[None] = Future()
        self._program = program
        self._options = options
        self._restarts = restarts
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._is_silent = False

    def run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            started = time.monotonic()
            self._is_silent = False
            try:
                end = f"exit status {self._run_once()}"
            except OSError as error:  # no memory for a process, say
                end = str(error)
            if self._stopping.is_set():
                return
            if not self.listening.done():
                self.listening.set_exception(_not_started(self._program, end))
                return
            delay_s = backoff.delay_s(time.monotonic() - started)
            if self._is_silent:
                end = f"no heartbeat for {SILENCE_S:g} s"
            self._restarts.add(self._program, "silence" if self._is_silent else "exit")
            LOG.error("%s: %s; it is restarted in %g s", self._program, end, delay_s)
            self._stopping.wait(delay_s)

    def stop(self, patience_s: float) -> None:
        """End the program, by SIGKILL if SIGTERM does not, and the thread."""
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
        """Run the program until it ends, and return its exit status."""
        reader, writer = os.pipe()
        heartbeat = ["--heartbeat", str(writer)]
        command = [sys.executable, "-m", f"serving.{self._program}", *self._options, *heartbeat]
        # In a session of its own: Ctrl-C in a terminal reaches this process alone, which ends it,
        # and processes that a killed program leaves behind can be killed with their group.
        process = subprocess.Popen(
            ending_with_this_process(command),
            env=allocator_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[self._restarts.descriptor, writer],
            start_new_session=True,
        )
        self._process = process
        os.close(writer)
        watch = threading.Thread(target=self._end_when_silent, args=(reader, process), daemon=True)
        watch.start()
        printed = threading.Thread(target=self._pass_on, args=(process.stdout,), daemon=True)
        printed.start()
        with suppress(ChildProcessError):  # `stop` has waited for it
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        printed.join(POLL_S)
        watch.join()  # the pipe has no writer any more
        os.close(reader)
        return process.wait()

    def _end_when_silent(self, heartbeat: int, process: subprocess.Popen[str]) -> None:
        if wait_for_silence(heartbeat, START_S, SILENCE_S):
            self._is_silent = True
            process.kill()

    def _pass_on(self, stdout: IO[str]) -> None:
        """Print what the program does when it starts for the first time, and drop the rest."""
        with stdout:
            for line in stdout:
                if not self.listening.done():
                    print(line, end="", flush=True)
                    if line.startswith(LAST_LINE):
                        self.listening.set_result(None)


def _not_started(program: str, end: str) -> ServingError:
    return ServingError.of(
        f"serving.{program}", got=end, expected="a server", fix="see its message above"
    )
