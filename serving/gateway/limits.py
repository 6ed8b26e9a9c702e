"""Limits of the gateway: sizes of a request, concurrency and memory."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from cpcsam.contract import ENCODER_MAX_BATCH, MAX_PIXELS, POINT_BUCKETS
from cpcsam.errors import ConfigError

__all__ = [
    "GROUPS",
    "MAX_POINT_SLOTS",
    "MAX_REQUEST_ID_LENGTH",
    "MAX_SIDE",
    "PROMPT_BYTES",
    "Limits",
]

GROUPS: Final = 4
"""Parts in which permits are granted while more requests wait than permits are free."""
MAX_POINT_SLOTS: Final = POINT_BUCKETS[-1]
"""Point slots of a prompt; a box takes two."""
MAX_REQUEST_ID_LENGTH: Final = 128
MAX_SIDE: Final = 65_535
"""Longest side of an image, as of JPEG: upsampling takes memory by the side, not by the pixel."""
PROMPT_BYTES: Final = 8 * 1024 * 1024
"""Bytes of a gRPC message beyond its image: enough for 10,000 full prompts, so that a request with
too many is refused with a message of the gateway rather than by gRPC."""
MINIMUMS: Final = {"cache_bytes": 0, "max_queue_s": 0.001}
"""Minimums other than 1."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds of a request and of the gateway's concurrency, queue and cache.

    Attributes:
        max_image_bytes: size of the encoded image.
        max_pixels: height times width of the image, read from its header.
        max_prompts: prompts of a request.
        max_in_flight: requests in flight, including those that wait for their turn; further ones
            are refused.
        max_concurrent: concurrent calls to Triton, fewer if it is slow; further ones wait for their
            turn.
        max_queue_s: seconds that a request may wait for its first turn.
        max_tiles: tiles of one image.
        max_clicks: point prompts of one request for everything.
        stream_window: requests of a stream that are read ahead of its responses.
        cache_bytes: size of the embedding cache; 0 disables it.

    Raises:
        ConfigError: a bound below its minimum, or more pixels than the contract allows.
    """

    max_image_bytes: int = 32 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    max_prompts: int = 256
    max_in_flight: int = 64
    max_concurrent: int = GROUPS * ENCODER_MAX_BATCH
    max_queue_s: float = 5.0
    max_tiles: int = 1024
    max_clicks: int = 4096
    stream_window: int = ENCODER_MAX_BATCH
    cache_bytes: int = 512 * 1024 * 1024

    def __post_init__(self) -> None:
        """Validate the bounds."""
        for field in fields(self):
            value, minimum = getattr(self, field.name), MINIMUMS.get(field.name, 1)
            if not value >= minimum:
                raise ConfigError.of(
                    field.name, got=value, expected=f"at least {minimum}", fix="raise the limit"
                )
        if self.max_pixels > MAX_PIXELS:
            raise ConfigError.of(
                "max_pixels",
                got=self.max_pixels,
                expected=f"at most {MAX_PIXELS}, the model repository's own bound",
                fix="lower the limit",
            )

    @property
    def max_calls(self) -> int:
        """Open calls of the API, of all callers together; more are refused before they are read."""
        return 4 * self.max_in_flight + 64

    @property
    def max_calls_each(self) -> int:
        """Open calls of a caller; it meets the bound of requests in flight first."""
        return 2 * self.max_in_flight

    @property
    def max_held_bytes(self) -> int:
        """Bytes of the requests in flight that are larger than a MiB; further ones are refused."""
        return 8 * self.max_message_bytes

    @property
    def max_message_bytes(self) -> int:
        """Maximum size of a gRPC request message."""
        return self.max_image_bytes + PROMPT_BYTES
