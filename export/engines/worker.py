"""Command: run TensorRT plans for another process, over standard input and output.

python -m export.engines.worker FOLDER

`export.engines.runner` starts it, in the serving image if this Python has no TensorRT. The output
of libraries is redirected to standard error, since standard output carries the responses.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.commands import parser_of, run_command
from cpcsam.contract import graphs_of
from cpcsam.errors import CpcSamError
from export.engines.cuda_driver import Device
from export.engines.importing import require_tensorrt
from export.engines.runtime import PlanExecution

__all__ = ["GREETING", "main", "receive", "send", "serve"]

PROG: Final = "python -m export.engines.worker"
GREETING: Final = b"cpcsam plans\n"
"""First line of the responses; anything before it, such as an image's banner, is skipped."""


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a message: a line of JSON, then the bytes of the arrays in order.

    Args:
        stream: a pipe to the other process.
        header: JSON values, without the key `arrays`.
        arrays: by name.
    """
    specs = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    stream.write(json.dumps({**header, "arrays": specs}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Read a message, its header and arrays; None at the end of the stream."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    arrays = {}
    for name, (dtype, shape) in header.pop("arrays").items():
        array = np.empty(shape, dtype)
        content = stream.read(array.nbytes)
        if len(content) < array.nbytes:
            return None
        # Over bytes, the array would be read-only.
        arrays[name] = np.frombuffer(bytearray(content), dtype).reshape(shape)
    return header, arrays


def serve(
    folder: Path, trt: ModuleType, device: Device, requests: BinaryIO, responses: BinaryIO
) -> None:
    """Respond to requests until the end of the stream; an error is a response as well.

    Args:
        folder: folder of `GRAPH.plan`; each plan is loaded on first use.
        trt: the module `tensorrt`.
        device: GPU that runs the plans.
        requests: messages of `send` with the inputs and the headers `graph` and `calibrates`, which
            selects the form of the graph.
        responses: messages with the outputs, or with the header `error`.
    """
    loaded: dict[str, PlanExecution] = {}
    while (request := receive(requests)) is not None:
        header, inputs = request
        name = header["graph"]
        try:
            if name not in loaded:
                specs = {graph.name: graph for graph in graphs_of(header["calibrates"])}
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
