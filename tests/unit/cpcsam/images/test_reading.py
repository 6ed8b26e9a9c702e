from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cpcsam.errors import ContractError
from cpcsam.images.reading import decode_image
from tests.support.image_files import tiff

COMPRESSION = 259


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
    with pytest.raises(ContractError, match="JPEG, PNG, TIFF, BMP, WEBP, GIF"):
        decode_image(encode(Image.new("RGB", (8, 8)), "PPM"))


def test_decode_image_quotes_little_of_the_file() -> None:
    data = bytearray(tiff(noise(200, 300, 3).astype(np.uint16), photometric="rgb"))
    (directory,) = struct.unpack_from("<I", data, 4)
    entry = next(
        directory + 2 + 12 * index
        for index in range(20)
        if struct.unpack_from("<H", data, directory + 2 + 12 * index)[0] == COMPRESSION
    )
    struct.pack_into("<HII", data, entry + 2, 3, 1000, 1000)  # a thousand values, from the pixels
    with pytest.raises(ContractError, match="TIFF compression") as caught:
        decode_image(bytes(data))
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


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
