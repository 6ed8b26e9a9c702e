"""Header and pixels of an image file: the one reader of training, serving and clients.

docs/reference/images.md lists what is read how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.contract import MAX_PIXELS
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.images.formats import IMAGE_FORMATS, format_of
from cpcsam.images.intensity import eight_bits, rgb_of
from cpcsam.images.options import Intensity, ReadOptions
from cpcsam.images.orientation import UPRIGHT, turn_upright, upright_size
from cpcsam.images.pillow_source import PillowSource, values_of
from cpcsam.images.source import ImageSource, PageInfo, channels_of, page_of, refusal
from cpcsam.images.tiff_source import TiffSource

__all__ = [
    "ImageHeader",
    "OpenedPage",
    "check_pixels",
    "decode_image",
    "decode_picture",
    "guarded",
    "is_too_large",
    "open_page",
    "pixels_of",
    "read_header",
]

BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Pillow's own limit of pixels, which acts while opening."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageHeader:
    """What a file tells without being decoded.

    Attributes:
        size: (H, W) of the chosen page, upright.
        format: one of `IMAGE_FORMATS`.
        pages: number of pages.
        channels: number of channels of the page.
        left_out: a sentence on pages and channels that are not read though nobody chose; empty
            if there are none.
    """

    size: tuple[int, int]
    format: str
    pages: int
    channels: int
    left_out: str


@dataclass(frozen=True)
class OpenedPage:
    """A chosen page of an opened file, not decoded.

    Attributes:
        header: what the file tells of it.
        info: what its source tells of it.
        source: the opened file.
        index: of the page.
        channels: indices of the chosen channels.
    """

    header: ImageHeader
    info: PageInfo
    source: ImageSource
    index: int
    channels: tuple[int, ...]


def read_header(data: bytes, options: ReadOptions | None = None) -> ImageHeader:
    """Read an image file's header, without decoding pixels.

    Args:
        data: a whole file of `IMAGE_FORMATS`.
        options: the page that is described; None describes the first.

    Raises:
        ContractError: not such a file, a damaged header, or no such page or channel.
    """
    return guarded(data, MAX_PIXELS, lambda: open_page(data, options or ReadOptions()).header)


def decode_image(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    options: ReadOptions | None = None,
    *,
    complete: bool = False,
) -> NDArray[np.uint8]:
    """Decode an image file to RGB, upright by its EXIF, XMP or TIFF orientation.

    Grey is repeated over the channels, transparency is dropped, and values of more than 8 bits are
    scaled by the intensity policy. Without a choice the first page is taken.

    Args:
        data: a whole file of `IMAGE_FORMATS`.
        max_pixels: the largest height times width; compared with the header before decoding.
        options: page, channels and intensity.
        complete: refuse a file of which pages or channels would be left out.

    Returns:
        (H, W, 3) uint8, RGB, writable.

    Raises:
        ContractError: not such a file, damaged, too large, an unknown kind of pixel, no such page
            or channel, or not all of the file.
    """
    return guarded(
        data, max_pixels, lambda: _decode(data, max_pixels, options or ReadOptions(), complete)
    )


def decode_picture(
    data: bytes, max_pixels: int = MAX_PIXELS, options: ReadOptions | None = None
) -> Image.Image:
    """Decode an image file as `decode_image`, to a Pillow image of mode RGB.

    Most files are decoded by Pillow to RGB, upright: their pixels are not copied to an array and
    back, which takes a fifth of the time of decoding and resizing.

    Args:
        data: see `decode_image`, as for the other arguments.
        max_pixels: the largest height times width.
        options: page, channels and intensity.

    Raises:
        ContractError: as `decode_image`.
    """
    return guarded(data, max_pixels, lambda: _picture(data, max_pixels, options or ReadOptions()))


def pixels_of(
    image: NDArray[np.uint8] | str | Path | Image.Image,
    intensity: Intensity | None = None,
    image_format: str = "RGB",
) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) uint8, RGB.

    Args:
        image: such an array, a Pillow image of any mode, as its pixels stand, or a file's path.
        intensity: policy for more than 8 bits; None takes the default.
        image_format: order of an array's channels, RGB or, as OpenCV has it, BGR.

    Raises:
        ContractError: another array or order, or no readable image.
        OSError: the file cannot be read.
    """
    if image_format not in ("RGB", "BGR"):
        raise ContractError.of(
            "image_format", got=repr(image_format), expected="RGB or BGR", fix="correct it"
        )
    if isinstance(image, str | Path):
        return decode_image(Path(image).read_bytes(), options=ReadOptions(intensity=intensity))
    if not isinstance(image, np.ndarray):
        return rgb_of(eight_bits(values_of(image), intensity))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ContractError.of(
            "image",
            got=f"{image.dtype} {image.shape}",
            expected="uint8 (H, W, 3), RGB",
            fix="correct its shape and type",
        )
    return image if image_format == "RGB" else np.ascontiguousarray(image[:, :, ::-1])


