"""Clicks of a simulated annotator, as RITM's published code draws them in evaluation and training.

Sofiiuk, Petrov and Konushin, "Reviving Iterative Training with Mask Guidance for Interactive
Segmentation", 2022; the constants are those of its `iter_mask` models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.evaluation.one_click import iou_score

__all__ = [
    "MAX_FURTHER_CLICKS",
    "Annotator",
    "Click",
    "Clicked",
    "click_through",
    "error_clicked",
    "first_clicks",
    "further_click",
    "next_click",
]

MAX_FURTHER_CLICKS: Final = 3
"""N of iterative training: 0 to N further clicks, all numbers as likely, precede a step. So a step
starts without a previous mask with probability 1 / (N + 1), and otherwise with the network's last
one, which is never dropped (`prev_mask_drop_prob` is 0)."""

MAX_FIRST_CLICKS: Final = 24
"""Upper bound of a training sample's first clicks, of either kind."""
DECAY: Final = 0.8
"""Ratio of the probability of n + 1 first clicks to that of n."""
ERODED: Final = 0.9
"""Probability that first positive clicks keep `EROSIONS` pixels away from the border, if more than
`KEPT_PIXELS` of the entity are left."""
EROSIONS: Final = 3
KEPT_PIXELS: Final = 10
NEGATIVES: Final = (0.1, 0.4, 0.5)
"""Probabilities that a first negative click lies anywhere outside the entity, on another entity, or
near the entity's border."""
BORDER: Final = 0.1
"""Width of that border, in square roots of the entity's area."""
SQUARE: Final = np.ones((3, 3), bool)

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """A click into an image.

    Attributes:
        x: pixel of the image.
        y: likewise.
        positive: it marks the entity, else background.
    """

    x: float
    y: float
    positive: bool


Annotator = Callable[[BoolMask, BoolMask, Sequence[Click]], Click]
"""Clicks by truth, prediction and previous clicks."""


@dataclass(frozen=True)
class Clicked:
    """Answers to an annotator's clicks.

    Attributes:
        clicks: in their order.
        ious: after each.
        mask: the last answer.
    """

    clicks: tuple[Click, ...]
    ious: tuple[float, ...]
    mask: BoolMask


def next_click(truth: BoolMask, predicted: BoolMask, previous: Sequence[Click] = ()) -> Click:
    """Click where the largest error is deepest, as RITM's published evaluation does.

    Of missed and of wrongly covered pixels, those with the greater distance to what is right take
    the click; wrongly covered ones if both are equal. Beyond the image everything is right. The
    first of equally deep pixels is taken, row by row, and none twice: if no error is left that was
    not clicked, the published rule clicks the first pixel that is not wrongly covered.

    Args:
        truth: (H, W) bool.
        predicted: (H, W) bool.
        previous: clicks so far.
    """
    missed, covered = _depth(truth & ~predicted), _depth(predicted & ~truth)
    for click in previous:
        missed[round(click.y), round(click.x)] = covered[round(click.y), round(click.x)] = 0
    positive = bool(missed.max() > covered.max())
    y, x = np.unravel_index((missed if positive else covered).argmax(), truth.shape)
    return Click(float(x), float(y), positive)


def error_clicked(truth: BoolMask, predicted: BoolMask, click: Click) -> BoolMask | None:
    """Connected error that a click of `next_click` lies in, (H, W) bool; None if it lies in none.

    Args:
        truth: (H, W) bool.
        predicted: (H, W) bool.
        click: where.
    """
    wrong = truth & ~predicted if click.positive else predicted & ~truth
    parts, _ = ndimage.label(wrong)
    part = parts[int(click.y), int(click.x)]
    return parts == part if part else None


def click_through(
    answer: Callable[[Sequence[Click]], BoolMask],
    truth: BoolMask,
    clicks: int,
    *,
    annotator: Annotator = next_click,
    stop_at: float = 1.0,
) -> Clicked:
    """Click until a mask is good enough.

    Args:
        answer: returns the mask, (H, W) bool, of all clicks so far.
        truth: (H, W) bool, the entity.
        clicks: upper bound.
        annotator: who clicks; the first click answers to an empty mask.
        stop_at: IoU at which the annotator stops.
    """
    given: list[Click] = []
    ious: list[float] = []
    mask = np.zeros_like(truth)
    while len(given) < clicks and (not ious or ious[-1] < stop_at):
        given.append(annotator(truth, mask, given))
        mask = answer(given)
        ious.append(iou_score(mask, truth))
    return Clicked(tuple(given), tuple(ious), mask)


def further_click(
    truth: BoolMask, probability: NDArray[np.float32], threshold: float, rng: np.random.Generator
) -> Click | None:
    """Draw a further click of iterative training: anywhere in the inner half of the largest error.

    Args:
        truth: (H, W) bool.
        probability: (H, W), the network's last answer.
        threshold: of a mask.
        rng: decides the place.

    Returns:
        None without an error.
    """
    missed = _depth(truth & (probability < threshold))
    covered = _depth(~truth & (probability > threshold))
    positive = bool(missed.max() > covered.max())
    depth = missed if positive else covered
    return _drawn(depth > depth.max() / 2, positive, rng)


def first_clicks(truth: BoolMask, others: BoolMask, rng: np.random.Generator) -> list[Click]:
    """Draw the clicks that a training sample starts with, at least one on the entity.

    Args:
        truth: (H, W) bool with at least one pixel.
        others: (H, W) bool, the other entities.
        rng: decides everything.
    """
    inner = truth
    if rng.random() < ERODED:
        # Beyond the image nothing is eroded, as in OpenCV.
        eroded = ndimage.binary_erosion(truth, SQUARE, EROSIONS, border_value=1)
        inner = eroded if eroded.sum() > KEPT_PIXELS else truth
    clicks = [_drawn(inner, True, rng) for _ in range(1 + _number(MAX_FIRST_CLICKS, rng))]
    width = int(np.ceil(BORDER * np.sqrt(truth.sum())))
    border = ndimage.binary_dilation(truth, SQUARE, width) & ~truth
    places = (~truth, others if others.any() else ~truth, border)
    kinds = rng.choice(len(places), _number(MAX_FIRST_CLICKS + 1, rng), p=NEGATIVES)
    clicks += [_drawn(places[kind], False, rng) for kind in kinds]
    return [click for click in clicks if click is not None]


def _depth(wrong: BoolMask) -> NDArray[np.float64]:
    """Distance of each pixel to the nearest that is right; beyond the image all are."""
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(wrong, 1))
    return depth[1:-1, 1:-1]


def _number(values: int, rng: np.random.Generator) -> int:
    """Draw from 0 to `values` - 1, each `DECAY` as likely as the one before."""
    weights = DECAY ** np.arange(values)
    return int(rng.choice(values, p=weights / weights.sum()))


def _drawn(where: BoolMask, positive: bool, rng: np.random.Generator) -> Click | None:
    places = np.flatnonzero(where)
    if not len(places):
        return None
    y, x = divmod(int(rng.choice(places)), where.shape[1])
    return Click(float(x), float(y), positive)
