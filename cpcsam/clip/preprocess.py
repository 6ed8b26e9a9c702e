"""Preprocessing of crops for CLIP's image tower, and further facts of a CLIP, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ConfigError
from cpcsam.geometry import Box

__all__ = ["ClipInfo", "Preprocess"]

RESIZE_MODES: Final = ("shortest", "squash")
INTERPOLATIONS: Final = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Preprocess:
    """Resizing and normalisation that a CLIP was trained with; equals open_clip's evaluation.

    Attributes:
        image_size: side S of the image tower's input, in pixels.
        mean: of each channel, in [0, 1].
        std: standard deviation of each channel.
        interpolation: `bicubic` or `bilinear`, with Pillow's antialiasing.
        resize_mode: `shortest` (resize the shorter side to S, crop the centre) or `squash`
            (resize both sides to S).
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __post_init__(self) -> None:
        """Raise ConfigError for what is not known here."""
        for name, known in (("interpolation", INTERPOLATIONS), ("resize_mode", RESIZE_MODES)):
            if getattr(self, name) not in known:
                raise ConfigError.of(
                    name,
                    got=getattr(self, name),
                    expected=" or ".join(known),
                    fix="give another CLIP",
                )

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Resize and normalise images.

        Args:
            images: (H, W, 3) uint8, RGB, of any sizes.

        Returns:
            (n, 3, S, S) float32.
        """
        pixels = self.resize(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
        mean, std = (np.asarray(each, np.float32)[:, None, None] for each in (self.mean, self.std))
        return np.asarray((pixels - mean) / std, np.float32)

    def resize(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Resize images, (H, W, 3) uint8 each, to (n, S, S, 3) uint8: what the graphs take."""
        side = self.image_size
        batch = np.zeros((len(images), side, side, 3), np.uint8)
        for row, image in zip(batch, images, strict=True):
            row[:] = self._resized(image)
        return batch

    def crop(self, image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        """Cut and resize the square around a box's middle, of its longer side, background included.

        Args:
            image: (H, W, 3) uint8, RGB.
            box: of a mask, within the image.

        Returns:
            (S, S, 3) uint8; what lies beyond the image has the mean colour.
        """
        side, frame = max(box.size), Box(0, 0, *image.shape[:2])
        top, left = box.top - (side - box.size[0]) // 2, box.left - (side - box.size[1]) // 2
        shared = Box(top, left, top + side, left + side).intersection(frame) or box
        # The square itself may be far larger than the image, so only what both share is resized.
        inner = shared.translate(-top, -left)
        y0, x0, y1, x1 = (
            round(edge * self.image_size / side)
            for edge in (inner.top, inner.left, inner.bottom, inner.right)
        )
        y0, x0 = min(y0, self.image_size - 1), min(x0, self.image_size - 1)
        y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)
        mean = np.round(np.asarray(self.mean) * 255).astype(np.uint8)
        square = np.broadcast_to(mean, (self.image_size, self.image_size, 3)).copy()
        square[y0:y1, x0:x1] = self._scaled(shared.crop(image), (x1 - x0, y1 - y0))
        return square

    def _scaled(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Resize (h, w, 3) to (W, H)."""
        from PIL import Image  # the client's packages, such as Pillow, are optional

        method = Image.Resampling[self.interpolation.upper()]
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, method))

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image to the tower's square, (S, S, 3)."""
        side, (height, width) = self.image_size, image.shape[:2]
        if self.resize_mode == "squash":
            return self._scaled(image, (side, side))
        shortest = min(width, height)
        width, height = int(side * width / shortest), int(side * height / shortest)
        left, top = round((width - side) / 2), round((height - side) / 2)
        return self._scaled(image, (width, height))[top : top + side, left : left + side]


@dataclass(frozen=True)
class ClipInfo:
    """Facts of a CLIP that its users need.

    Attributes:
        name: of its configuration.
        digest: `ClipTowers.digest`, by which classes name the towers of their embeddings.
        embed_dim: length d of embeddings.
        logit_scale: factor of cosine similarities before the softmax.
        context_length: tokens of a text.
        preprocess: of crops.
    """

    name: str
    digest: str
    embed_dim: int
    logit_scale: float
    context_length: int
    preprocess: Preprocess

    def to_json(self) -> str:
        """Return the facts as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of_json(cls, text: str) -> ClipInfo:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: it is something else.
        """
        try:
            facts = json.loads(text)
            crops = facts.pop("preprocess")
            mean, std = (tuple(crops.pop(key)) for key in ("mean", "std"))
            return cls(**facts, preprocess=Preprocess(mean=mean, std=std, **crops))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError.of(
                "CLIP",
                got=f"unreadable facts ({error})",
                expected="those of exported towers",
                fix="export the towers, and publish the repository, again",
            ) from error
