"""Encoding of images, in any form that callers hold them, as the bytes of an image file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ContractError, CpcSamError, extra

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageId", "ImageLike", "encode_image"]


class ImageId(str):
    """Name of an image that the server has seen: the SHA-256 of its file, in hexadecimal."""


ImageLike: TypeAlias = Union[
    NDArray[Any],
    "Image.Image",
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    ImageId,
    str,
    Path,
]
"""An array, (H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA, of uint8, uint16, int16,
int32, float or bool; a Pillow image, an encoded file's bytes, a binary file object, the path of a
file, or the `image_id` of an earlier answer."""

MODES_OF_PNG: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
DEEP_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
DTYPES: Final = ("uint8", "uint16", "int16", "int32", "float16", "float32", "float64", "bool")
CHANNELS: Final = (1, 3, 4)


def encode_image(image: ImageLike) -> bytes:
    """Encode an image as the bytes of a file, without loss; files stay unchanged.

    Values of 8 bits, bool, and grey of 16 bits become PNG, others TIFF; the server scales them to
    8 bits by its intensity policy. A Pillow image is taken as its pixels stand, whatever
    orientation its file stated.

    Args:
        image: as of `ImageLike`, but no ImageId.

    Raises:
        ContractError: an array of another shape or dtype, another kind of object, an unreadable
            file, or an ImageId.
        ModuleNotFoundError: Pillow or tifffile is needed and not installed.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, ImageId):
        raise ContractError.of("image", got="an ImageId", expected="an image", fix="give its file")
    if isinstance(image, str | Path):
        return _read_path(image)
    if isinstance(image, np.ndarray):
        return _encode_array(image)
    with extra("client"):
        from PIL import Image
    if isinstance(image, Image.Image):
        return _encode_pillow(image)
    if hasattr(image, "read"):
        return _read_file(image)
    raise _wrong(type(image).__name__, "convert it to a numpy array, or give the file")


def _read_path(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ContractError.of(
            str(path), got=error.strerror, expected="an image file", fix="correct the path"
        ) from error
    except ValueError as error:  # such as a zero byte in the name
        raise ContractError.of(
            repr(str(path)[:80]), got=str(error), expected="an image file", fix="correct the path"
        ) from error


def _read_file(file: IO[bytes]) -> bytes:
    try:
        content = file.read()
    # Archives and connections raise errors of their own.
    except Exception as error:
        raise _wrong(f"a file object that cannot be read ({error})", "open it again") from error
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise _wrong("a file object in text mode", "open it in binary mode")


def _encode_array(array: NDArray[Any]) -> bytes:
    shape = array.shape
    colours = len(shape) == 3 and shape[2] in CHANNELS
    if array.dtype.name not in DTYPES or not (len(shape) == 2 or colours) or array.size == 0:
        raise _wrong(
            f"shape {shape} of {array.dtype}", "convert the array, or send the file's bytes"
        )
    array = array[:, :, 0] if colours and shape[2] == 1 else array
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint16 and array.ndim == 2 or array.dtype in (np.uint8, np.bool_):
        with extra("client"):
            from PIL import Image
        if array.dtype == np.bool_:
            array = array.astype(np.uint8) * np.uint8(255)
        return _png(Image.fromarray(np.ascontiguousarray(array)))
    return _tiff(array.astype(np.float32) if array.dtype == np.float16 else array)


def _encode_pillow(image: Image.Image) -> bytes:
    try:
        if image.mode in DEEP_MODES:
            return _encode_array(np.asarray(image))
        if image.mode in MODES_OF_PNG:
            return _png(image)
        return _png(image.convert("RGB"))
    except (CpcSamError, ModuleNotFoundError):
        raise
    # Pillow reads lazily, from a file of any kind, and has no conversion of some modes.
    except Exception as error:
        raise _wrong(
            f"a Pillow image of mode {image.mode} ({error})", "convert it to RGB"
        ) from error


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    # Speed before size: an image is encoded for each request, but rarely sent twice. Without the
    # metadata of its file, as the orientation there would turn it.
    image.save(file, "PNG", compress_level=1, exif=b"", pnginfo=None)
    return file.getvalue()


def _tiff(array: NDArray[Any]) -> bytes:
    with extra("client"):
        from tifffile import imwrite
    file = io.BytesIO()
    colours = array.ndim == 3
    options: dict[str, Any] = {"extrasamples": ["unassalpha"]} if array.shape[2:] == (4,) else {}
    photometric = "rgb" if colours else "minisblack"
    imwrite(file, np.ascontiguousarray(array), photometric=photometric, metadata=None, **options)
    return file.getvalue()


def _wrong(got: str, fix: str) -> ContractError:
    return ContractError.of(
        "image",
        got=got,
        expected="an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, float or "
        "bool, a Pillow image, bytes, a binary file or a path",
        fix=fix,
    )
