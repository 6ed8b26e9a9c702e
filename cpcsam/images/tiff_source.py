"""TIFF files with their pages and stacks: OME-TIFF, ImageJ hyperstacks, microscopes, scanners.

tifffile reads the structure and the pixels; Pillow, through libtiff, the compressions and colours
that tifffile leaves to a further package.
"""

from __future__ import annotations

import io
import logging
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.errors import extra
from cpcsam.images.orientation import orientation_of
from cpcsam.images.pillow_source import values_of
from cpcsam.images.source import Opacity, PageInfo, Pixels, refusal
from cpcsam.images.tiff_codecs import BYTE_CODECS, unpack_page
from cpcsam.images.tiff_pages import Plane, check_pages, layout_of, opaque_samples, planes_of

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

__all__ = ["TiffSource"]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
GREYS: Final = (WHITE_IS_ZERO, BLACK_IS_ZERO)
PILLOW_COLOURS: Final = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR)
CHUNKY: Final = 1
NATIVE_CODECS: Final = (1, 8, 32946, 32773, 34925)
"""None, deflate, PackBits and LZMA, which tifffile unpacks by itself."""
FLOAT_PREDICTOR: Final = 3
ORIENTATION, XMP = 274, 700
UNUSED_TAG: Final = 65_000
DIRECTORIES: Final = ("generic", "uniform")
"""Kinds of series whose pages are the file's directories."""
SLIDES: Final = ("svs", "ndpi", "scn", "bif", "philips", "avs", "qpi", "eer")
"""Whole-slide formats, whose further series are thumbnails and labels."""
MAX_BYTES: Final = 1 << 30
"""Largest page in memory."""
MAX_RATIO: Final = 4096
"""Beyond any compression's: a header that claims more was damaged."""

