"""TIFF files with their pages and stacks: OME-TIFF, ImageJ hyperstacks, microscopes, scanners.

tifffile reads the structure and the pixels; Pillow, through libtiff, the compressions and colours
that tifffile leaves to a further package.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.errors import extra
from cpcsam.images.orientation import orientation_of
from cpcsam.images.pillow_source import values_of
from cpcsam.images.source import PageInfo, Pixels, refusal
from cpcsam.images.tiff_codecs import BYTE_CODECS, unpack_page

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

__all__ = ["TiffSource"]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
PILLOW_COLOURS: Final = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR)
CHUNKY: Final = 1
NATIVE_CODECS: Final = (1, 8, 32946, 32773, 34925)
"""None, deflate, PackBits and LZMA, which tifffile unpacks by itself."""
FLOAT_PREDICTOR: Final = 3
ORIENTATION, XMP = 274, 700
UNUSED_TAG: Final = 65_000
ALPHA: Final = (1, 2)
"""Values of ExtraSamples for transparency."""
SLIDES: Final = ("svs", "ndpi", "scn", "bif", "philips", "avs", "qpi", "eer")
"""Whole-slide formats, whose further series are thumbnails and labels."""
MAX_PAGES: Final = 1 << 16
MAX_BYTES: Final = 1 << 30
"""Largest page in memory."""
MAX_RATIO: Final = 4096
"""Beyond any compression's: a header that claims more was damaged."""

# Its messages are about metadata; without a handler, Python prints them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class _Plane:
    """A page: planes of a series, one for each channel that is stored apart."""

    series: TiffPageSeries
    indices: tuple[int, ...]


