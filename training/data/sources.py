"""Data sources of a configuration: a dataset, a BBBC038 folder, or an annotated image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from cpcsam.checks import require_range
from cpcsam.errors import ConfigError, DataError
from cpcsam.images.options import Intensity, ReadOptions
from cpcsam.scale import Scale
from training.data.augment import padded
from training.data.datasets.account import Account, listed
from training.data.datasets.folders import read_text
from training.data.datasets.instance_folders import read_bbbc038
from training.data.datasets.items import LazySamples
from training.data.datasets.protocol import Classes, Part, open_dataset
from training.data.sample import Sample, entity_labels, read_pair, windows

__all__ = [
    "DataConfig",
    "SourceConfig",
    "account_line",
    "cut_region",
    "read_source",
    "validation_windows",
]

Region = tuple[int, int, int, int]

FORMS = {"dataset": {"root"}, "bbbc038": {"ids", "region"}, "image": {"instances", "region"}}
"""The key that names a form of source, and the keys that go with it alone."""


@dataclass(frozen=True)
class SourceConfig:
    """Annotated images: `dataset` with `root`, `bbbc038`, or `image` with `instances`.

    Attributes:
        dataset: a name of docs/guides/datasets.md.
        root: the folder that it was unpacked in.
        part: of the dataset: train, validation or test; null is train, and for validation if
            it takes train's dataset, validation.
        classes: entities of the dataset to take; the others are background. null is base, and for
            validation if it takes train's dataset, train's.
        shots: number of images of the training part to draw, by `seed`; null takes all.
        seed: of the shots.
        crowds: take the dataset's crowds as entities: annotations in COCO JSON with `iscrowd`.
        bbbc038: folder of BBBC038v1's layout, the one that holds `stage1_train`.
        ids: file with one id a line, relative to that folder; null takes every id.
        image: one image file.
        instances: its label image, 0 background and 1..n the entities.
        region: the part (x0, y0, x1, y1) to take, pixels, the far corner exclusive; null takes
            all.
        page: index, from 0, of the page of every image file; null refuses files of several.
        channels: indices, from 0, of the channels to show as grey, or as red, green and blue; none
            refuses files of others than grey or colour.
    """

    bbbc038: Path | None = None
    ids: Path | None = None
    image: Path | None = None
    instances: Path | None = None
    region: Region | None = None
    dataset: str | None = None
    root: Path | None = None
    part: Part | None = None
    classes: Classes | None = None
    shots: int | None = None
    seed: int = 0
    page: int | None = None
    channels: tuple[int, ...] = ()
    crowds: bool = False

    def overlaps(self, other: SourceConfig) -> bool:
        """Return whether both take the same part, or overlapping regions of the same image.

        Raises:
            DataError: a list of ids is no text.
        """
        if any(getattr(self, name) != getattr(other, name) for name in (*FORMS, "root")):
            return False
        if self.dataset is not None:
            return (self.part or "train") == (other.part or "train")
        if self.image is None and (self.bbbc038 is None or not self._shares_ids(other)):
            return False
        if self.region is None or other.region is None:
            return True
        # Far corners are exclusive, so regions that merely touch do not overlap.
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = self.region, other.region
        return max(ax0, bx0) < min(ax1, bx1) and max(ay0, by0) < min(ay1, by1)

    def _shares_ids(self, other: SourceConfig) -> bool:
        if self.ids is None or other.ids is None or self.ids == other.ids:
            return True
        assert self.bbbc038 is not None
        lists = [self.bbbc038 / self.ids, self.bbbc038 / other.ids]
        # What is missing is reported, by its key, when the images are read.
        if not all(path.is_file() for path in lists):
            return False
        mine, others = ({i for line in read_text(path) for i in line.split()} for path in lists)
        return not mine.isdisjoint(others)

    def or_else(self, other: SourceConfig) -> SourceConfig:
        """Take the files of another source if this one names none.

        Its part, classes, page, channels and crowds count where this one leaves them open.
        """
        if self.bbbc038 or self.image or self.instances or self.dataset or self.root:
            return self
        files = {name: getattr(other, name) for name in (*FORMS, "instances", "root")}
        return replace(
            self,
            **files,
            part=self.part or ("validation" if other.dataset else None),
            classes=self.classes or other.classes,
            page=other.page if self.page is None else self.page,
            channels=self.channels or other.channels,
            crowds=self.crowds or other.crowds,
        )


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data.

    Attributes:
        train: the images that both half-batches are drawn from.
        validation: the images scored during training; train's if it names no files.
        max_windows: score at most this many windows, evenly spread; null scores all. They are
            held in memory.
        min_area: entities of fewer pixels, in the image's own resolution, are not scored.
    """

    train: SourceConfig = field(default_factory=SourceConfig)
    validation: SourceConfig = field(default_factory=SourceConfig)
    max_windows: int | None = None
    min_area: int = 30

    def __post_init__(self) -> None:
        """Refuse validation on no windows or on the training data, and impossible numbers."""
        if self.max_windows is not None:
            require_range("data.max_windows", self.max_windows, 1)
        require_range("data.min_area", self.min_area, 1)
        for name, source in (("train", self.train), ("validation", self.validation)):
            require_range(f"data.{name}.seed", source.seed, 0)
        validation = self.validation.or_else(self.train)
        if self.train.overlaps(validation):
            raise ConfigError.of(
                "data.validation",
                got="images that are trained on",
                expected="another part, other ids, another file or a region apart",
                fix="set data.validation.part or region, or ids of both that share none",
            )


