from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.transforms import decode_image, input_size_of, pad_image, resize_coords, upscale_masks


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_decode_image_lossless_is_exact(file_format: str) -> None:
    pixels = noise(7, 11, 3)
    assert np.array_equal(decode_image(encode(Image.fromarray(pixels), file_format)), pixels)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_decode_image_lossy_is_close(file_format: str) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 48, 3))
    decoded = decode_image(encode(Image.fromarray(ramp), file_format, quality=95)).astype(int)
    assert decoded.shape == ramp.shape
    assert abs(decoded - ramp).max() <= 12


def test_decode_image_repeats_grey_and_drops_alpha() -> None:
    grey = noise(5, 6)
    assert np.array_equal(decode_image(encode(Image.fromarray(grey))), grey[..., None].repeat(3, 2))
    rgba = noise(5, 6, 4)
    assert np.array_equal(decode_image(encode(Image.fromarray(rgba))), rgba[..., :3])


def test_decode_image_scales_16_bits_to_8() -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    for file_format in ("PNG", "TIFF"):
        decoded = decode_image(encode(Image.fromarray(values), file_format))
        assert decoded[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_decode_image_applies_exif_orientation() -> None:
    pixels = noise(4, 9, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(
        decode_image(encode(Image.fromarray(pixels), exif=exif)), np.rot90(pixels, -1)
    )


@pytest.mark.parametrize("data", [b"", b"just text", encode(Image.new("RGB", (64, 64)))[:-60]])
def test_decode_image_damaged_file_raises(data: bytes) -> None:
    with pytest.raises(ContractError, match=r"image_bytes: got \d+ bytes that cannot be decoded"):
        decode_image(data)


def test_decode_image_other_formats_raise() -> None:
    with pytest.raises(ContractError, match="JPEG, PNG, TIFF, BMP, WEBP"):
        decode_image(encode(Image.new("RGB", (8, 8)), "GIF"))


def test_decode_image_float_pixels_raise() -> None:
    with pytest.raises(ContractError, match="mode F"):
        decode_image(encode(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF"))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


@pytest.mark.parametrize("side", [101, 10_000, 60_000])
def test_decode_image_too_many_pixels_raises_before_decoding(side: int) -> None:
    with pytest.raises(ContractError, match="expected at most 10000 pixels"):
        decode_image(png_header(side, side), max_pixels=10_000)


def test_decode_image_accepts_max_pixels() -> None:
    assert decode_image(encode(Image.new("RGB", (100, 100))), max_pixels=10_000).shape[0] == 100


@pytest.mark.parametrize(
    ("original_size", "expected"),
    [
        ((480, 640), (192, 256)),
        ((640, 480), (256, 192)),
        ((3, 1000), (1, 256)),
        ((1, 1), (256, 256)),
    ],
)
def test_input_size_longest_side_fills_the_frame(
    original_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert input_size_of(original_size, 256) == expected


@pytest.mark.parametrize("original_size", [(1, 1000), (0, 0), (0, 5)])
def test_input_size_vanishing_side_raises(original_size: tuple[int, int]) -> None:
    with pytest.raises(ContractError, match="original_size"):
        input_size_of(original_size, 256)


def test_to_frame_pads_right_and_below() -> None:
    image = noise(3, 5, 3)
    padded = pad_image(image, 8)
    assert np.array_equal(padded[:, :3, :5], image.transpose(2, 0, 1))
    assert padded.sum() == image.sum()


def test_resize_coords_scales_by_rounded_sizes() -> None:
    corner = resize_coords(np.array([[333.0, 500.0]]), (500, 333), 256)
    assert corner.dtype == np.float32
    assert corner.tolist() == [[170.0, 256.0]]


def test_resize_coords_without_two_coordinates_raises() -> None:
    with pytest.raises(ContractError, match="point_coords"):
        resize_coords(np.zeros((1, 3)), (10, 10), 256)


def test_upscale_masks_keeps_leading_dimensions_and_constants() -> None:
    upscaled = upscale_masks(np.full((2, 3, 64, 64), 1.5, np.float32), (256, 100), (77, 30), 256)
    assert upscaled.shape == (2, 3, 77, 30)
    assert np.allclose(upscaled, 1.5)


def test_box_intersection_is_the_shared_part() -> None:
    first = Box(0, 0, 10, 10)
    assert first.intersection(Box(5, 8, 20, 20)) == Box(5, 8, 10, 10)
    assert first.intersection(Box(10, 0, 20, 10)) is None


def test_box_enclosing_holds_both_boxes() -> None:
    assert Box(0, 5, 3, 9).enclosing(Box(2, 1, 8, 4)) == Box(0, 1, 8, 9)


def test_box_crop_and_xyxy_address_the_same_pixels() -> None:
    image = np.arange(20).reshape(4, 5)
    box = Box(1, 2, 3, 5)
    x0, y0, x1, y1 = box.xyxy
    assert np.array_equal(box.crop(image), image[y0:y1, x0:x1])
    assert np.array_equal(box.translate(1, -2).crop(image), image[2:4, 0:3])
    assert box.size == (2, 3)
