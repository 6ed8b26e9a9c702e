"""Arrays between two processes: a line of JSON, then the arrays' bytes one after another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["receive", "send"]


def send(stream: BinaryIO, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a message.

    Args:
        stream: a pipe to the other process.
        head: plain data without the key `arrays`.
        arrays: by name.
    """
    told = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    stream.write(json.dumps({**head, "arrays": told}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Read a message: its head and its arrays; None where the other process has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    head = json.loads(line)
    arrays = {}
    for name, (dtype, shape) in head.pop("arrays").items():
        array = np.empty(shape, dtype)
        content = stream.read(array.nbytes)
        if len(content) < array.nbytes:
            return None
        arrays[name] = np.frombuffer(bytearray(content), dtype).reshape(shape)
    return head, arrays
