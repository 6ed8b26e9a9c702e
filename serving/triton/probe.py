"""A real inference of a tiny image through every step of `segment`, over Triton's HTTP.

It needs the standard library only, as the container of Triton has no client.
"""

from __future__ import annotations

import json
import struct
import zlib
from http.client import OK, HTTPConnection, HTTPException
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from cpcsam.contract import POINT_COORDS, POINT_LABELS
from cpcsam.entry_points import IMAGE_BYTES, MASK_SELECTION, SCORES, SEGMENT
from cpcsam.errors import ServingError

__all__ = ["Answered", "answer_of", "answered_requests", "infer_tiny_image", "is_ready"]

SIDE: Final = 16
QUICK_S: Final = 2.0
MODEL: Final = f"/v2/models/{quote(SEGMENT.name)}"


def is_ready(address: str) -> bool:
    """Return whether Triton says that every model is loaded; a dead step does not change that.

    Args:
        address: HOST:PORT of its HTTP.
    """
    try:
        answer_of(address, "GET", "/v2/health/ready", timeout_s=QUICK_S)
    except (OSError, ServingError):
        return False
    return True


class Answered(NamedTuple):
    """Requests to `segment` that a Triton has answered without an error.

    Attributes:
        requests: their number.
        total_s: sum of their times, the wait for each other included.
    """

    requests: int
    total_s: float


def answered_requests(address: str, timeout_s: float) -> Answered:
    """Return what this Triton has answered since it started.

    Args:
        address: HOST:PORT of its HTTP.
        timeout_s: for this answer.

    Raises:
        OSError: it does not answer; TimeoutError: not in time.
        ServingError: it refuses.
    """
    answer = answer_of(address, "GET", f"{MODEL}/stats", timeout_s=timeout_s)
    (model,) = json.loads(answer)["model_stats"]
    success = model["inference_stats"]["success"]
    return Answered(int(success["count"]), int(success["ns"]) / 1e9)


def infer_tiny_image(address: str, timeout_s: float) -> None:
    """Segment an image of 16 × 16 pixels by a click.

    Args:
        address: HOST:PORT of its HTTP.
        timeout_s: for an answer; it may have to wait for requests that came before.

    Raises:
        OSError: Triton does not answer; TimeoutError: not in time.
        ServingError: a step failed.
    """
    image = _gray_png()
    image_bytes = struct.pack("<I", len(image)) + image
    tensors = (
        (POINT_COORDS, [1, 1, 1, 2], "FP32", {"data": [SIDE / 2, SIDE / 2]}),
        (POINT_LABELS, [1, 1, 1], "INT32", {"data": [1]}),
        (MASK_SELECTION, [1, 1], "INT32", {"data": [0]}),
        (IMAGE_BYTES, [1, 1], "BYTES", {"parameters": {"binary_data_size": len(image_bytes)}}),
    )
    inputs = [
        {"name": tensor.name, "shape": shape, "datatype": kind, **value}
        for tensor, shape, kind, value in tensors
    ]
    header = json.dumps({"inputs": inputs, "outputs": [{"name": SCORES.name}]}).encode()
    answer_of(
        address,
        "POST",
        f"{MODEL}/infer",
        timeout_s=timeout_s,
        body=header + image_bytes,
        headers={"Inference-Header-Content-Length": str(len(header))},
    )


def answer_of(address: str, method: str, path: str, *, timeout_s: float, **request: Any) -> bytes:
    """Return the body of Triton's answer to a request.

    Args:
        address: HOST:PORT of its HTTP.
        method: of HTTP.
        path: such as /v2/health/ready.
        timeout_s: for the answer.
        request: body and headers, as `HTTPConnection.request` takes them.

    Raises:
        OSError: Triton does not answer; TimeoutError: not in time.
        ServingError: its status is another than 200.
    """
    connection = HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request(method, path, **request)
        response = connection.getresponse()
        answer = response.read()
    except HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if response.status != OK:
        raise ServingError.of(
            f"Triton at {address}",
            got=f"status {response.status}: {answer[:200].decode(errors='replace')}",
            expected="an answer",
            fix="see its log",
        )
    return answer


def _gray_png() -> bytes:
    """Return a square with a gradient, grayscale of 8 bits, as a PNG file."""
    rows = b"".join(b"\0" + bytes(range(row, row + SIDE)) for row in range(SIDE))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
