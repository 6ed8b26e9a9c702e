"""Scores of automatic segmentation against annotated images: Dice, IoU and AP by class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.errors import DataError
from training.data.sample import Sample
from training.evaluation.average_precision import AveragePrecision
from training.evaluation.one_click import dice_score, iou_score

__all__ = ["METRICS", "foreground_of", "labels_of", "means_of_groups", "score_segmentation"]

METRICS = ("dice", "iou", "ap50")


def score_segmentation(
    segment: Callable[[Sample], list[InstanceMask]],
    names: Sequence[str],
    samples: Iterable[Sample],
    called: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Segment images and score the masks against the annotation.

    Args:
        segment: finds the entities of an image; `class_index` counts `names`.
        names: the classes.
        samples: annotated images.
        called: the images' names of the classes, if they differ.

    Returns:
        `images`, `dice`, `iou`, `ap50`; `classes` with these and `entities` and `found` of each;
        `per_image`: name, class, dice, iou, entities and found, one entry an image and class.
        Dice and IoU are of a class's foreground in one image, averaged over the images that show
        or are said to show it; the overall figures are means over the classes.

    Raises:
        DataError: no image shows a class.
    """
    called = names if called is None else called
    per_image: list[dict[str, Any]] = []
    precisions = [AveragePrecision() for _ in names]
    images = 0
    for sample in samples:
        images += 1
        masks = segment(sample)
        for index, name in enumerate(called):
            truth = labels_of(sample, name)
            found = [mask for mask in masks if mask.class_index == index]
            entities = len(np.unique(truth[truth > 0]))
            if not entities and not found:
                continue
            foreground = foreground_of(found, truth.shape)
            pair = foreground, truth > 0
            scores = {"dice": dice_score(*pair), "iou": iou_score(*pair)}
            counts = {"entities": entities, "found": len(found)}
            per_image.append({"name": sample.name, "class": names[index], **scores, **counts})
            precisions[index].update(found, truth)
    # Without an annotated entity, a class has no recall; what was found of it shows in per_image.
    classes = {
        name: _summary([row for row in per_image if row["class"] == name], precisions[index])
        for index, name in enumerate(names)
        if any(row["class"] == name and row["entities"] for row in per_image)
    }
    if not classes:
        raise DataError.of(
            "images",
            got="no entity of a known class",
            expected=f"entities of {', '.join(called)}",
            fix="give other images, or name the classes as these do",
        )
    means = _means(classes.values())
    return {"images": images, **means, "classes": classes, "per_image": per_image}


def means_of_groups(
    classes: Mapping[str, Mapping[str, float]], groups: Mapping[str, Collection[str]]
) -> dict[str, dict[str, float]]:
    """Average Dice, IoU and AP over the classes of each non-empty group.

    Args:
        classes: scores by class, as `score_segmentation` gives them.
        groups: classes by the group's name.
    """
    members = {
        group: [scores for name, scores in classes.items() if name in chosen]
        for group, chosen in groups.items()
    }
    return {group: _means(scores) for group, scores in members.items() if scores}


def _means(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    listed = list(scores)
    return {key: float(np.mean([row[key] for row in listed])) for key in METRICS}


def labels_of(sample: Sample, name: str) -> NDArray[np.int32]:
    """Return the label image with the entities of one class alone."""
    labels = np.unique(sample.instances)
    chosen = [label for label in labels if label and sample.class_of(int(label)) == name]
    return np.where(np.isin(sample.instances, chosen), sample.instances, 0)


def foreground_of(found: Iterable[InstanceMask], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the union of masks, (H, W) bool of an image's size."""
    foreground = np.zeros(size, bool)
    for mask in found:
        foreground[mask.bbox.slices] |= mask.mask
    return foreground


def _summary(rows: list[dict[str, Any]], precision: AveragePrecision) -> dict[str, Any]:
    return {
        "images": len(rows),
        "dice": float(np.mean([row["dice"] for row in rows])),
        "iou": float(np.mean([row["iou"] for row in rows])),
        "ap50": precision.compute(),
        "entities": sum(row["entities"] for row in rows),
        "found": precision.found,
    }
