"""Command: run TensorRT plans for another process, over standard input and output.

python -m export.engines.worker FOLDER

`export.engines.runner` starts it, in the serving image if this Python has no TensorRT. The output
of libraries is redirected to standard error, since standard output carries the responses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Final

from cpcsam.commands import parser_of, run_command
from cpcsam.contract import GRAPHS
from cpcsam.errors import CpcSamError
from export.engines.cuda_driver import Device
from export.engines.importing import require_tensorrt
from export.engines.ipc import receive, send
from export.engines.runtime import PlanExecution

__all__ = ["GREETING", "main", "serve"]

PROG: Final = "python -m export.engines.worker"
GREETING: Final = b"cpcsam plans\n"
"""First line of the responses; anything before it, such as an image's banner, is skipped."""


def serve(
    folder: Path, trt: ModuleType, device: Device, requests: BinaryIO, responses: BinaryIO
) -> None:
    """Respond to requests until the end of the stream; an error is a response as well.

    Args:
        folder: folder of `GRAPH.plan`; each plan is loaded on first use.
        trt: the module `tensorrt`.
        device: GPU that runs the plans.
        requests: messages of `export.engines.ipc` with the header `graph` and the inputs.
        responses: messages with the outputs, or with the header `error`.
    """
    loaded: dict[str, PlanExecution] = {}
    specs = {graph.name: graph for graph in GRAPHS}
    while (request := receive(requests)) is not None:
        header, inputs = request
        name = header["graph"]
        try:
            if name not in loaded:
                loaded[name] = PlanExecution(trt, device, folder / f"{name}.plan", specs[name])
            send(responses, {}, loaded[name](inputs))
        except CpcSamError as error:
            send(responses, {"error": str(error)}, {})


def _run(folder: Path) -> None:
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as responses:
        # C++ libraries print to descriptor 1, which replacing sys.stdout would not redirect.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        responses.write(GREETING)
        try:
            trt, device = require_tensorrt(), Device()
        except CpcSamError as error:
            send(responses, {"error": str(error)}, {})
            return
        with device:
            send(responses, {"tensorrt": trt.__version__}, {})
            serve(folder, trt, device, sys.stdin.buffer, responses)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, 0 at the end of the requests."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of GRAPH.plan")
    return run_command(parser, lambda args: _run(args.folder), argv)


if __name__ == "__main__":
    sys.exit(main())
