"""Writing of a format's folder, atomically, with a summary of what the format cannot hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cpcsam.artifacts.atomic_dir import staging_folder, take_place
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ConfigError
from cpcsam.formats import MARKER, format_of
from cpcsam.formats.losses import describe_losses
from cpcsam.formats.records import ImageRecord, Losses

__all__ = ["FormatSummary", "check_target", "write_format"]

MODE = 0o755


@dataclass(frozen=True)
class FormatSummary:
    """What was written in a format, and what the format could not hold.

    Attributes:
        format: its name.
        folder: that was written.
        images: number of images.
        masks: number of masks, empty ones included.
        lost: masks or pixels that the format could not hold, by a phrase that names them.
    """

    format: str
    folder: Path
    images: int
    masks: int
    lost: dict[str, int]

    @property
    def warning(self) -> str:
        """One line that tells the losses; empty if there are none."""
        losses = describe_losses(Losses(self.lost))
        return f"{self.format} does not hold: {losses}" if losses else ""


def check_target(folder: Path) -> None:
    """Make sure that a folder can be written: it is new, empty, or was written by `write_format`.

    Raises:
        ConfigError: it holds other files, is no folder, or lies where nothing can be written.
    """
    if folder.is_dir():
        if not (folder / MARKER).is_file() and any(folder.iterdir()):
            raise ConfigError.of(
                str(folder), got="a folder with other files",
                expected="a new or empty one, or one that an earlier export wrote",
                fix="give another folder",
            )  # fmt: skip
    elif folder.exists():
        raise ConfigError.of(
            str(folder), got="a file", expected="a folder", fix="give another folder"
        )
    parent = next(each for each in folder.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        got = "no permission to write" if parent.is_dir() else f"the file {parent} above it"
        raise ConfigError.of(
            str(folder), got=got, expected="a folder that can be made", fix="give another folder"
        )


def write_format(images: Iterable[ImageRecord], name: str, folder: Path) -> FormatSummary:
    """Write images and their masks in a format; readers see the whole folder or the one before.

    Args:
        images: are consumed one by one.
        name: one of `FORMATS`.
        folder: new, empty or written by an earlier call, which it replaces.

    Raises:
        ConfigError: as `check_target`, or there is no such format.
        CpcSamError: the format cannot hold the masks at all.
    """
    form = format_of(name)
    check_target(folder)
    counted = _Counted(images)
    with staging_folder(folder) as staging:
        losses = form.write(counted, staging)
        lost = {what: count for what, count in losses.items() if count}
        summary = FormatSummary(name, folder, counted.images, counted.masks, lost)
        content = {"format": name, "images": counted.images, "masks": counted.masks, "lost": lost}
        write_atomic(staging / MARKER, (json.dumps(content, indent=2) + "\n").encode())
        # A staging folder is the owner's alone.
        staging.chmod(MODE)
        take_place(staging, folder)
    return summary


class _Counted:
    """Images that are counted while they are consumed."""

    def __init__(self, images: Iterable[ImageRecord]) -> None:
        self.source = images
        self.images = 0
        self.masks = 0

    def __iter__(self) -> Iterator[ImageRecord]:
        for image in self.source:
            self.images += 1
            self.masks += len(image.masks)
            yield image
