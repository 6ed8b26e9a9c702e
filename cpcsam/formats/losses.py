"""Counting of what a format cannot hold, in the words of its warning."""

from __future__ import annotations

from collections.abc import Iterable

from cpcsam.formats import UNNAMED
from cpcsam.formats.records import Losses, MaskRecord

__all__ = ["count_fields", "describe_losses", "drop_empty"]

WORDS = {
    "label": "class labels",
    "score": "scores",
    "stability": "stability scores",
    "prompt": "prompts",
}


def count_fields(masks: Iterable[MaskRecord], fields: Iterable[str], losses: Losses) -> None:
    """Count the masks that have fields which the format does not hold.

    Args:
        masks: of an image.
        fields: among `label`, `score`, `stability` and `prompt`.
        losses: takes the counts.
    """
    for mask in masks:
        for field in fields:
            if getattr(mask, field) not in (None, UNNAMED):
                losses[WORDS[field]] += 1


def drop_empty(masks: Iterable[MaskRecord], losses: Losses) -> list[MaskRecord]:
    """Return the masks that have a pixel, and count the others."""
    kept = []
    for mask in masks:
        if mask.counts:
            kept.append(mask)
        else:
            losses["masks without a pixel"] += 1
    return kept


def describe_losses(losses: Losses) -> str:
    """Describe losses, such as `scores (12), class labels (3)`; empty if there are none."""
    return ", ".join(f"{what} ({count})" for what, count in losses.items() if count)
