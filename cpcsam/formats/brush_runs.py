"""Run lengths of Label Studio's brush: a bit stream over the RGBA values of an image (rle-pack).

Header: number of values (32 bits), word size - 1 (5 bits), four sizes - 1 (4 bits each). Then
blocks: a bit for a repeated value, the number of a size (2 bits), length - 1 (of that size), and
the value once, or all values. A pixel of the mask has 255 in all four channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_brush", "encode_brush"]

CHANNELS: Final = 4
VALUE_BITS: Final = 8
WIDTHS: Final = (3, 4, 8, 16)
"""Bits of lengths; a block chooses the smallest."""
HEADER_BITS: Final = 32 + 5 + 4 * len(WIDTHS)
MAX_RUN: Final = 1 << WIDTHS[-1]


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as the bytes of `value.rle`.

    Args:
        mask: (H, W) bool.

    Returns:
        Numbers from 0 to 255.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = CHANNELS * np.diff(starts, append=flat.size)
    # A run that is too long for 16 bits becomes several.
    pieces = -(-lengths // MAX_RUN)
    values = np.repeat(flat[starts], pieces).astype(np.int64) * 255
    runs = np.full(values.size, MAX_RUN, np.int64)
    last = np.cumsum(pieces) - 1
    runs[last] = lengths - (pieces - 1) * MAX_RUN
    kinds = np.searchsorted(1 << np.array(WIDTHS), runs)
    widths = np.array(WIDTHS)[kinds]
    codes = 1 << (2 + widths + VALUE_BITS)
    codes |= (kinds << (widths + VALUE_BITS)) | ((runs - 1) << VALUE_BITS) | values
    bits = np.concatenate([_header(CHANNELS * flat.size), _bits(codes, widths)])
    return [int(byte) for byte in np.packbits(bits)]


def _header(values: int) -> NDArray[np.uint8]:
    text = f"{values:032b}{VALUE_BITS - 1:05b}" + "".join(f"{width - 1:04b}" for width in WIDTHS)
    return (np.frombuffer(text.encode(), np.uint8) - ord("0")).astype(np.uint8)


def _bits(codes: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write numbers of 1 + 2 + width + VALUE_BITS bits one behind the other."""
    sizes = 3 + widths + VALUE_BITS
    ends = np.cumsum(sizes)
    bits = np.zeros(ends[-1], np.uint8)
    for place in range(int(sizes.max())):
        has_it = sizes > place
        bits[ends[has_it] - 1 - place] = (codes[has_it] >> place) & 1
    return bits


def decode_brush(data: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode bytes to a mask (H, W) bool: where the opacity is not 0.

    Raises:
        ValueError: the bytes are no such stream, or not of an image of this size.
    """
    try:
        bits = np.unpackbits(np.frombuffer(bytes([*data]), np.uint8))
    except TypeError as error:
        raise ValueError("bytes that are no numbers") from error
    text = (bits + ord("0")).tobytes().decode()
    count, word = int(text[:32] or "0", 2), int(text[32:37] or "0", 2) + 1
    sizes = [int(text[place : place + 4] or "0", 2) + 1 for place in range(37, HEADER_BITS, 4)]
    if count != CHANNELS * size[0] * size[1]:
        raise ValueError(f"{count} values, for an image of {size[1]} x {size[0]} pixels")
    values = np.zeros(count, bool)
    at, done = HEADER_BITS, 0
    while done < count:
        head = text[at : at + 3]
        bits_of_length = sizes[int(head[1:] or "0", 2)]
        digits = text[at + 3 : at + 3 + bits_of_length]
        length = int(digits or "0", 2) + 1
        at += 3 + bits_of_length
        is_repeated = head[:1] == "1"
        end = at + word * (1 if is_repeated else length)
        if len(head) < 3 or end > len(text) or done + length > count:
            raise ValueError("run lengths that end early or go on beyond the image")
        words = bits[at:end].reshape(-1, word).any(1)
        values[done : done + length] = words
        at, done = end, done + length
    return values[CHANNELS - 1 :: CHANNELS].reshape(size).copy()  # a view keeps all channels
