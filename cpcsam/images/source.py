"""Interface of an opened image file, before pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from cpcsam.errors import ContractError
from cpcsam.images.options import ReadOptions
from cpcsam.text import printable

__all__ = ["ImageSource", "Opacity", "PageInfo", "Pixels", "channels_of", "page_of", "refusal"]

MAX_QUOTED: Final = 300
"""Characters of what a file contains in a message."""


@dataclass(frozen=True)
class PageInfo:
    """What a file's header tells of one of its pages.

    Attributes:
        size: (H, W) as stored, before turning it upright.
        orientation: 1 to 8, as of EXIF.
        channels: number of channels that can be chosen.
        colours: channels that are shown without a choice: one grey, or red, green and blue.
        is_partial: whether these leave out data other than transparency.
    """

    size: tuple[int, int]
    orientation: int
    channels: int
    colours: tuple[int, ...]
    is_partial: bool = False


@dataclass(frozen=True)
class Opacity:
    """Opacity of a page's pixels, as stored.

    Attributes:
        values: (H, W), 0 is transparent.
        is_keyed: whether it follows from the value of a pixel, as with PNG's `tRNS`, and so says
            nothing beyond it.
    """

    values: NDArray[Any]
    is_keyed: bool = False


@dataclass(frozen=True)
class Pixels:
    """Decoded pixels of a page, as stored.

    Attributes:
        values: (H, W, C), the chosen channels; of any type.
        is_inverted: whether high values are dark (white is zero).
    """

    values: NDArray[Any]
    is_inverted: bool = False


class ImageSource(Protocol):
    """An opened file."""

    @property
    def pages(self) -> int:
        """Number of pages."""

    def page_info(self, page: int) -> PageInfo:
        """Describe a page without decoding it."""

    def read(self, page: int, channels: tuple[int, ...]) -> Pixels:
        """Decode channels of a page."""

    def read_indices(self, page: int) -> Pixels:
        """Decode a page as label image: indices of a palette stay what they are.

        Opacity is dropped.
        """

    def read_opacity(self, page: int) -> Opacity | None:
        """Decode a page's opacity; None if it has none."""


def refusal(got: str, expected: str, fix: str) -> ContractError:
    """Build the error of a file that is not read; `got` may quote the file."""
    shown = printable(got, MAX_QUOTED)
    return ContractError.of("image_bytes", got=shown, expected=expected, fix=fix)


def page_of(options: ReadOptions, pages: int) -> int:
    """Return the index of the chosen page.

    Raises:
        ContractError: the file has no such page.
    """
    page = options.page or 0
    if page >= pages:
        raise ContractError.of(
            "page",
            got=page,
            expected=f"0 to {pages - 1}, the pages of the file",
            fix="choose another page",
        )
    return page


def channels_of(options: ReadOptions, info: PageInfo) -> tuple[int, ...]:
    """Return the indices of the chosen channels.

    Raises:
        ContractError: the page has no such channel.
    """
    if options.channels and max(options.channels) >= info.channels:
        raise ContractError.of(
            "channels",
            got=list(options.channels),
            expected=f"0 to {info.channels - 1}, the channels of the page",
            fix="choose other channels",
        )
    return options.channels or info.colours
