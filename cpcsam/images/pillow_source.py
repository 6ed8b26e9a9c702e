"""JPEG, PNG, BMP, WebP and GIF files, decoded by Pillow."""

from __future__ import annotations

import io
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.GifImagePlugin import GifImageFile

from cpcsam.images.metadata import split_metadata
from cpcsam.images.source import Opacity, PageInfo, Pixels, refusal

__all__ = ["PillowSource", "values_of"]

GREY_MODES: Final = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
COLOUR_MODES: Final = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
GREY: Final = (0,)
RGB: Final = (0, 1, 2)

DEEP_COLOURS: Final = {
    2: ("RGB", "RGB;16B", "RGB;16L"),
    4: ("RGBA", "RGBA", None),
    6: ("RGBA", "RGBA;16B", "RGBA;16L"),
}
"""Pillow's raw modes for PNG's colour types of 16 bits a channel: they yield the high byte of each
value, and, read as the other byte order, the low one. Grey with alpha is four bytes a pixel."""

DEEP_OPACITY: Final = {4: 2, 6: 3}
"""Place of opacity's high byte in what the first mode of `DEEP_COLOURS` yields."""


class ColourGif(GifImageFile):
    """A GIF file that keeps its palette where that is a ramp of greys.

    Pillow drops such a palette, and then takes the indices of the frames that follow for greys.
    """

    def _is_palette_needed(self, p: bytes) -> bool:
        return True


COLOUR_GIF: Final = "CPCSAM-GIF"
Image.register_open(COLOUR_GIF, ColourGif)


class PillowSource:
    """A file that Pillow decodes.

    Args:
        data: the whole file.
        kind: its format, in Pillow's spelling.

    Raises:
        Exception: of any type that Pillow raises for a damaged header.
    """

    def __init__(self, data: bytes, kind: str) -> None:
        self._data, self._orientation = split_metadata(data, kind)
        self._image = self._open(kind)
        # Further images of a JPEG are previews and gain maps.
        self.pages = 1 if kind == "JPEG" else int(getattr(self._image, "n_frames", 1))
        if kind == "GIF" and self.pages > 1:
            self._image = self._open(COLOUR_GIF)
        self._deep = _deep_colours(self._data) if kind == "PNG" else None

    def page_info(self, page: int) -> PageInfo:
        """Describe a page; all have the same size."""
        grey = self._deep == 4 if self._deep else self._image.mode in GREY_MODES
        colours = GREY if grey else RGB
        width, height = self._image.size
        return PageInfo((height, width), self._orientation, len(colours), colours)

    def read(self, page: int, channels: tuple[int, ...]) -> Pixels:
        """Decode channels of a page.

        Raises:
            ContractError: a kind of pixel that has no colours.
            Exception: of any type that Pillow raises for a damaged file.
        """
        values = self._deep_values(page) if self._deep else values_of(self._frame(page))
        return Pixels(
            values
            if len(channels) == values.shape[2] == 3 and channels == RGB
            else values[:, :, list(channels)]
        )

    def picture(self, page: int, channels: tuple[int, ...]) -> Image.Image | None:
        """Decode a page that Pillow holds as RGB; None of any other.

        Raises:
            Exception: of any type that Pillow raises for a damaged file.
        """
        frame = self._frame(page)
        if self._deep or frame.mode != "RGB" or channels != RGB:
            return None
        frame.load()
        return frame

    def read_indices(self, page: int) -> Pixels:
        """Decode a page whose values are labels."""
        frame = self._frame(page)
        if self._deep:
            return Pixels(self._deep_values(page))
        values = np.asarray(frame)
        if frame.mode in ("LA", "PA"):
            values = values[:, :, :1]
        elif frame.mode == "RGBA":
            values = values[:, :, :3]
        return Pixels(values if values.ndim == 3 else values[:, :, None])

    def read_opacity(self, page: int) -> Opacity | None:
        """Decode a page's opacity; None if it has none."""
        if self._deep:
            alpha = DEEP_OPACITY.get(self._deep)
            high_mode = DEEP_COLOURS[self._deep][1]
            return None if alpha is None else Opacity(self._raw(high_mode)[:, :, alpha])
        frame = self._frame(page)
        if frame.mode in ("LA", "PA", "RGBA"):
            return Opacity(np.asarray(frame.getchannel("A")))
        if "transparency" in frame.info and frame.mode in ("1", "L", "P", "RGB"):
            return Opacity(np.asarray(frame.convert("RGBA").getchannel("A")), is_keyed=True)
        return None

    def _open(self, kind: str) -> Image.Image:
        return Image.open(io.BytesIO(self._data), formats=(kind,))

    def _frame(self, page: int) -> Image.Image:
        if page != self._image.tell():
            self._image.seek(page)
        return self._image

    def _deep_values(self, page: int) -> NDArray[np.uint16]:
        if page:
            raise refusal(
                "an animation of 16 bits a channel", "its first frame", "convert the frame"
            )
        assert self._deep is not None
        _, high_mode, low_mode = DEEP_COLOURS[self._deep]
        high = self._raw(high_mode)
        if low_mode is None:
            low = high[:, :, 1:2]
            high = high[:, :, :1]
        else:
            high, low = high[:, :, :3], self._raw(low_mode)[:, :, :3]
        return (high.astype(np.uint16) << np.uint16(8)) | low

    def _raw(self, raw_mode: str) -> NDArray[np.uint8]:
        image = self._open("PNG")
        assert isinstance(image, ImageFile.ImageFile)
        with image:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
            return np.asarray(image)


def values_of(image: Image.Image) -> NDArray[Any]:
    """Decode an image of any mode to grey or RGB, (H, W, 1) or (H, W, 3), without transparency.

    Raises:
        ContractError: a mode that has no colours.
    """
    mode = image.mode
    if mode in ("1", "LA"):
        image = image.convert("L")
    elif mode in COLOUR_MODES and mode != "RGB":
        image.load()
        # Pillow warns of a palette's transparency, which is dropped.
        transparency = image.info.pop("transparency", None)
        rgb = image.convert("RGB")
        if transparency is not None:
            image.info["transparency"] = transparency
        image = rgb
    elif mode not in GREY_MODES and mode != "RGB":
        raise refusal(f"pixels of mode {mode}", "grey or colour", "convert it to RGB")
    values = np.array(image)
    return values if values.ndim == 3 else values[:, :, None]


def _deep_colours(data: bytes) -> int | None:
    """Return the colour type of a PNG with several channels of 16 bits, None of another."""
    depth, colours = struct.unpack_from("BB", data, 24)
    return colours if depth == 16 and colours in DEEP_COLOURS else None