class TiffSource:
    """An opened TIFF file.

    Args:
        data: the whole file.

    Raises:
        ContractError: more pages than `MAX_PAGES`.
        ModuleNotFoundError: tifffile is not installed.
        Exception: of any type that tifffile raises for a damaged file.
    """

    def __init__(self, data: bytes) -> None:
        with extra("client"):
            from tifffile import TiffFile

        _check_pages(data)
        self._data = data
        # Other files that a header names are never opened.
        self._tiff: TiffFile = TiffFile(io.BytesIO(data), _multifile=False)
        self._planes = [plane for series in self._series() for plane in _planes(series)]
        if not self._planes:
            raise refusal("a TIFF file without a page", "a page", "convert it to PNG")

    @property
    def pages(self) -> int:
        """Number of pages: planes in which channels of a stack count once."""
        return len(self._planes)

    def page_info(self, page: int) -> PageInfo:
        """Describe a page by the tags of its directory."""
        plane = self._planes[page]
        frame = plane.series.keyframe
        size, samples = _layout(frame)
        xmp = frame.tags.valueof(XMP)
        stated = frame.tags.valueof(ORIENTATION)
        orientation = stated if stated in range(1, 9) else None
        if orientation is None:
            orientation = orientation_of(None, xmp if isinstance(xmp, bytes) else None)
        if len(plane.indices) > 1:
            channels = len(plane.indices)
            colours = (0, 1, 2) if channels == 3 else (0,)
            return PageInfo(size, orientation, channels, colours, channels != len(colours))
        if frame.photometric in (PALETTE, CMYK, YCBCR):
            return PageInfo(size, orientation, 3, (0, 1, 2))
        alphas = sum(kind in ALPHA for kind in frame.extrasamples)
        opaque = samples - alphas
        if frame.photometric == RGB and samples >= 3 or opaque == 3:
            return PageInfo(size, orientation, samples, (0, 1, 2), opaque > 4)
        return PageInfo(size, orientation, samples, (0,), opaque > 1)

    def read(self, page: int, channels: tuple[int, ...]) -> Pixels:
        """Decode channels of a page.

        Raises:
            ContractError: a page that is too large, incomplete, or of colours that are not read.
            Exception: of any type that tifffile and Pillow raise for a damaged file.
        """
        plane = self._planes[page]
        frame = plane.series.keyframe
        self._check_size(frame)
        if len(plane.indices) > 1:
            read = {index: self._plane(plane, index) for index in dict.fromkeys(channels)}
            values = np.concatenate([read[index][:, :, :1] for index in channels], axis=2)
            return Pixels(values, frame.photometric == WHITE_IS_ZERO)
        if _is_for_pillow(frame) and frame.index < len(self._tiff.pages):
            values = values_of(self._by_pillow(frame.index))
            if max(channels) < values.shape[2]:
                return Pixels(values[:, :, list(channels)])
        values = _colours(frame, self._plane(plane, 0))
        return Pixels(values[:, :, list(channels)], frame.photometric == WHITE_IS_ZERO)

    def read_indices(self, page: int) -> Pixels:
        """Decode a page whose values are labels."""
        plane = self._planes[page]
        frame = plane.series.keyframe
        self._check_size(frame)
        if frame.compression not in (*NATIVE_CODECS, *BYTE_CODECS):
            values = np.asarray(self._by_pillow(frame.index))
            return Pixels(values if values.ndim == 3 else values[:, :, None])
        return Pixels(self._plane(plane, 0))

    def _series(self) -> list[TiffPageSeries]:
        series = list(self._tiff.series)
        if series and series[0].kind in SLIDES:
            return series[:1]
        # Previews and masks of transparency are no pages.
        kept = [each for each in series if not (each.keyframe.is_reduced or each.keyframe.is_mask)]
        return kept or series

    def _plane(self, plane: _Plane, channel: int) -> NDArray[Any]:
        """Decode one stored plane as (H, W, samples)."""
        series, index = plane.series, plane.indices[channel]
        frame = series.keyframe
        start = series.dataoffset
        if start is not None and frame.compression == 1 and frame.is_final:
            # A stack in one piece, in which further directories may be missing.
            kind = np.dtype(frame.dtype).newbyteorder(self._tiff.byteorder)
            count = math.prod(frame.shape)
            offset = start + index * count * kind.itemsize
            if offset + count * kind.itemsize > len(self._data):
                raise _cut_off()
            values = np.frombuffer(self._data, kind, count, offset).reshape(frame.shape)
            values = values.astype(kind.newbyteorder("="))
        else:
            page = series[index]
            if page is None:
                raise _cut_off()
            page = page.aspage()
            if any(start + size > len(self._data) for start, size in _segments(page)):
                raise _cut_off()
            if frame.compression in NATIVE_CODECS and frame.predictor != FLOAT_PREDICTOR:
                values = page.asarray()
            else:
                return unpack_page(self._data, page, self._tiff.byteorder)
        if frame.axes.startswith("S"):
            return np.moveaxis(values.reshape(-1, *_layout(frame)[0]), 0, 2)
        return values.reshape(*_layout(frame)[0], -1)

    def _by_pillow(self, index: int) -> Image.Image:
        """Open a page with Pillow, which is not to turn it upright."""
        tags = self._tiff.pages[index].aspage().tags
        hidden = [tag for code in (ORIENTATION, XMP) if (tag := tags.get(code)) is not None]
        data = bytearray(self._data) if hidden else self._data
        if isinstance(data, bytearray):
            for number, tag in enumerate(hidden):
                unused = np.array(UNUSED_TAG + number, f"{self._tiff.byteorder}u2")
                data[tag.offset : tag.offset + 2] = unused.tobytes()
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
        image.seek(index)
        return image

    def _check_size(self, frame: TiffPage) -> None:
        size = math.prod(frame.shape) * (1 if frame.dtype is None else frame.dtype.itemsize)
        if size > MAX_BYTES or size > MAX_RATIO * len(self._data):
            raise refusal(
                f"a page of {' x '.join(map(str, frame.shape))} values in {len(self._data)} bytes",
                f"at most {MAX_BYTES} bytes in memory",
                "cut it into tiles, or write it again",
            )


