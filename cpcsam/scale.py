"""The scale of a model: how much of an image it is shown at once, from training to serving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cpcsam.checks import require_range

__all__ = ["SCALE", "Scale"]

SCALE: Final = "scale"
"""Key of a manifest's configuration that holds the scale, as `Scale.record` returns it."""

TOLERANCE: Final = 1.25
"""Factor beyond the spread up to which sides are still taken to fit."""


@dataclass(frozen=True)
class Scale:
    """Part of an image that is resized to the encoder's input, in training as in serving.

    Attributes:
        window: side of the square in pixels of the image, which is also the default side of the
            tiles in serving; None, or a window that holds it, shows the whole image, its longer
            side as long as the input's.
        spread: factor of at least 1; training windows have sides from window / spread to
            window × spread, and validation covers the same.
    """

    window: int | None = None
    spread: float = 1.5

    def __post_init__(self) -> None:
        """Refuse windows without pixels and a spread below 1."""
        if self.window is not None:
            require_range("scale.window", self.window, 1)
        require_range("scale.spread", self.spread, 1)

    @classmethod
    def of_manifest(cls, config: Mapping[str, Any]) -> Scale | None:
        """Return the scale that an artifact's configuration declares, None if it declares none.

        Raises:
            ConfigError: a value is out of range.
        """
        record = config.get(SCALE)
        return None if record is None else cls(record["window"], float(record["spread"]))

    def record(self) -> dict[str, Any]:
        """Return the scale as plain data for a manifest."""
        return {"window": self.window, "spread": self.spread}

    def side(self, size: tuple[int, int]) -> int:
        """Return the side of the square that is shown of an image of size (H, W), in pixels."""
        return max(size) if self.window is None else min(self.window, max(size))

    def fits(self, side: float, size: tuple[int, int]) -> bool:
        """Return whether a square of this side of an image of size (H, W) has the model's scale."""
        return abs(math.log(side / self.side(size))) <= math.log(self.spread * TOLERANCE)
