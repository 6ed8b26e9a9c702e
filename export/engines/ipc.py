"""Inter-process messages over pipes: a line of JSON, then the bytes of the arrays in order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["receive", "send"]


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a message.

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
