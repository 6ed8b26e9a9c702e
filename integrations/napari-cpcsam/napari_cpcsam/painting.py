"""Masks as numbers in a labels layer, with their classes and scores as features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cpcsam.client import Mask
from napari_cpcsam.planes import Plane, placed_like

if TYPE_CHECKING:
    import napari
    from napari.layers import Labels

__all__ = ["known_labels", "labels_for", "paint_entities", "paint_prompted"]


def labels_for(viewer: napari.Viewer, plane: Plane) -> Labels:
    """Return the labels layer of an image, made anew where there is none of its shape."""
    found = known_labels(viewer, plane)
    if found is not None:
        return found
    zeros = np.zeros(plane.shape, np.int32)
    return viewer.add_labels(zeros, name=_name(plane), **placed_like(plane.layer))


def known_labels(viewer: napari.Viewer, plane: Plane) -> Labels | None:
    """Return the labels layer of an image, None without one of its shape."""
    name = _name(plane)
    for layer in viewer.layers:
        # napari numbers a layer whose name another one has.
        is_named = layer.name == name or layer.name.startswith(f"{name} [")
        if is_named and hasattr(layer, "selected_label") and layer.data.shape == plane.shape:
            labels: Labels = layer
            return labels
    return None


def _name(plane: Plane) -> str:
    return f"{plane.layer.name} [CPC-SAM]"


def paint_prompted(labels: Labels, plane: Plane, masks: Sequence[Mask], first: int) -> None:
    """Paint the masks of prompts from a number on, in place of what had these numbers there.

    Args:
        labels: to paint in.
        plane: of the image.
        masks: one for each prompt; the number of an empty one stays free.
        first: number of the first.
    """
    painted = labels.data[plane.index]
    for number, mask in enumerate(masks, first):
        painted[painted == number] = 0
        painted[mask.array] = number
    _describe(labels, {number: mask for number, mask in enumerate(masks, first)})


def paint_entities(labels: Labels, plane: Plane, masks: Sequence[Mask]) -> None:
    """Replace what a plane has by found entities; where they overlap, the better one wins.

    The next free number is selected, so that prompts that follow add to what was found.

    Args:
        labels: to paint in.
        plane: of the image.
        masks: best first.
    """
    masks = [mask for mask in masks if mask.area]
    painted = labels.data[plane.index]
    painted[...] = 0
    first = int(labels.data.max()) + 1
    for number, mask in reversed([*enumerate(masks, first)]):
        painted[mask.array] = number
    _describe(labels, {number: mask for number, mask in enumerate(masks, first)})
    labels.selected_label = first + len(masks)


def _describe(labels: Labels, masks: dict[int, Mask]) -> None:
    """Bring the masks into the layer's table, which has a row for each number, and show them."""
    rows: dict[int, dict[str, Any]] = {
        int(row["index"]): dict(row) for row in labels.features.to_dict("records") if "index" in row
    }
    for number, mask in masks.items():
        rows.pop(number, None)
        if mask.area:
            rows[number] = {"index": number, "class": mask.label, "score": mask.score}
    labels.features = pd.DataFrame([rows[number] for number in sorted(rows)])
    labels.refresh()
