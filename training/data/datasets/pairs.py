"""Images and masks that belong together by their names; what has no counterpart is named."""

from __future__ import annotations

from pathlib import Path

from training.data.datasets.account import Unit
from training.data.datasets.folders import images_in
from training.data.datasets.image_index import composed
from training.data.datasets.items import Findings

__all__ = ["by_stem", "stem_below", "twice", "without_image", "without_mask"]


def by_stem(
    folder: Path, unit: Unit, findings: Findings, *, below: bool = False
) -> dict[str, Path]:
    """Index the images of a folder by stem, of which those that differ in the suffix share one.

    Args:
        folder: the folder.
        unit: what a file is that is left out, as another has its stem.
        findings: takes these.
        below: index those in folders below it as well, by their path in it without the suffix.

    Raises:
        DataError: there are no images.
    """
    kept: dict[str, Path] = {}
    for path in sorted(images_in(folder, below=below)):
        stem = composed(stem_below(folder, path))
        if kept.setdefault(stem, path) != path:
            twice(path, kept[stem], unit, findings)
    return kept


def stem_below(folder: Path, path: Path) -> str:
    """Return the path of a file below a folder without its suffix, as it is on disk."""
    return path.relative_to(folder).with_suffix("").as_posix()


def twice(path: Path, kept: Path, unit: Unit, findings: Findings) -> None:
    """Record a file whose name another has, too."""
    findings.lose(
        path, got=f"the name of {kept.name}", expected="a name of its own",
        fix="rename or remove one of them", unit=unit, reason="of another's name",
    )  # fmt: skip


def without_mask(image: Path, findings: Findings) -> None:
    """Record an image without a mask."""
    findings.lose(
        image, got="no mask", expected="a mask that goes with it",
        fix="restore the mask or move the image away", unit="images", reason="without a mask",
    )  # fmt: skip


def without_image(mask: Path, findings: Findings) -> None:
    """Record an image of which there is a mask alone."""
    findings.lose(
        mask, got="no image", expected="an image that goes with it",
        fix="restore the image or move the mask away", unit="images", reason="without a file",
    )  # fmt: skip
