"""Data sources named by a configuration: a BBBC038 folder, or one annotated image or part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cpcsam.errors import ConfigError, DataError
from training.data import Sample, read_bbbc038, read_pair, windows

__all__ = ["DataConfig", "SourceConfig", "cut_region", "read_source", "validation_windows"]

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class SourceConfig:
    """Annotated images: either `bbbc038` or `image` with `instances`.

    Attributes:
        bbbc038: folder of BBBC038v1's layout, the one that holds `stage1_train`.
        ids: file with one id a line, relative to that folder; null takes every id.
        image: one image file.
        instances: its label image, 0 background and 1..n the entities.
        region: the part (x0, y0, x1, y1) to take, pixels, the far corner exclusive; null takes
            all.
    """

    bbbc038: Path | None = None
    ids: Path | None = None
    image: Path | None = None
    instances: Path | None = None
    region: Region | None = None

    def overlaps(self, other: SourceConfig) -> bool:
        """Tell whether both take the same list of ids, or parts of one image that overlap."""
        if (self.bbbc038, self.image) != (other.bbbc038, other.image):
            return False
        if self.image is None:
            return self.bbbc038 is not None and self.ids == other.ids
        if self.region is None or other.region is None:
            return True
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = self.region, other.region
        return max(ax0, bx0) < min(ax1, bx1) and max(ay0, by0) < min(ay1, by1)

    def or_else(self, other: SourceConfig) -> SourceConfig:
        """Take the files from another source where this one names none."""
        if self.bbbc038 or self.image or self.instances:
            return self
        files = {"bbbc038": other.bbbc038, "image": other.image, "instances": other.instances}
        return replace(self, **files)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data.

    Attributes:
        train: the images that both half-batches are drawn from.
        validation: the images scored during training; where it names no files, train's.
        window: side in pixels of the squares that validation images are cut into.
        max_windows: score at most this many windows, evenly spread; null scores all.
        min_area: entities of fewer pixels, in the image's own resolution, are not scored.
    """

    train: SourceConfig = field(default_factory=SourceConfig)
    validation: SourceConfig = field(default_factory=SourceConfig)
    window: int = 128
    max_windows: int | None = None
    min_area: int = 30

    def __post_init__(self) -> None:
        """Refuse windows without an extent, and validation on what is trained on."""
        for name in ("window", "max_windows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError.of(
                    f"data.{name}", got=value, expected="at least 1", fix="correct the value"
                )
        validation = self.validation.or_else(self.train)
        if self.train.overlaps(validation):
            raise ConfigError.of(
                "data.validation",
                got="images that are trained on",
                expected="other ids, another file or a region apart",
                fix="set data.validation.ids or data.validation.region",
            )


def read_source(source: SourceConfig, name: str) -> list[Sample]:
    """Read the images of a source.

    Args:
        source: what to read.
        name: the configuration key, for messages.

    Raises:
        ConfigError: neither or both of the two forms are given.
        DataError: a file is missing or unreadable, or the region lies outside its image.
    """
    pair = source.image is not None or source.instances is not None
    if pair == (source.bbbc038 is not None) or (source.image is None) != (source.instances is None):
        given = [key for key in ("bbbc038", "image", "instances") if getattr(source, key)]
        raise ConfigError.of(
            name,
            got=" and ".join(given) or "no files",
            expected="bbbc038, or image and instances",
            fix="give the one or the other",
        )
    if source.bbbc038 is not None:
        ids = None if source.ids is None else source.bbbc038 / source.ids
        samples = read_bbbc038(source.bbbc038, ids)
    else:
        assert source.image is not None and source.instances is not None
        samples = [read_pair(source.image, source.instances)]
    if source.region is None:
        return samples
    return [cut_region(sample, source.region) for sample in samples]


def cut_region(sample: Sample, region: Region) -> Sample:
    """Cut a part (x0, y0, x1, y1) out of a sample; entities keep their labels.

    Raises:
        DataError: the region is empty or lies outside the image.
    """
    height, width = sample.instances.shape
    x0, y0, x1, y1 = region
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise DataError.of(
            f"region of {sample.name}",
            got=list(region),
            expected=f"x0 < x1 within 0..{width} and y0 < y1 within 0..{height}",
            fix="correct the region",
        )
    return Sample(
        f"{sample.name}[{x0},{y0},{x1},{y1}]",
        sample.image[y0:y1, x0:x1],
        sample.instances[y0:y1, x0:x1],
    )


def validation_windows(
    samples: Sequence[Sample], window: int, max_windows: int | None = None
) -> list[Sample]:
    """Cut samples into squares that hold an entity, at most `max_windows`, evenly spread.

    Raises:
        DataError: a sample is smaller than a square.
    """
    for sample in samples:
        if min(sample.instances.shape) < window:
            raise DataError.of(
                f"sample {sample.name}",
                got=f"size {sample.instances.shape}",
                expected=f"at least {window} pixels a side",
                fix="make the window smaller or the region larger",
            )
    cuts = [cut for sample in samples for cut in windows(sample, window) if cut.instances.any()]
    if max_windows is None or len(cuts) <= max_windows:
        return cuts
    return [cuts[index * len(cuts) // max_windows] for index in range(max_windows)]
