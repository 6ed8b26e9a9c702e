"""A stage in a process of its own: a CUDA fault or an overrun costs the other stages nothing.

The process imports the stage's code, then reads the seconds that it is granted from standard input,
so that it can be started while the stage before it runs. It appends every record, flushed, to
`results.jsonl`; what it prints goes to `log.txt`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

import torch

from benchmarks.gpu.stage import Stage, StageContext
from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError

__all__ = ["LOG", "RESULTS", "Options", "StageProcess", "append", "main"]

PROG: Final = "python -m benchmarks.gpu.process"
RESULTS: Final = "results.jsonl"
LOG: Final = "log.txt"
SEED: Final = 0
KILLED_S: Final = 15.0
"""Seconds to wait for the end of a killed process."""
MAX_LOG: Final = 1_000_000
"""Bytes that a stage's output takes in the log, from its end."""
MAX_REASON: Final = 400
MARGIN: Final = 0.05
"""Part of the granted seconds that a stage's own deadline lies before its end."""


@dataclass(frozen=True)
class Options:
    """Options that all stages of a run share; see `StageContext`.

    Attributes:
        out: folder of the results.
        device: `cuda` or `cpu`; empty takes the GPU where torch sees one.
        quick: small sizes.
        images: folder of real images.
        bbbc038: folder of the BBBC038v1 data set.
    """

    out: Path
    device: str = ""
    quick: bool = False
    images: Path | None = None
    bbbc038: Path | None = None

    def arguments(self) -> list[str]:
        """Return the command-line arguments that pass these options to a stage's process."""
        words = ["--out", str(self.out)]
        words += ["--images", str(self.images)] if self.images else []
        words += ["--device", self.device] if self.device else []
        words += ["--bbbc038", str(self.bbbc038)] if self.bbbc038 else []
        return words + (["--quick"] if self.quick else [])


def append(out: Path, record: Mapping[str, Any]) -> None:
    """Append a record to the results as one line.

    Args:
        out: folder of the results.
        record: plain JSON data.
    """
    line = json.dumps(record) + "\n"
    # One write in append mode, so that a killed process leaves no part of a line.
    handle = os.open(out / RESULTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class StageProcess:
    """The process of a stage, which imports its code and then waits to be run."""

    def __init__(self, stage: Stage, options: Options) -> None:
        """Start the process.

        Args:
            stage: if its code cannot be imported, its status says so.
            options: of the run.
        """
        self._stage, self._out = stage, options.out
        self._log = TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.process", stage.code, *options.arguments()]
            + ["--name", stage.name],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"},
            # A group of its own, so that the workers of a compiler are killed with it.
            process_group=0,
        )

    def run(self, seconds: float) -> dict[str, Any]:
        """Let the stage measure, and append its status to the results.

        Args:
            seconds: after which the process is killed.

        Returns:
            `stage`, `status` (`done`, `failed` or `overran`), `seconds` taken, and the `reason`
            unless it is done.
        """
        begin, overran = time.monotonic(), False
        try:
            self._process.communicate(f"{seconds}\n".encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            overran = True
        finally:
            self._kill()
            output = self._keep_log()
        took = round(time.monotonic() - begin, 1)
        status = {"stage": self._stage.name, "status": "done", "seconds": took}
        if overran:
            status |= {"status": "overran", "reason": f"killed after {seconds:.0f} s"}
        elif self._process.returncode:
            status |= {"status": "failed", "reason": _reason(self._process.returncode, output)}
        append(self._out, status)
        return status

    def stop(self) -> None:
        """End a process that is not to be run."""
        self._kill()
        self._log.close()

    def _kill(self) -> None:
        """Kill the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # A driver that hangs may keep even a killed process.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED_S)
        if self._process.stdin:
            self._process.stdin.close()

    def _keep_log(self) -> str:
        """Append the output to the run's log, and return it, or its end."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - MAX_LOG))
        output = self._log.read()
        self._log.close()
        with (self._out / LOG).open("ab") as log:
            log.write(f"== {self._stage.name}\n".encode() + output)
        return output.decode(errors="replace")


def _reason(code: int, output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1].strip()[:MAX_REASON] if lines else "no output"
    return last if code > 0 else f"killed by {signal.Signals(-code).name}; {last}"


def _context(args: argparse.Namespace, seconds: float) -> StageContext:
    """Make the stage's context, with torch's threads and seed set."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError.of(
            "--device", got="cuda", expected="a GPU that torch sees", fix="give --device cpu"
        )
    torch.manual_seed(SEED)
    return StageContext(
        device,
        args.quick,
        time.monotonic() + (1 - MARGIN) * seconds,
        args.out,
        args.images,
        args.bbbc038,
    )


def _run(args: argparse.Namespace) -> None:
    code = importlib.import_module(args.module)
    line = sys.stdin.readline()
    # An empty line: the run has ended without this stage.
    if not line:
        return
    context, begin = _context(args, float(line)), time.monotonic()
    for record in code.measure(context):
        elapsed = round(time.monotonic() - begin, 2)
        append(args.out, {"stage": args.name, "t_s": elapsed, **record})


def _run_or_explain(args: argparse.Namespace) -> int:
    try:
        _run(args)
    except Exception as error:  # whatever a stage may raise
        traceback.print_exc()
        # On one line, the last, where the parent reads the reason.
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("module", help="with measure(context)")
    parser.add_argument("--name", required=True, help="of the stage in the results")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--bbbc038", type=Path, metavar="PATH")
    return run_command(parser, _run_or_explain, argv)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking down torch and CUDA in order takes seconds, which the next stage can use.
    os._exit(code)
