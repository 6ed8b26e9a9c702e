"""Images and masks that belong together by their names; what has no counterpart is named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from training.data.datasets.account import Unit
from training.data.datasets.items import Findings

__all__ = ["by_stem", "twice", "without_image", "without_mask"]


def by_stem(paths: Iterable[Path], unit: Unit, findings: Findings) -> dict[str, Path]:
    """Index files by stem; of those that differ in the suffix alone the first is kept."""
    kept: dict[str, Path] = {}
    for path in sorted(paths):
        if kept.setdefault(path.stem, path) != path:
            twice(path, kept[path.stem], unit, findings)
    return kept


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


def without_image(image: Path, findings: Findings) -> None:
    """Record an image of which there is a mask alone."""
    findings.lose(
        image, got="no such file", expected="an image", fix="restore it or move its masks away",
        unit="images", reason="without a file",
    )  # fmt: skip