# Its messages are about metadata; without a handler, Python prints them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


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

        check_pages(data)
        self._data = data
        # Other files that a header names are never opened.
        self._tiff: TiffFile = TiffFile(io.BytesIO(data), _multifile=False)
        kept = self._series()
        self._planes = [plane for series in kept for plane in planes_of(series)]
        if len(kept) > 1 and all(series.kind in DIRECTORIES for series in kept):
            # tifffile puts pages of one size together, for which it has read all of them.
            self._planes.sort(key=self._place)
        if not self._planes:
            raise refusal("a TIFF file without a page", "a page", "convert it to PNG")

    @property
    def pages(self) -> int:
        """Number of pages: planes in which channels of a stack count once."""
        return len(self._planes)

    def page_info(self, page: int) -> PageInfo:
        """Describe a page by the tags of its directory."""
        plane = self._planes[page]
        frame, at = plane.series.keyframe, self._directory(plane)
        size, samples = layout_of(frame)
        tags = frame.tags if at is None else self._tiff.pages[at].aspage().tags
        xmp, stated = tags.valueof(XMP), tags.valueof(ORIENTATION)
        orientation = stated if stated in range(1, 9) else None
        if orientation is None:
            orientation = orientation_of(None, xmp if isinstance(xmp, bytes) else None)
        if len(plane.indices) > 1:
            channels = len(plane.indices)
            colours = (0, 1, 2) if channels == 3 else (0,)
            return PageInfo(size, orientation, channels, colours, channels != len(colours))
        if frame.photometric in (PALETTE, CMYK, YCBCR):
            return PageInfo(size, orientation, 3, (0, 1, 2))
        opaque = opaque_samples(frame)
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
        at = self._directory(plane)
        if _is_for_pillow(frame) and at is not None:
            values = values_of(self._by_pillow(at))
            if max(channels) < values.shape[2]:
                return Pixels(values[:, :, list(channels)])
        values = _colours(frame, self._plane(plane, 0))
        return Pixels(values[:, :, list(channels)], frame.photometric == WHITE_IS_ZERO)

    def read_indices(self, page: int) -> Pixels:
        """Decode a page whose values are labels."""
        plane = self._planes[page]
        frame = plane.series.keyframe
        self._check_size(frame)
        at = self._directory(plane)
        if at is not None and _is_for_pillow_as_labels(frame):
            values = _labels_of(self._by_pillow(at), frame)
            return Pixels(values if values.ndim == 3 else values[:, :, None])
        values = self._plane(plane, 0)[:, :, : opaque_samples(frame)]
        # One bit has no label but white, which either value may be.
        is_inverted = frame.photometric == WHITE_IS_ZERO and frame.bitspersample == 1
        return Pixels(values == 0 if is_inverted else values)

    def read_opacity(self, page: int) -> Opacity | None:
        """Decode a page's opacity; None if it has none."""
        plane = self._planes[page]
        frame = plane.series.keyframe
        opaque = opaque_samples(frame)
        if opaque == frame.samplesperpixel:
            return None
        self._check_size(frame)
        return Opacity(self._plane(plane, 0)[:, :, opaque])

    def _directory(self, plane: Plane) -> int | None:
        """Return the index of a plane's own directory; None if it has none."""
        series, index = plane.series, plane.indices[0]
        if index and series.dataoffset is not None and series.keyframe.compression == 1:
            return None  # in one piece, in which further directories may be missing
        page = series[index]
        at = None if page is None else page.index
        return at if isinstance(at, int) and at < len(self._tiff.pages) else None

    def _place(self, plane: Plane) -> int:
        at = self._directory(plane)
        return int(plane.series.keyframe.index) if at is None else at

    def _series(self) -> list[TiffPageSeries]:
        series = list(self._tiff.series)
        if series and series[0].kind in SLIDES:
            return series[:1]
        # Previews and masks of transparency are no pages.
        kept = [each for each in series if not (each.keyframe.is_reduced or each.keyframe.is_mask)]
        return kept or series

    def _plane(self, plane: Plane, channel: int) -> NDArray[Any]:
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
            return np.moveaxis(values.reshape(-1, *layout_of(frame)[0]), 0, 2)
        return values.reshape(*layout_of(frame)[0], -1)

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
        # A blank row of one bit a pixel takes a bit or less.
        is_damaged = frame.bitspersample > 1 and size > MAX_RATIO * len(self._data)
        if size > MAX_BYTES or is_damaged:
            raise refusal(
                f"a page of {' x '.join(map(str, frame.shape))} values in {len(self._data)} bytes",
                f"at most {MAX_BYTES} bytes in memory",
                "cut it into tiles, or write it again",
            )


def _cut_off() -> Exception:
    return refusal("a TIFF file that was cut off", "the whole file", "copy it again")


def _segments(page: TiffPage) -> zip[tuple[int, int]]:
    return zip(page.dataoffsets, page.databytecounts, strict=False)


def _is_for_pillow(frame: TiffPage) -> bool:
    """Return whether a page is of a common kind of 8 bits or less, or a JPEG."""
    return (
        frame.dtype is not None
        and frame.dtype in (np.uint8, np.bool_)
        and (frame.planarconfig == CHUNKY or frame.samplesperpixel == 1)
        and frame.photometric in PILLOW_COLOURS
        and frame.samplesperpixel <= (2 if frame.photometric in GREYS else 4)
    )


def _is_for_pillow_as_labels(frame: TiffPage) -> bool:
    """Return whether tifffile does not unpack a page's values by itself."""
    unpacked = (*NATIVE_CODECS, *BYTE_CODECS) if frame.bitspersample >= 8 else NATIVE_CODECS
    return frame.compression not in unpacked or 1 < frame.bitspersample < 8


def _labels_of(image: Image.Image, frame: TiffPage) -> NDArray[Any]:
    """Return the values of a page as they are stored, which Pillow spreads to 8 bits."""
    values = np.asarray(image)
    if image.mode != "L" or not 1 < frame.bitspersample < 8:
        return values
    highest = (1 << frame.bitspersample) - 1
    stored = values // (255 // highest)
    return highest - stored if frame.photometric == WHITE_IS_ZERO else stored


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
