"""Every kind of image file is read as what it shows."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cpcsam.errors import ContractError
from cpcsam.images.intensity import eight_bits, value_bounds
from cpcsam.images.masks import read_foreground, read_labels, read_mask
from cpcsam.images.options import Intensity, ReadOptions
from cpcsam.images.reading import decode_image, decode_picture, read_header
from tests.support.image_files import (
    ImageCase,
    files_of_modes,
    oriented_files,
    png_chunk,
    saved,
    stretched,
    tiff,
)

SIZE = (33, 47)
CASES = list(files_of_modes(np.random.default_rng(0), *SIZE))
PICTURE = np.random.default_rng(1).integers(0, 256, (13, 21, 3), dtype=np.uint8)


def of_name(case: ImageCase) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=of_name)
def test_decode_image_shows_each_kind_of_pixel(case: ImageCase) -> None:
    assert np.array_equal(decode_image(case.data), stretched(case.values))
    header = read_header(case.data)
    assert header.size == SIZE and not header.left_out


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image_turns_each_place_of_an_orientation_upright(orientation: int) -> None:
    smooth = np.asarray(Image.fromarray(PICTURE).resize((63, 39), Image.Resampling.BICUBIC))
    for case in oriented_files(smooth, orientation):
        decoded = decode_image(case.data)
        assert read_header(case.data).size == decoded.shape[:2] == (39, 63), case.name
        difference = abs(decoded.astype(int) - case.values)
        assert difference.mean() < (0.5 if case.is_exact else 6), case.name


@pytest.mark.parametrize("damage", [b"", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", bytes(40)])
def test_decode_image_reads_files_with_a_damaged_exif_block(damage: bytes) -> None:
    image = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()[6:]
    webp = saved(image, "WEBP", lossless=True, exact=True, exif=exif)
    assert body in webp
    files = [
        saved(image, "JPEG", exif=damage),
        webp.replace(body, damage[: len(body)].ljust(len(body), b"\0")),
    ]
    png = saved(image, "PNG")
    end = png.rindex(b"IEND") - 4
    broken = bytearray(png_chunk(b"eXIf", damage or b"x"))
    broken[-1] ^= 1  # its checksum
    files.append(png[:end] + bytes(broken) + png[end:])
    for data in files:
        assert decode_image(data).shape == PICTURE.shape
        assert read_header(data).size == PICTURE.shape[:2]


def test_intensity_range_maps_values_and_percentiles_can_be_chosen() -> None:
    values = np.arange(0, 4095, 7, dtype=np.uint16).reshape(13, 45)
    data = tiff(values)
    fixed = decode_image(data, options=ReadOptions(intensity=Intensity("range", 0, 4095)))
    assert np.array_equal(fixed[..., 0], np.rint(values / 4095 * 255).astype(np.uint8))
    chosen = decode_image(data, options=ReadOptions(intensity=Intensity("percentile", 5, 60)))
    assert np.array_equal(chosen, stretched(values, 5, 60))
    assert Intensity.parse(str(Intensity("range", 0, 4095))) == Intensity("range", 0, 4095)


def test_nan_is_no_data_and_counts_for_no_percentile() -> None:
    values = np.linspace(5, 9, 400, dtype=np.float32).reshape(20, 20)
    clean = eight_bits(values[1:])
    values[0] = np.nan
    values[1, 0] = np.inf
    decoded = decode_image(tiff(values))[..., 0]
    assert (decoded[0] == 0).all() and decoded[1, 0] == 255
    assert abs(decoded[1:, 1:].astype(int) - clean[:, 1:]).max() <= 1
    assert (decode_image(tiff(np.full((3, 3), np.nan, np.float32))) == 0).all()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_eight_bits_keeps_order_and_constant_images(dtype: str) -> None:
    values = np.array([[0, 1, 3, 9, 100]], dtype)
    scaled = eight_bits(values, Intensity("percentile", 0, 100))
    assert (np.diff(scaled.astype(int)) >= 0).all()
    assert not eight_bits(np.full((4, 4), 7, dtype)).any() or dtype == "u1"


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_stack_pages_are_planes_and_channels_can_be_chosen(kind: str) -> None:
    stack = np.random.default_rng(2).integers(0, 4096, (5, 2, 3, 11, 17)).astype(np.uint16)
    data = tiff(stack, **{kind: True}, metadata={"axes": "TZCYX"})
    header = read_header(data)
    assert (header.pages, header.channels) == (10, 3)
    assert "got 10 pages, read the first" in header.left_out
    first = stretched(np.moveaxis(stack[0, 0], 0, 2))
    assert np.array_equal(decode_image(data), first)
    eighth = decode_image(data, options=ReadOptions(7, (2,)))
    assert np.array_equal(eighth, stretched(stack[3, 1, 2]))
    two = decode_image(data, options=ReadOptions(7, (1, 0)))

    assert np.array_equal(two[..., 0], eight_bits(stack[3, 1, 1::-1])[0])
    assert not two[..., 2].any()
    assert not read_header(data, ReadOptions(7, (2,))).left_out
    with pytest.raises(ContractError, match="page: got 10, expected 0 to 9"):
        decode_image(data, options=ReadOptions(10))
    with pytest.raises(ContractError, match="channels: got .3., expected 0 to 2"):
        read_header(data, ReadOptions(0, (3,)))


def test_complete_reading_refuses_what_would_be_left_out() -> None:
    frames = [Image.fromarray(np.full((9, 9, 3), 60 * k, np.uint8)) for k in range(3)]
    two_channels = tiff(np.zeros((2, 9, 9), np.uint16), imagej=True, metadata={"axes": "CYX"})
    files = {
        "APNG": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "GIF": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "TIFF": saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "channels": two_channels,
    }
    for name, data in files.items():
        assert read_header(data).left_out, name
        with pytest.raises(ContractError, match=r"set page or channels"):
            decode_image(data, complete=True)
        assert decode_image(data, options=ReadOptions(0, (0,)), complete=True).shape == (9, 9, 3)
    last = decode_image(files["APNG"], options=ReadOptions(2))
    assert (last == 120).all()


@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_frames_after_a_grey_one_keep_their_colours(disposal: int) -> None:
    grey = np.arange(4096).astype(np.uint8).reshape(64, 64)
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:32, :32], colours[:32, 32:], colours[32:, :32] = (255, 0, 0), (0, 200, 0), (0, 0, 255)
    frames = [Image.fromarray(each) for each in (grey, colours, grey.T, colours[::-1])]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal)
    for page in (3, 1, 0, 2):
        shown = frames[page].convert("RGB")
        assert read_header(data, ReadOptions(page)).channels == 3
        assert np.array_equal(decode_image(data, options=ReadOptions(page)), shown)
        assert decode_picture(data, options=ReadOptions(page)).tobytes() == shown.tobytes()
    assert np.array_equal(read_labels(data), grey) and np.array_equal(
        read_labels(data, page=2), grey.T
    )


def test_float_predictor_and_lzw_of_colours_are_unpacked() -> None:
    deep = np.random.default_rng(3).integers(0, 4096, (10, 14, 3)).astype(np.uint16)
    real = (deep[..., 0] / 7).astype(np.float32)
    for predictor in (1, 2, 3):
        for packing in ("tiff_lzw", "tiff_adobe_deflate"):
            options = {"compression": packing, "tiffinfo": {317: predictor}}
            data = saved(Image.fromarray(real), "TIFF", **options)
            assert np.array_equal(decode_image(data), stretched(real)), (packing, predictor)


def test_previews_are_no_pages_and_other_files_are_not_opened() -> None:
    image = np.random.default_rng(4).integers(0, 256, (40, 60), dtype=np.uint8)
    with tifffile.TiffWriter(path := io.BytesIO()) as writer:
        writer.write(image)
        writer.write(image[::4, ::4], subfiletype=1)
    assert read_header(path.getvalue()).pages == 1


def test_read_labels_takes_indices_and_refuses_what_is_no_label() -> None:
    labels = np.array([[0, 1, 70_000], [2, 2, 0]], np.int32)
    assert np.array_equal(read_labels(tiff(labels)), labels)
    assert np.array_equal(read_foreground(tiff(labels)), labels > 0)
    indexed = Image.fromarray(labels.clip(0, 3).astype(np.uint8))
    palette = indexed.copy()
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    assert np.array_equal(read_labels(saved(palette, "PNG")), labels.clip(0, 3))
    real = labels.astype(np.float32)
    real[0, 0] = np.nan
    assert np.array_equal(read_labels(tiff(real)), labels)
    for wrong, message in (
        (tiff(labels - 1), "got the value -1"),
        (tiff(real + 0.5), "whole numbers"),
        (saved(Image.fromarray(PICTURE), "PNG"), "got colours"),
    ):
        with pytest.raises(ContractError, match=message):
            read_labels(wrong)


def test_white_is_zero_rounds_as_the_same_image_with_black_is_zero() -> None:
    # Half of the values lie exactly between two grey levels.
    grey = np.arange(0, 511, dtype=np.uint16).reshape(7, 73)
    full = ReadOptions(intensity=Intensity("percentile", 0, 100))
    white = decode_image(tiff(65_535 - grey, photometric="miniswhite"), options=full)
    assert np.array_equal(white, decode_image(tiff(grey), options=full))


def stack_of(kind: str, grey: NDArray[np.uint8]) -> bytes:
    """A TIFF of 8-bit pages, as a program writes it."""
    content = io.BytesIO()
    if kind in ("tiff_lzw", "packbits"):
        first, *others = map(Image.fromarray, grey)
        first.save(content, "TIFF", save_all=True, append_images=others, compression=kind)
        return content.getvalue()
    options: dict[str, Any] = {
        "plain": {"photometric": "minisblack"},
        "zlib": {"photometric": "minisblack", "compression": "zlib"},
        "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
        "ome": {"ome": True, "metadata": {"axes": "TYX"}},
    }
    tifffile.imwrite(content, grey, **options[kind])
    return content.getvalue()


@pytest.mark.parametrize("kind", ["plain", "zlib", "imagej", "ome", "tiff_lzw", "packbits"])
def test_pages_of_8_bits_are_those_that_are_chosen(kind: str) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (4, 16, 20), np.uint8)
    content = stack_of(kind, grey)
    for page in range(4):
        shown = decode_image(content, options=ReadOptions(page))
        assert (shown[:, :, 0] == grey[page]).all()
        assert (read_mask(content, page=page).values[:, :, 0] == grey[page]).all()


def test_directories_are_pages_each_turned_by_its_own_tag() -> None:
    corner = np.zeros((20, 30), np.uint16)
    corner[0, 0] = 65535
    content = io.BytesIO()
    with tifffile.TiffWriter(content) as writer:
        for orientation, values in ((1, corner), (1, corner.T), (3, corner), (6, corner)):
            tag = (274, "H", 1, orientation, True)
            writer.write(values, extratags=[tag], photometric="minisblack", metadata=None)
    scaled = Intensity("range", 0, 65535)
    shown = [
        decode_image(content.getvalue(), options=ReadOptions(page, intensity=scaled))
        for page in range(4)
    ]
    assert [image.shape[:2] for image in shown] == [(20, 30), (30, 20), (20, 30), (30, 20)]
    places = [np.argwhere(image[:, :, 0]).tolist() for image in shown]
    assert places == [[[0, 0]], [[0, 0]], [[19, 29]], [[0, 19]]]


@pytest.mark.parametrize("channels", [3, 4])
def test_interleaved_channels_that_are_no_colours_are_read(channels: int) -> None:
    values = np.full((16, 20, channels), 10, np.uint8) * np.arange(1, channels + 1, dtype=np.uint8)
    content = io.BytesIO()
    tifffile.imwrite(content, values, photometric="minisblack", planarconfig="contig")
    last = decode_image(content.getvalue(), options=ReadOptions(channels=(channels - 1,)))
    assert (last == 10 * channels).all()


@pytest.mark.parametrize("compression", ["group4", "tiff_deflate", "tiff_lzw", "zstd"])
def test_nearly_blank_page_of_one_bit_is_read(compression: str) -> None:
    mask = np.zeros((4000, 4000), bool)
    mask[100:200, 100:200] = True
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "TIFF", compression=compression)
    assert (decode_image(content.getvalue())[:, :, 0] > 0).sum() == 10_000
    assert (read_mask(content.getvalue()).values[:, :, 0] != 0).sum() == 10_000


@pytest.mark.parametrize("photometric", [0, 1])
def test_labels_of_4_bits_are_read_as_they_are_stored(photometric: int) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    packed = (values[:, ::2] << 4 | values[:, 1::2]).tobytes()
    tags = [(256, 4), (257, 3), (258, 4), (259, 1), (262, photometric), (273, 8), (278, 3)]
    tags.append((279, len(packed)))
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if 258 <= tag <= 262 else 4, 1, value) for tag, value in tags
    )
    offset = 8 + len(packed)
    header = struct.pack("<2sHI", b"II", 42, offset)
    content = header + packed + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert (read_mask(content).values[:, :, 0] == values).all()


def test_percentiles_of_large_images_are_of_all_channels() -> None:
    values = np.zeros((3400, 3400, 3), np.float32)
    values[:, :, 1] = 1.0
    low, high = value_bounds(values, Intensity("percentile", 40, 80))
    assert (low, high) == (0.0, 1.0)
