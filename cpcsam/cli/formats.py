"""Option `--format` of `cpcsam segment`: the masks of all images in the formats of other tools."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpcsam.formats import FORMATS

if TYPE_CHECKING:
    from cpcsam.cli.image_paths import ImagePath
    from cpcsam.formats.records import ImageRecord
    from cpcsam.images.options import ReadOptions

__all__ = ["add_format_option", "check_formats", "write_formats"]


def add_format_option(group: Any) -> None:
    """Add the option, which fills `formats`, a tuple without repeats."""
    text = f"also write DIR/FORMAT: {', '.join(FORMATS)}; several with commas; may be repeated"
    group.add_argument(
        "--format", dest="formats", action=_AddFormats, default=(), metavar="FORMAT", help=text
    )


class _AddFormats(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the names of a comma list."""
        names = str(values).split(",")
        for name in names:
            if name not in FORMATS:
                expected = ", ".join(FORMATS)
                raise argparse.ArgumentError(self, f"got {name!r}, expected one of {expected}")
        namespace.formats = tuple(dict.fromkeys((*namespace.formats, *names)))


def check_formats(names: Sequence[str], images: Sequence[ImagePath], out: Path) -> None:
    """Make sure that formats can be written, before the first request.

    Args:
        names: of the formats.
        images: of the run.
        out: parent of their folders.

    Raises:
        ConfigError: a folder holds other files, is that of an image, or cannot be made.
        ModuleNotFoundError: a format needs a package that is not installed.
    """
    if not names:
        return
    from cpcsam.errors import ConfigError
    from cpcsam.formats import format_of
    from cpcsam.formats.writing import check_target

    for name in names:
        format_of(name)
        # `coco.json` of all images stands in `out` itself.
        if name == "coco":
            continue
        taken = [image for image in images if image.name.split("/")[0] == name]
        if taken:
            raise ConfigError.of(
                str(out / name),
                got=f"the folder of {taken[0].path}",
                expected=f"one for the masks in the format {name} alone",
                fix="rename the image or its folder, or segment its parent folder",
            )
        check_target(out / name)


def write_formats(
    names: Sequence[str],
    images: Sequence[ImagePath],
    out: Path,
    options: ReadOptions | None,
    quiet: bool,
) -> None:
    """Write formats from the `masks.json` of the images, without further requests.

    Args:
        names: of the formats.
        images: whose `masks.json` exists.
        out: parent of the folders of formats and images.
        options: with which the images were read.
        quiet: print no summary and no warning.

    Raises:
        CpcSamError: a format cannot hold the masks.
    """
    for name in names:
        if name == "coco":
            continue
        from cpcsam.formats.writing import write_format

        summary = write_format(_records(images, out, options), name, out / name)
        if not quiet:
            print(f"{summary.folder}: {summary.masks} masks of {summary.images} images")
            if summary.warning:
                print(f"cpcsam segment: warning: {summary.warning}", file=sys.stderr)


def _records(
    images: Sequence[ImagePath], out: Path, options: ReadOptions | None
) -> Iterator[ImageRecord]:
    from cpcsam.formats.coco import read
    from cpcsam.formats.records import ImageRecord
    from cpcsam.images.options import INTENSITY, Intensity, ReadOptions

    for image in images:
        path = out / image.name / "masks.json"
        (listed,) = read(path)
        assert listed.size is not None, "masks.json tells it"
        info = json.loads(path.read_bytes())["info"]
        policy = info["made_of"].get(INTENSITY)
        shown = (options or ReadOptions()).or_intensity(Intensity.parse(policy) if policy else None)
        yield ImageRecord(
            image.file_name,
            image.name,
            listed.size,
            tuple(listed.decode(listed.size)),
            image.path,
            f"{info['model']} {info['version']}",
            shown,
        )
