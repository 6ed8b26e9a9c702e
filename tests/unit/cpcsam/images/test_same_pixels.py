"""Training, serving, client and command line see equal pixels of every file and array."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cpcsam.cli.image_paths import count_left_out, find_images
from cpcsam.client.images import ImageId, encode_image
from cpcsam.contract import IMAGE
from cpcsam.entry_points import IMAGE_BYTES, ORIGINAL_SIZE
from cpcsam.errors import ContractError
from cpcsam.images.options import Intensity
from cpcsam.images.reading import decode_image, read_header
from cpcsam.transforms import to_frame
from serving.backend.preprocess import preprocess
from serving.backend.step import Request
from serving.gateway.limits import Limits
from serving.gateway.validation.request import original_size_of
from tests.support.image_files import ImageCase, files_of_modes, oriented_files, stretched
from training.data.datasets.files import read_rgb
from training.data.datasets.items import Findings

SIDE = 64
UNHURRIED = settings(
    deadline=None,
    max_examples=6,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def served(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    """The encoder's frame, (S, S, 3), and the size that Triton's step tells."""
    request = Request({IMAGE_BYTES.name: np.array([[data]], object)}, frozenset())
    answer = preprocess(request, SIDE, 1 << 20)
    height, width = answer[ORIGINAL_SIZE.name][0].tolist()
    return answer[IMAGE.name][0].transpose(1, 2, 0), (height, width)


def require_equal_everywhere(case: ImageCase, folder: Path) -> None:
    path = folder / f"image{'.tif' if case.data[:2] in (b'II', b'MM') else '.png'}"
    path.write_bytes(case.data)
    trained = read_rgb(path, Findings())
    assert trained is not None
    if case.is_exact:
        assert np.array_equal(trained, stretched(case.values)), case.name
    size = trained.shape[:2]
    assert original_size_of(case.data, Limits()) == size == read_header(case.data).size, case.name
    (found,) = find_images([str(path)])
    for sent in (path, str(path), bytearray(case.data), memoryview(case.data), found.path):
        assert np.array_equal(decode_image(encode_image(sent)), trained), case.name
    with path.open("rb") as file:
        assert encode_image(file) == encode_image(io.BytesIO(case.data)) == case.data
    frame, told = served(case.data)
    assert told == size
    # Longest sides of SIDE are not resized, so that the frame holds the pixels themselves.
    assert np.array_equal(frame[: size[0], : size[1]], trained), case.name
    if case.is_exact:
        # The same values as an array, as a client holds them.
        assert np.array_equal(decode_image(encode_image(case.values)), trained), case.name


@pytest.mark.slow
@UNHURRIED
@given(
    short=st.integers(9, SIDE),
    is_tall=st.booleans(),
    orientation=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_every_reader_sees_equal_pixels(
    tmp_path: Path, short: int, is_tall: bool, orientation: int, seed: int
) -> None:
    height, width = (SIDE, short) if is_tall else (short, SIDE)
    rng = np.random.default_rng(seed)
    for case in files_of_modes(rng, height, width):
        require_equal_everywhere(case, tmp_path)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for case in oriented_files(picture, orientation):
        require_equal_everywhere(case, tmp_path)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "PA"],
)
def test_encode_image_takes_pillow_images_of_every_mode(mode: str) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 4000, (20, 31)).astype(np.int32)
    colours = Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8))
    if mode in ("I", "F", "I;16"):
        image = Image.fromarray(grey.astype({"I": "i4", "F": "f4", "I;16": "u2"}[mode]))
        expected = stretched(grey)
    else:
        image = colours.convert("P").convert("PA") if mode == "PA" else colours.convert(mode)
        expected = np.array(image.convert("RGB"))
    assert image.mode == mode
    assert np.array_equal(decode_image(encode_image(image)), expected)


def test_encode_image_takes_a_pillow_image_as_its_pixels_stand() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    for case in oriented_files(picture, 6):
        with Image.open(io.BytesIO(case.data)) as image:
            pixels = np.array(image.convert("RGB"))
        with Image.open(io.BytesIO(case.data)) as image:
            assert np.array_equal(decode_image(encode_image(image)), pixels), case.name


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "i4", "f2", "f4", ">f4", "f8", "?"])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_encode_image_takes_arrays_of_every_type(dtype: str, channels: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 200, (11, 13, *channels)).astype(dtype)
    values = values[::-1]  # not contiguous
    decoded = decode_image(encode_image(values))
    shown = values[..., :3] if channels == (4,) else values
    shown = shown[..., 0] if channels == (1,) else shown
    expected = (
        shown * np.uint8(255) if dtype == "?" else shown.astype(shown.dtype.newbyteorder("="))
    )
    assert np.array_equal(decoded, stretched(expected))


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        7,
        [[1, 2]],
        np.zeros((3, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((3, 4), np.int64),
        np.zeros((3, 4), object),
        np.zeros(5, np.uint8),
        io.StringIO("text"),
        ImageId("a" * 64),
        "absent.png",
        "zero\0byte.png",
    ],
    ids=lambda value: type(value).__name__,
)
def test_encode_image_refuses_anything_else(wrong: object) -> None:
    with pytest.raises(ContractError, match="got .*, expected .*; "):
        encode_image(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", [1, 6])
def test_preprocess_resizes_the_pixels_of_decode_image(orientation: int) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (3 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
    files = [*files_of_modes(rng, 3 * SIDE, 2 * SIDE), *oriented_files(picture, orientation)]
    for case in files:
        frame, size = served(case.data)
        image = decode_image(case.data)
        assert size == image.shape[:2], case.name
        assert np.array_equal(frame.transpose(2, 0, 1), to_frame(image, SIDE)[0]), case.name


def test_preprocess_follows_the_intensity_of_the_model() -> None:
    values = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    request = Request({IMAGE_BYTES.name: np.array([[encode_image(values)]], object)}, frozenset())
    image = preprocess(request, SIDE, 1 << 20, Intensity("range", 0, 4095))[IMAGE.name]
    assert np.array_equal(image[0, 0], np.rint(values / 4095 * 255).astype(np.uint8))


def test_left_out_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.GIF", "c.heic", "d.heic", "notes.txt", ".hidden.txt", "Makefile"):
        (tmp_path / name).write_bytes(b"x")
    assert [image.path.name for image in find_images([str(tmp_path)])] == ["a.png", "b.GIF"]
    assert count_left_out([str(tmp_path)]) == {".heic": 2, ".txt": 1, "no suffix": 1}
    assert not count_left_out([str(tmp_path / "a.png")])
