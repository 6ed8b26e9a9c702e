"""Volumes of the NIfTI-1 format, as Debian's mricron-data has them."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import DataError

__all__ = ["read_nifti"]

HEADER_BYTES = 348
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


def read_nifti(path: Path) -> NDArray[np.generic]:
    """Read a single-file volume, compressed or not.

    Returns:
        (X, Y, Z) of the file's own type, scaled where its header says so.

    Raises:
        DataError: the file is missing, cut short or no NIfTI-1 volume of three dimensions.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except FileNotFoundError as error:
        raise _unusable(path, "no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise _unusable(path, f"an unreadable file ({error})") from error
    order = next((o for o in "<>" if raw[:4] == struct.pack(f"{o}i", HEADER_BYTES)), None)
    if order is None or len(raw) < HEADER_BYTES or raw[344:347] != b"n+1":
        raise _unusable(path, "another format")
    dimensions = struct.unpack(f"{order}8h", raw[40:56])
    (code,) = struct.unpack(f"{order}h", raw[70:72])
    offset, slope, intercept = struct.unpack(f"{order}3f", raw[108:120])
    shape = dimensions[1:4]
    if dimensions[0] < 3 or min(shape) < 1 or max(dimensions[4 : dimensions[0] + 1], default=1) > 1:
        raise _unusable(path, f"dimensions {dimensions[1 : 1 + max(dimensions[0], 0)]}")
    if code not in DTYPES:
        raise _unusable(path, f"data type {code}")
    dtype = np.dtype(f"{order}{DTYPES[code]}")
    count = int(np.prod(shape))
    if len(raw) < int(offset) + count * dtype.itemsize:
        raise _unusable(path, f"{len(raw)} bytes, cut short")
    values = np.frombuffer(raw, dtype, count, int(offset)).reshape(shape, order="F")
    if slope not in (0.0, 1.0) or (slope and intercept):
        return values * np.float32(slope) + np.float32(intercept)
    return values


def _unusable(path: Path, got: str) -> Exception:
    return DataError.of(
        str(path), got=got, expected="a NIfTI-1 volume", fix="restore it from the package"
    )