def read_source(
    source: SourceConfig, name: str, intensity: Intensity | None = None
) -> Sequence[Sample]:
    """Read the images of a source; those of a dataset are read on access.

    Args:
        source: what to read.
        name: the configuration key, for messages.
        intensity: policy for images of more than 8 bits; None takes the default.

    Raises:
        ConfigError: no form of source is given, or keys of several, or too many shots.
        DataError: a file is missing or unreadable, or the region lies outside its image.
    """
    _require_one_form(source, name)
    options = ReadOptions(source.page, source.channels, intensity)
    if source.dataset is not None and source.root is not None:
        dataset = open_dataset(source.dataset, source.root, source.crowds)
        classes = source.classes or "base"
        if source.shots is not None:
            return dataset.shots(source.shots, source.seed, classes, options)
        return dataset.samples(source.part or "train", classes).with_options(options)
    if source.bbbc038 is not None:
        ids = None if source.ids is None else source.bbbc038 / source.ids
        samples = read_bbbc038(source.bbbc038, ids, options)
    else:
        assert source.image is not None and source.instances is not None
        samples = [read_pair(source.image, source.instances, options)]
    if source.region is None:
        return samples
    return [cut_region(sample, source.region) for sample in samples]


def _require_one_form(source: SourceConfig, name: str) -> None:
    keys = [*FORMS, *dict.fromkeys(key for others in FORMS.values() for key in sorted(others))]
    given = [key for key in keys if getattr(source, key) is not None]
    forms = [key for key in given if key in FORMS]
    missing = (source.dataset is None) != (source.root is None) or (
        (source.image is None) != (source.instances is None)
    )
    if len(forms) != 1 or missing or not set(given) <= {forms[0], *FORMS[forms[0]]}:
        raise ConfigError.of(
            name,
            got=" and ".join(given) or "no files",
            expected="dataset and root, or bbbc038, or image and instances",
            fix="give the keys of one of these and set the others to null",
        )
    if source.shots is not None and (source.dataset is None or source.part not in (None, "train")):
        raise ConfigError.of(
            f"{name}.shots",
            got=f"{source.shots} of {source.part or forms[0]}",
            expected="shots of a dataset's training part",
            fix="set shots to null",
        )


def account_line(samples: Sequence[Sample], name: str) -> str:
    """Describe in one line what was read of a source, what was left out, and what is used of it.

    Args:
        samples: as `read_source` returns them.
        name: the configuration key, which begins the line.
    """
    account = samples.account if isinstance(samples, LazySamples) else None
    if account is None:
        account = Account()
        account.take("images", len(samples))
        account.take("entities", sum(len(entity_labels(s.instances, 1)) for s in samples))
        return f"{name}: {account.line()}"
    line = f"{name}: {account.line()}; used: images {len(samples)}"
    return f"{line}; as background: {listed(account.background)}" if account.background else line


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
    return replace(
        sample,
        name=f"{sample.name}[{x0},{y0},{x1},{y1}]",
        image=sample.image[y0:y1, x0:x1],
        instances=sample.instances[y0:y1, x0:x1],
    )


def validation_windows(
    samples: Sequence[Sample], scale: Scale, max_windows: int | None = None
) -> list[Sample]:
    """Cut samples into squares that hold an entity, at most `max_windows`, evenly spread.

    Samples take turns at the scale's window, the smallest and the largest of its spread.

    Of samples that are read on access, no more that hold an entity are read than windows are
    wanted, evenly spread too as far as these hold one, and only the windows are kept.

    Args:
        samples: what to cut.
        scale: of the squares; along an axis of a sample that is shorter, they are padded.
        max_windows: None takes all.

    Raises:
        DataError: a sample cannot be read.
    """
    if max_windows is None or not isinstance(samples, LazySamples):
        every = [cut for turn, sample in enumerate(samples) for cut in _cuts(sample, scale, turn)]
        return _spread(every, max_windows)
    chosen = [index * len(samples) // max_windows for index in range(max_windows)]
    # The others follow in place of those without an entity.
    order = dict.fromkeys([*chosen, *range(len(samples))]) if len(samples) else []
    indices = sorted(islice(filter(samples.holds_entity, order), max_windows))
    share = -(-max_windows // max(len(indices), 1))
    kept = [
        # Copied, since a view would keep its whole image in memory.
        replace(cut, image=cut.image.copy(), instances=cut.instances.copy())
        for turn, index in enumerate(indices)
        for cut in _spread(_cuts(samples[index], scale, turn), share)
    ]
    return _spread(kept, max_windows)


def _spread(cuts: list[Sample], count: int | None) -> list[Sample]:
    if count is None or len(cuts) <= count:
        return cuts
    return [cuts[index * len(cuts) // count] for index in range(count)]


def _cuts(sample: Sample, scale: Scale, turn: int) -> list[Sample]:
    height, width = sample.instances.shape
    factor = (1.0, 1 / scale.spread, scale.spread)[turn % 3]
    side = round(scale.side((height, width)) * factor)
    return [cut for cut in windows(padded(sample, side), side) if cut.instances.any()]
