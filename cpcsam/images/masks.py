"""Masks and label images in files: as their values, or as they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import MAX_PIXELS
from cpcsam.errors import ContractError
from cpcsam.images.options import ReadOptions
from cpcsam.images.orientation import turn_upright
from cpcsam.images.reading import ImageHeader, check_pixels, guarded, open_page, read_header
from cpcsam.images.source import Opacity, Pixels

__all__ = ["MaskPixels", "read_foreground", "read_labels", "read_mask"]


@dataclass(frozen=True)
class MaskPixels:
    """A page of a mask file, decoded and upright.

    Attributes:
        header: of the file.
        values: (H, W, C) of any type, without opacity.
        opacity: of each pixel; None if the file has none.
        is_partial: whether `values` leave channels out.
    """

    header: ImageHeader
    values: NDArray[Any]
    opacity: Opacity | None
    is_partial: bool


def read_mask(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    page: int | None = None,
    *,
    as_shown: bool = False,
) -> MaskPixels:
    """Decode a mask of any kind, upright, without scaling its values.

    Args:
        data: a whole file of `IMAGE_FORMATS`.
        max_pixels: the largest height times width.
        page: index of its image's page; a mask of one page belongs to any. None takes the first.
        as_shown: return grey or RGB as a viewer shows them, with high values bright. Otherwise
            values as stored: indices of a palette are labels, whatever their colours.

    Raises:
        ContractError: not such a file, damaged, too large, no such page, or, if `as_shown`,
            colours that are not read.
    """
    options = ReadOptions(_page_of(data, page))
    return guarded(data, max_pixels, lambda: _mask(data, max_pixels, options, as_shown))


def _page_of(data: bytes, page: int | None) -> int | None:
    """Return the page of a mask file that belongs to a page of its image."""
    return page if page and read_header(data).pages > 1 else None


def read_labels(
    data: bytes, max_pixels: int = MAX_PIXELS, page: int | None = None
) -> NDArray[np.int64]:
    """Decode a label image, upright: 0 for background, a number for each entity.

    Indices of a palette are labels, whatever their colours. NaN is no data and becomes 0.

    Args:
        data: a whole file of `IMAGE_FORMATS`.
        max_pixels: the largest height times width.
        page: as of `read_mask`.

    Returns:
        (H, W) int64, not negative.

    Raises:
        ContractError: as `read_mask`; or colours, negative or fractional values.
    """
    return _labels(data, max_pixels, page).astype(np.int64)


def read_foreground(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Decode a label image to where it is not 0, (H, W) bool, in less memory; see `read_labels`."""
    return np.asarray(_labels(data, max_pixels, None) > 0)


def _labels(data: bytes, max_pixels: int, page: int | None) -> NDArray[Any]:
    """Decode a label image in the type of its values."""
    values = read_mask(data, max_pixels, page).values
    if values.shape[2] > 1 and (values != values[:, :, :1]).any():
        raise _no_labels("colours")
    values = values[:, :, 0]
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.5, neginf=0.5)
        if (values != np.rint(values)).any():
            raise _no_labels("values that are no whole numbers")
    if values.dtype.kind != "b" and values.size and values.min() < 0:
        raise _no_labels(f"the value {values.min():g}")
    return values


def _mask(data: bytes, max_pixels: int, options: ReadOptions, as_shown: bool) -> MaskPixels:
    page = open_page(data, options)
    check_pixels(page.header.size, max_pixels)
    turn = page.info.orientation
    if as_shown:
        values = _bright(page.source.read(page.index, page.channels))
    else:
        values = page.source.read_indices(page.index).values
    opacity = page.source.read_opacity(page.index)
    if opacity is not None:
        opacity = Opacity(turn_upright(opacity.values, turn), opacity.is_keyed)
    return MaskPixels(page.header, turn_upright(values, turn), opacity, page.info.is_partial)


def _bright(pixels: Pixels) -> NDArray[Any]:
    """Return pixels whose high values are bright."""
    values = pixels.values
    if not pixels.is_inverted:
        return values
    kind = values.dtype
    white = np.iinfo(kind).max if kind.kind in "iu" else values.max(initial=0)
    return values == 0 if kind.kind == "b" else white - values


def _no_labels(got: str) -> ContractError:
    return ContractError.of(
        "label image",
        got=got,
        expected="0 for background and a whole number for each entity",
        fix="write it as a grey or indexed image",
    )