def _cut_off() -> Exception:
    return refusal("a TIFF file that was cut off", "the whole file", "copy it again")


def _segments(page: TiffPage) -> zip[tuple[int, int]]:
    return zip(page.dataoffsets, page.databytecounts, strict=False)


def _check_pages(data: bytes) -> None:
    """Follow the chain of directories, which a hostile file makes endless."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    count_form, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    seen: set[int] = set()
    (offset,) = struct.unpack_from(order + link, data, 8 if big else 4)
    while offset and offset not in seen and len(seen) <= MAX_PAGES:
        seen.add(offset)
        try:
            (count,) = struct.unpack_from(order + count_form, data, offset)
            after = offset + struct.calcsize(count_form) + entry * count
            (offset,) = struct.unpack_from(order + link, data, after)
        except struct.error:
            break
    if len(seen) > MAX_PAGES:
        raise refusal(f"more than {MAX_PAGES} pages", f"at most {MAX_PAGES}", "split the file")


def _planes(series: TiffPageSeries) -> list[_Plane]:
    """Divide a series into pages; its axis C, if pixels have no samples, into channels."""
    stack = [
        (axis, length)
        for axis, length in zip(series.axes, series.shape, strict=True)
        if axis not in "YXS"
    ]
    count = len(series)
    lengths = [length for _, length in stack]
    if not count or math.prod(lengths) != count:
        return [_Plane(series, (index,)) for index in range(count)]
    indices = np.arange(count).reshape(lengths)
    names = [axis for axis, _ in stack]
    if "C" in names and "S" not in series.axes:
        indices = np.moveaxis(indices, names.index("C"), -1).reshape(-1, lengths[names.index("C")])
    else:
        indices = indices.reshape(-1, 1)
    return [_Plane(series, tuple(row)) for row in indices.tolist()]


def _layout(frame: TiffPage) -> tuple[tuple[int, int], int]:
    """Return (H, W) and the samples of a page.

    Raises:
        ContractError: it has further axes.
    """
    if frame.axes not in ("YX", "YXS", "SYX"):
        raise refusal(f"a TIFF page of axes {frame.axes}", "YX, YXS or SYX", "write it as planes")
    return (int(frame.imagelength), int(frame.imagewidth)), int(frame.samplesperpixel)


def _is_for_pillow(frame: TiffPage) -> bool:
    """Return whether a page is of a common kind of 8 bits or less, or a JPEG."""
    return (
        frame.dtype is not None
        and frame.dtype in (np.uint8, np.bool_)
        and (frame.planarconfig == CHUNKY or frame.samplesperpixel == 1)
        and frame.photometric in PILLOW_COLOURS
        and frame.samplesperpixel <= 4
    )


def _colours(frame: TiffPage, values: NDArray[Any]) -> NDArray[Any]:
    """Return grey or RGB for what palettes and inks stand for.

    Raises:
        ContractError: colours that are not read.
    """
    if frame.photometric == PALETTE and frame.colormap is not None:
        colours: NDArray[Any] = np.asarray(frame.colormap >> 8, np.uint8)
        return np.take(colours.T, values[:, :, 0], axis=0)
    if frame.photometric == CMYK and values.shape[2] >= 4 and values.dtype.kind == "u":
        white = np.float32(np.iinfo(values.dtype).max)
        inks = white - values[:, :, :4].astype(np.float32)
        return np.rint(inks[:, :, :3] * (inks[:, :, 3:] / white)).astype(values.dtype)
    if frame.photometric in (PALETTE, CMYK, YCBCR) or frame.photometric in (8, 9, 10):
        raise refusal(
            f"TIFF colours of kind {frame.photometric} with {frame.bitspersample} bits",
            "grey, RGB or CMYK, or 8 bits",
            "convert it to RGB",
        )
    return values
