"""Choices of how an image file is read: page, channels and intensity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.errors import ConfigError, ContractError

__all__ = ["INTENSITY", "IntensityPolicy", "Intensity", "ReadOptions"]

IntensityPolicy = Literal["percentile", "range"]

INTENSITY: Final = "intensity"
"""Key of a manifest's configuration that holds the policy, as `Intensity.record` returns it."""

MAX_CHANNELS: Final = 3
"""Red, green and blue."""


@dataclass(frozen=True)
class Intensity:
    """Policy that maps pixels of more than 8 bits, and floats, to grey levels 0 to 255.

    Attributes:
        policy: `percentile` scales linearly from the low to the high percentile of the image's
            values, all channels together; `range` from the value low to the value high.
        low: percentile or value that becomes 0.
        high: percentile or value that becomes 255.

    Raises:
        ConfigError: an unknown policy, or bounds that are no percentiles, not finite or not
            ascending.
    """

    policy: IntensityPolicy = "percentile"
    low: float = 0.1
    high: float = 99.9

    def __post_init__(self) -> None:
        """Refuse bounds that scale nothing."""
        if self.policy not in get_args(IntensityPolicy):
            raise ConfigError.of(
                "intensity.policy",
                got=repr(self.policy),
                expected=" or ".join(get_args(IntensityPolicy)),
                fix="correct it",
            )
        percent = self.policy == "percentile"
        if (
            not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high)
            or percent
            and not (0 <= self.low and self.high <= 100)
        ):
            raise ConfigError.of(
                "intensity",
                got=f"low {self.low:g} and high {self.high:g}",
                expected="low < high" + (", percentiles from 0 to 100" if percent else ""),
                fix="correct the bounds",
            )

    @classmethod
    def of_manifest(cls, config: Mapping[str, Any]) -> Intensity:
        """Return the policy that an artifact's configuration declares; the default if none.

        Raises:
            ConfigError: a value is out of range.
        """
        record = config.get(INTENSITY)
        return cls() if record is None else cls(record["policy"], record["low"], record["high"])

    @classmethod
    def of_artifact(cls, path: Path | None) -> Intensity:
        """Return the policy that an artifact at `path` declares; the default for other files.

        Raises:
            ArtifactError: a folder that is no artifact.
            ConfigError: a value is out of range.
        """
        if path is None or not path.is_dir():
            return cls()
        return cls.of_manifest(read_manifest(path, verify=False).config)

    @classmethod
    def parse(cls, text: str) -> Intensity:
        """Parse `POLICY:LOW:HIGH`, the form of `str`.

        Raises:
            ConfigError: another form, or values out of range.
        """
        policy, *bounds = text.split(":")
        try:
            low, high = map(float, bounds)
        except ValueError as error:
            raise ConfigError.of(
                INTENSITY,
                got=repr(text),
                expected="POLICY:LOW:HIGH, such as percentile:0.1:99.9 or range:0:4095",
                fix="correct it",
            ) from error
        return cls(policy, low, high)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Return `POLICY:LOW:HIGH`."""
        return f"{self.policy}:{self.low!r}:{self.high!r}"

    def record(self) -> dict[str, Any]:
        """Return the policy as plain data for a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class ReadOptions:
    """Choice of page, channels and intensity; the default leaves each to the file and the model.

    Attributes:
        page: index of the page, from 0: a directory of a TIFF file, a plane of a stack (T and Z of
            OME and ImageJ), a frame of an animation; None takes the first.
        channels: indices, from 0, of one to three channels: one is grey, two are red and green,
            three are red, green and blue; empty takes the colours of the page.
        intensity: policy for more than 8 bits; None takes the model's, or the default.

    Raises:
        ContractError: a negative index, or more than three channels.
    """

    page: int | None = None
    channels: tuple[int, ...] = ()
    intensity: Intensity | None = None

    def __post_init__(self) -> None:
        """Refuse indices that no file has."""
        if self.page is not None and self.page < 0:
            raise ContractError.of(
                "page", got=self.page, expected="an index from 0", fix="correct it"
            )
        if len(self.channels) > MAX_CHANNELS or any(index < 0 for index in self.channels):
            raise ContractError.of(
                "channels",
                got=list(self.channels),
                expected=f"at most {MAX_CHANNELS} indices from 0",
                fix="choose the channels to show as red, green and blue",
            )

    def or_intensity(self, intensity: Intensity | None) -> ReadOptions:
        """Return the options with this intensity where they have none."""
        return self if self.intensity is not None else replace(self, intensity=intensity)
