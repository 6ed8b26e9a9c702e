"""Headers of image files of any structure, read by processes with bounded time and memory.

A file of a few bytes may state a stack of a billion pages, and a thread cannot be stopped. Started
as a program, this module answers one file after another, until its input ends or none has come for
a while.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from PIL import Image

from cpcsam.errors import ContractError
from cpcsam.images.options import ReadOptions
from cpcsam.images.reading import ImageHeader, is_too_large, read_header
from cpcsam.images.source import refusal

__all__ = ["HeaderProcesses"]

ROOT: Final = Path(__file__).resolve().parents[3]
PREFIX: Final = struct.Struct("<QQ")
"""Lengths of the choice, JSON, and of the file, both of which follow."""
SECONDS: Final = 2.0
"""Computing time for a header; one of 65,536 pages takes most of it."""
MEMORY: Final = 256 << 20
"""Bytes for a header, besides the interpreter and a few copies of the file."""
COPIES: Final = 4
NICENESS: Final = 5
"""So that a file which takes all of its time takes little of what the model computes."""
IDLE_S: Final = 30.0
"""Most callers send files of other kinds."""


class HeaderProcesses:
    """Processes that read headers, one for each concurrent call; to be used by threads.

    Args:
        idle_s: seconds without a file after which a process ends, and its memory with it.
    """

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._idle: list[subprocess.Popen[bytes]] = []
        self._is_closed = False

    def read(self, data: bytes, options: ReadOptions | None = None) -> ImageHeader:
        """Read an image file's header; as `cpcsam.images.reading.read_header`.

        Raises:
            ContractError: as there, or the structure of the file takes too long or too much memory.
        """
        process = self._take()
        try:
            answer = _ask(process, data, options or ReadOptions())
        except (BrokenPipeError, EOFError) as error:
            if _end(process) == -signal.SIGALRM:  # of idleness, in this moment
                return self.read(data, options)
            raise refusal(
                f"a file whose structure takes more than {SECONDS:g} s or {MEMORY >> 20} MiB",
                "a header that takes less",
                "write the file again, with fewer pages and less metadata",
            ) from error
        self._idle.append(process)
        if self._is_closed:
            self.close()
        if "header" in answer:
            return ImageHeader(**{**answer["header"], "size": tuple(answer["header"]["size"])})
        cause = Image.DecompressionBombError() if answer["too_large"] else None
        raise ContractError(answer["refused"]) from cause

    def _take(self) -> subprocess.Popen[bytes]:
        with suppress(IndexError):
            while (process := self._idle.pop()).poll() is not None:
                _end(process)
            return process
        return _start(self._idle_s)

    def close(self) -> None:
        """End the processes; those that are reading end with their file."""
        self._is_closed = True
        while self._idle:
            _end(self._idle.pop())


def _start(idle_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "serving.gateway.inference.header_process", str(idle_s)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What libraries print of a hostile file is nothing for the gateway's log.
        stderr=subprocess.DEVNULL,
    )


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a process, if it has not ended, and return its exit status."""
    process.kill()
    with suppress(BrokenPipeError), process:  # what it was sent and did not read
        pass
    return process.returncode


def _ask(process: subprocess.Popen[bytes], data: bytes, options: ReadOptions) -> dict[str, Any]:
    """Send a file and return the answer; EOFError or BrokenPipeError if the process ended."""
    assert process.stdin is not None and process.stdout is not None
    choice = json.dumps({"page": options.page, "channels": options.channels}).encode()
    process.stdin.write(PREFIX.pack(len(choice), len(data)) + choice)
    process.stdin.write(data)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, Any] = json.loads(line)
    return answer


def _answer(files: IO[bytes], answers: IO[bytes], idle_s: float) -> None:
    """Answer the files of an input until it ends; SIGALRM ends the process if none comes."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    signal.setitimer(signal.ITIMER_REAL, idle_s)
    while len(prefix := files.read(PREFIX.size)) == PREFIX.size:
        signal.setitimer(signal.ITIMER_REAL, 0)
        choice_size, size = PREFIX.unpack(prefix)
        choice = json.loads(files.read(choice_size))
        data = files.read(size)
        resource.setrlimit(resource.RLIMIT_DATA, (_used() + MEMORY + COPIES * size, hard))
        # Its signal ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = _read(data, ReadOptions(choice["page"], tuple(choice["channels"])))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        signal.setitimer(signal.ITIMER_REAL, idle_s)


def _read(data: bytes, options: ReadOptions) -> dict[str, Any]:
    try:
        return {"header": asdict(read_header(data, options))}
    except ContractError as error:
        return {"refused": str(error), "too_large": is_too_large(error)}


def _used() -> int:
    """Return the bytes of data that this process occupies."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:", 1)[1].split()[0]) << 10


if __name__ == "__main__":
    os.nice(NICENESS)
    _answer(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
