"""Run workloads against a model in this process; commands and results are lines of JSON.

python -m benchmarks.peers.systems.in_process official weights/vit_t

Standard input has `{"action": "drive", "workload": {...}, "rate": 0}` for times, `"masks"` for run
lengths, or `"prime"`; standard output gets a line for each. Clients are threads that take
turns at the model, and masks stay arrays: this is the model without any server.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.load.drive import Send
from benchmarks.peers.load.masks import Mask
from benchmarks.peers.load.run import drive, masks, prime
from benchmarks.peers.load.workloads import Request, Workload
from benchmarks.peers.systems.segmenters import Segmenter
from cpcsam.commands import parser_of, run_command

__all__ = ["SYSTEMS", "main", "open_segmenter"]

PROG: Final = "python -m benchmarks.peers.systems.in_process"
SYSTEMS: Final = ("official", "fast", "onnx")


def open_segmenter(system: str, model: Path) -> Segmenter:
    """Load a model; only what it needs is imported, since the process's memory is measured.

    Args:
        system: a key of `SYSTEMS`.
        model: a base, or exported graphs for `onnx`.
    """
    if system == "onnx":
        from benchmarks.peers.systems.onnx_segmenter import OnnxSegmenter

        return OnnxSegmenter(model)
    if system == "fast":
        from benchmarks.peers.systems.fast_sam import FastSegmenter

        return FastSegmenter.load(model)
    from benchmarks.peers.systems.official import OfficialSegmenter

    return OfficialSegmenter.load(model)


def _serve(args: argparse.Namespace) -> None:
    segmenter = open_segmenter(args.system, args.model)
    # First in, first out: a lock would let one client keep it, and the median would be its.
    turns = ThreadPoolExecutor(1)

    def send(request: Request) -> Sequence[Mask]:
        return turns.submit(segmenter.segment, request).result()

    @contextmanager
    def connect() -> Iterator[Send]:
        yield send

    for line in sys.stdin:
        command = json.loads(line)
        workload = Workload(**command["workload"])
        result: Any = None
        if command["action"] == "prime":
            prime(connect, workload)
        elif command["action"] == "masks":
            result = [[mask.decode() for mask in found] for found in masks(connect, workload)]
        else:
            samples = drive(connect, workload, command["rate"])
            result = [astuple(sample) for sample in samples]
        print(json.dumps(result), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer commands until standard input ends."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("model", type=Path, help="a base, or exported graphs for onnx")
    return run_command(parser, _serve, argv)


if __name__ == "__main__":
    sys.exit(main())
