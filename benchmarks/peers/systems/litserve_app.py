"""Serve SamPredictor by LitServe, as its users write it, in an environment of its own.

PYTHON -m benchmarks.peers.systems.litserve_app --weights weights/vit_t --port 8010

PYTHON is out/bench-peers/venv/bin/python. A worker holds the model; images come as base64 or as the
id of one that it has encoded before, and masks go out as COCO RLE. Requests are not batched, since
SamPredictor takes one image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import litserve
from fastapi import HTTPException
from numpy.typing import NDArray

from benchmarks.peers.load.workloads import Request
from benchmarks.peers.systems.official import OfficialSegmenter
from benchmarks.peers.systems.wire import masks_to_json, request_from_json
from cpcsam.commands import parser_of, port, run_command
from cpcsam.errors import ContractError, ServingError

__all__ = ["SamApi", "main"]

PROG: Final = "python -m benchmarks.peers.systems.litserve_app"
KEEP_ALIVE_S: Final = 3600
"""Longer than any load: clients keep connections, which uvicorn closes after 5 idle seconds."""


class SamApi(litserve.LitAPI):  # type: ignore[misc]
    """LitServe's interface around official SAM."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self._weights = weights

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.segmenter = OfficialSegmenter.load(self._weights)

    # LitServe takes annotations here for FastAPI's, and parses JSON itself where there are none.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """Read the JSON body."""
        try:
            return request_from_json(request)
        except ContractError as error:
            raise HTTPException(400, str(error)) from error

    def predict(self, request: Request) -> Sequence[NDArray[Any]]:
        """Segment; 404 for an image that is not known any more."""
        try:
            return self.segmenter.segment(request)
        except ServingError as error:
            raise HTTPException(404, str(error)) from error

    def encode_response(self, masks):  # type: ignore[no-untyped-def]
        """Write masks as RLE."""
        return {"masks": masks_to_json(masks)}


def _run(args: argparse.Namespace) -> None:
    server = litserve.LitServer(SamApi(args.weights), accelerator="cpu", timeout=False)
    server.run(
        host="127.0.0.1",
        port=args.port,
        generate_client_file=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until it is stopped."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="a base")
    parser.add_argument("--port", type=port, required=True, help="on loopback")
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