def is_too_large(error: BaseException) -> bool:
    """Return whether `read_header` refused an image for Pillow's own limit of pixels."""
    return isinstance(error.__cause__, BOMBS)


def _open(data: bytes) -> tuple[ImageSource, str]:
    kind = format_of(data)
    if kind is None:
        raise refusal(
            f"{len(data)} bytes that cannot be decoded (another format)",
            f"a whole file of {', '.join(IMAGE_FORMATS)}",
            "send the file's bytes unchanged, or convert it to PNG",
        )
    return (TiffSource(data) if kind == "TIFF" else PillowSource(data, kind)), kind


def open_page(data: bytes, options: ReadOptions) -> OpenedPage:
    """Open a file at the chosen page.

    Raises:
        ContractError: another format, or no such page or channel.
        Exception: of any type that a source raises for a damaged file; see `guarded`.
    """
    source, kind = _open(data)
    page = page_of(options, source.pages)
    info = source.page_info(page)
    channels = channels_of(options, info)
    left_out = []
    if options.page is None and source.pages > 1:
        left_out.append(f"page: got {source.pages} pages, read the first; choose with page")
    if not options.channels and info.is_partial:
        shown = "first" if len(info.colours) == 1 else "first three"
        left_out.append(
            f"channels: got {info.channels} channels, read the {shown}; choose with channels"
        )
    size = upright_size(info.size, info.orientation)
    header = ImageHeader(size, kind, source.pages, info.channels, ". ".join(left_out))
    return OpenedPage(header, info, source, page, channels)


def _decode(
    data: bytes, max_pixels: int, options: ReadOptions, complete: bool
) -> NDArray[np.uint8]:
    page = open_page(data, options)
    header = page.header
    if complete and header.left_out:
        raise refusal(
            f"{header.pages} pages of {header.channels} channels",
            "one page of one channel or of three, or a choice",
            "set page or channels, or split the file",
        )
    check_pixels(header.size, max_pixels)
    return _pixels(page, options)


def _picture(data: bytes, max_pixels: int, options: ReadOptions) -> Image.Image:
    page = open_page(data, options)
    check_pixels(page.header.size, max_pixels)
    picture = None
    if isinstance(page.source, PillowSource) and page.info.orientation == UPRIGHT:
        picture = page.source.picture(page.index, page.channels)
    return Image.fromarray(_pixels(page, options)) if picture is None else picture


def _pixels(page: OpenedPage, options: ReadOptions) -> NDArray[np.uint8]:
    pixels = page.source.read(page.index, page.channels)
    eight = eight_bits(pixels.values, options.intensity, white_is_zero=pixels.is_inverted)
    eight = rgb_of(turn_upright(eight, page.info.orientation))
    return np.ascontiguousarray(eight) if eight.flags.writeable else eight.copy("C")


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image of too many pixels.

    Raises:
        ContractError: height times width exceeds `max_pixels`.
    """
    if size[0] * size[1] > max_pixels:
        raise _too_large(f"an image of {size[0]} x {size[1]} pixels", max_pixels)


def _too_large(got: str, max_pixels: int) -> ContractError:
    return refusal(got, f"at most {max_pixels} pixels", "send it smaller or in tiles")


def guarded(data: bytes, max_pixels: int, read: Callable[[], Result]) -> Result:
    """Run a reader, and turn what libraries raise for damaged files into ContractError.

    Args:
        data: the file that it reads.
        max_pixels: for the message.
        read: takes nothing and returns what was read.
    """
    try:
        return read()
    except (CpcSamError, ModuleNotFoundError):
        raise
    except BOMBS as error:
        raise _too_large("an image far beyond that", max_pixels) from error
    # Decoders raise errors of any type for a damaged file.
    except Exception as error:
        raise refusal(
            f"{len(data)} bytes that cannot be decoded ({_one_line(error)})",
            f"a whole file of {', '.join(IMAGE_FORMATS)}",
            "send the file's bytes unchanged, or convert it to PNG",
        ) from error


def _one_line(error: Exception) -> Any:
    """Return an error's text on one line, without the addresses of objects in memory."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(" <_io.BytesIO", 1)[0]
