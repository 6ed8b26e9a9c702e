"""Command: run TensorRT plans for another process, which asks by standard input.

python -m export.engines.worker FOLDER

`export.engines.runner` starts it, in the image that serves where this Python has no TensorRT. What
libraries print goes to standard error: standard output belongs to the answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Final

from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.contract import GRAPHS
from cpcsam.errors import CpcSamError
from export.engines.cuda_driver import Device
from export.engines.importing import require_tensorrt
from export.engines.ipc import receive, send
from export.engines.runtime import PlanExecution

__all__ = ["GREETING", "main", "serve"]

PROG: Final = "python -m export.engines.worker"
GREETING: Final = b"cpcsam plans\n"
"""Begins the answers; what comes before it, such as an image's banner, is not for the reader."""


def serve(
    folder: Path, trt: ModuleType, device: Device, questions: BinaryIO, answers: BinaryIO
) -> None:
    """Answer until there are no more questions; a failure is an answer as well.

    Args:
        folder: where `GRAPH.plan` are; each is loaded when it is first needed.
        trt: the module `tensorrt`.
        device: where to run.
        questions: messages of `export.engines.ipc` with the head `graph`, and its inputs.
        answers: the same with its outputs, or with the head `error`.
    """
    loaded: dict[str, PlanExecution] = {}
    specs = {graph.name: graph for graph in GRAPHS}
    while (question := receive(questions)) is not None:
        head, inputs = question
        name = head["graph"]
        try:
            if name not in loaded:
                loaded[name] = PlanExecution(trt, device, folder / f"{name}.plan", specs[name])
            send(answers, {}, loaded[name](inputs))
        except CpcSamError as error:
            send(answers, {"error": str(error)}, {})


def _run(folder: Path) -> None:
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        answers.write(GREETING)
        try:
            trt, device = require_tensorrt(), Device()
        except CpcSamError as error:
            send(answers, {"error": str(error)}, {})
            return
        with device:
            send(answers, {"tensorrt": trt.__version__}, {})
            serve(folder, trt, device, sys.stdin.buffer, answers)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when there are no more questions."""
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where GRAPH.plan are")
    args = parser.parse_args(argv)
    return exit_code_of(lambda: _run(args.folder), PROG)


if __name__ == "__main__":
    sys.exit(main())
