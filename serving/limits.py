"""What the gateway accepts at most."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from cpcsam.contract import MAX_PIXELS, POINT_BUCKETS
from cpcsam.errors import ConfigError

__all__ = ["MAX_POINT_SLOTS", "MAX_REQUEST_ID_LENGTH", "PROMPT_BYTES", "Limits"]

MAX_POINT_SLOTS: Final = POINT_BUCKETS[-1]
"""Points of one prompt; a box takes the room of two."""
MAX_REQUEST_ID_LENGTH: Final = 128
PROMPT_BYTES: Final = 8 * 1024 * 1024
"""Room of a gRPC message beyond its image: enough for 10,000 full prompts, so that too many prompts
are refused by name rather than by gRPC."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of how many are worked on at once.

    Attributes:
        max_image_bytes: size of the encoded image.
        max_pixels: height times width of the image, read from its header.
        max_prompts: prompts of a request.
        max_in_flight: requests in work; one more is refused, never queued.
        cache_bytes: of the embeddings that are kept; 0 keeps none.

    Raises:
        ConfigError: a bound below 1 (cache_bytes: below 0), or more pixels than the contract
            allows.
    """

    max_image_bytes: int = 32 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    max_prompts: int = 256
    max_in_flight: int = 64
    cache_bytes: int = 512 * 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse bounds that would refuse everything."""
        for field in fields(self):
            value, least = getattr(self, field.name), int(field.name != "cache_bytes")
            if value < least:
                raise ConfigError.of(
                    field.name, got=value, expected=f"at least {least}", fix="raise the limit"
                )
        if self.max_pixels > MAX_PIXELS:
            raise ConfigError.of(
                "max_pixels",
                got=self.max_pixels,
                expected=f"at most {MAX_PIXELS}, the model repository's own bound",
                fix="lower the limit",
            )

    @property
    def max_message_bytes(self) -> int:
        """Size of a whole gRPC request."""
        return self.max_image_bytes + PROMPT_BYTES
