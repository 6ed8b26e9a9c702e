from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from cpcsam.formats.brush_runs import decode_brush, encode_brush

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40))


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_decode_brush_inverts_encode_brush(mask: np.ndarray) -> None:
    assert np.array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


def test_encode_brush_of_two_pixels_is_the_stream_of_the_format() -> None:
    bits = f"{8:032b}" + f"{7:05b}" + "0010" + "0011" + "0111" + "1111"
    bits += "1" + "00" + f"{3:03b}" + "11111111" + "1" + "00" + f"{3:03b}" + "00000000"
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert encode_brush(np.array([[True, False]])) == expected


@pytest.mark.parametrize("side", [128, 129, 400])
def test_encode_brush_run_longer_than_16_bits_is_split(side: int) -> None:
    mask = np.ones((side, side), bool)
    rle = encode_brush(mask)
    assert decode_brush(rle, mask.shape).all()
    assert len(rle) < 50


def test_decode_brush_reads_values_that_are_not_repeated() -> None:
    header = f"{8:032b}" + f"{7:05b}" + "0010" + "0011" + "0111" + "1111"
    values = [9, 9, 9, 255, 1, 2, 3, 0]
    bits = header + "0" + "00" + f"{7:03b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert decode_brush(rle, (1, 2)).tolist() == [[True, False]]
