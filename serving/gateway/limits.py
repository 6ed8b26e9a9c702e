"""What the gateway accepts at most."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from cpcsam.contract import ENCODER_MAX_BATCH, MAX_PIXELS, POINT_BUCKETS
from cpcsam.errors import ConfigError

__all__ = ["GROUPS", "MAX_POINT_SLOTS", "MAX_REQUEST_ID_LENGTH", "PROMPT_BYTES", "Limits"]

GROUPS: Final = 4
"""In how many parts the slots are given out while more requests wait than can have one."""
MAX_POINT_SLOTS: Final = POINT_BUCKETS[-1]
"""Points of one prompt; a box takes the room of two."""
MAX_REQUEST_ID_LENGTH: Final = 128
PROMPT_BYTES: Final = 8 * 1024 * 1024
"""Room of a gRPC message beyond its image: enough for 10,000 full prompts, so that too many prompts
are refused by name rather than by gRPC."""
LEAST: Final = {"cache_bytes": 0, "max_queue_s": 0.001}
"""Where the least value that makes sense is not 1."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of how many are worked on at once.

    Attributes:
        max_image_bytes: size of the encoded image.
        max_pixels: height times width of the image, read from its header.
        max_prompts: prompts of a request.
        max_in_flight: requests in work, those that wait for their turn included; one more is
            refused.
        max_concurrent: calls that Triton gets at once, fewer where it is slow; others wait for
            their turn.
        max_queue_s: how long a request may wait for its first turn.
        max_tiles: in which one image is shown.
        max_clicks: of everything in one request.
        stream_window: requests of one stream that are read ahead of its answers.
        cache_bytes: of the embeddings that are kept; 0 keeps none.

    Raises:
        ConfigError: a bound below the least that makes sense, or more pixels than the contract
            allows.
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
        """Refuse bounds that would refuse everything."""
        for field in fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 1)
            if not value >= least:
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
    def max_calls(self) -> int:
        """Calls of any kind that are open at once; gRPC refuses more before it reads them."""
        return 4 * self.max_in_flight + 64

    @property
    def max_message_bytes(self) -> int:
        """Size of a whole gRPC request."""
        return self.max_image_bytes + PROMPT_BYTES
