"""How far an engine's answers on real images are from the model's: the accuracy gate's measures.

Every engine runs all graphs by itself, so its errors add up as they would in service. Masks are
compared in the encoder's frame, where the model sees the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from tqdm import tqdm

from cpcsam.client.overlay import contour
from cpcsam.contract import MASK_THRESHOLD
from cpcsam.transforms import upscale_masks
from export.accuracy.runners import Runner
from export.accuracy.self_prompts import (
    MIN_STABILITY,
    Prompts,
    decode,
    encode,
    prompts_for,
    stability,
)
from export.graphs.modules import relative_difference
from export.real_images import Scene

__all__ = ["SHOWN_MASKS", "Case", "Fidelity", "MaskPair", "MaskRow", "find_cases", "measure"]

SHOWN_MASKS: Final = 12
MARGIN: Final = 16
"""Pixels around a pair of masks that are kept for the report."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """A scene, its prompts and what the reference answers.

    Attributes:
        scene: the image.
        prompts: of each kind.
        image_embeddings: (1, 256, G, G).
        answers: low_res_masks (1, P, 4, 4G, 4G) and iou_predictions (1, P, 4) of each kind.
    """

    scene: Scene
    prompts: tuple[Prompts, ...]
    image_embeddings: Tensor
    answers: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class MaskRow:
    """One mask of the reference and the engine's.

    Attributes:
        scene: name of the image.
        prompt: `click`, `box` or `mask`, and its number.
        selection: `single`, mask 0, or `best`, of masks 1-3 that of the highest predicted IoU.
        stability: of the reference's mask; see `export.accuracy.self_prompts`.
        area: pixels of the reference's mask.
        iou: of both masks; 1 where both are empty.
        boundary_mean: distance of each contour's pixels to the other contour, pixels of the
            encoder's frame, mean of both ways.
        boundary_max: the largest of them.
        logits: largest difference of the low_res_masks over their largest value.
    """

    scene: str
    prompt: str
    selection: str
    stability: float
    area: int
    iou: float
    boundary_mean: float
    boundary_max: float
    logits: float

    @property
    def counts(self) -> bool:
        """Whether the reference's mask is distinct enough to be judged by."""
        return self.stability >= MIN_STABILITY and self.area > 0


@dataclass(frozen=True)
class MaskPair:
    """What the report shows of a mask: a part of the image and both masks there."""

    row: MaskRow
    image: NDArray[np.uint8]
    expected: Mask
    found: Mask


@dataclass(frozen=True)
class Fidelity:
    """Every comparison with one engine.

    Attributes:
        engine: name of its runner.
        embeddings: largest relative difference of image_embeddings, by image.
        rows: all masks.
        worst: those that count and have the lowest IoU, worst first.
    """

    engine: str
    embeddings: dict[str, float]
    rows: tuple[MaskRow, ...]
    worst: tuple[MaskPair, ...]

    @property
    def counted(self) -> list[MaskRow]:
        """The rows that count."""
        return [row for row in self.rows if row.counts]

    def summary(self) -> dict[str, float]:
        """Return the figures of the report; those of masks are absent where none counts."""
        counted = self.counted
        figures = {"embeddings_max": max(self.embeddings.values(), default=0.0)}
        figures |= {"masks": len(counted), "masks_left_out": len(self.rows) - len(counted)}
        if counted:
            ious = [row.iou for row in counted]
            figures |= {
                "iou_mean": float(np.mean(ious)),
                "iou_min": min(ious),
                "boundary_mean": float(np.mean([row.boundary_mean for row in counted])),
                "boundary_mean_max": max(row.boundary_mean for row in counted),
                "boundary_max": max(row.boundary_max for row in counted),
                "logits_max": max(row.logits for row in counted),
                "iou_mean_of_all": float(np.mean([row.iou for row in self.rows])),
            }
        return figures


def find_cases(reference: Runner, scenes: Sequence[Scene]) -> list[Case]:
    """Prompt the reference on every scene where it finds something distinct."""
    cases = []
    for scene in tqdm(scenes, desc=f"masks, {reference.name}", unit="image"):
        image_embeddings = encode(reference, scene)
        prompts = prompts_for(reference, scene, image_embeddings)
        if prompts:
            answers = tuple(decode(reference, image_embeddings, one) for one in prompts)
            cases.append(Case(scene, prompts, image_embeddings, answers))
    return cases


def measure(cases: Sequence[Case], runner: Runner) -> Fidelity:
    """Ask an engine the same and compare."""
    embeddings: dict[str, float] = {}
    pairs: list[MaskPair] = []
    rows: list[MaskRow] = []
    for case in tqdm(cases, desc=f"masks, {runner.name}", unit="image"):
        image_embeddings = encode(runner, case.scene)
        embeddings[case.scene.name] = relative_difference(image_embeddings, case.image_embeddings)
        for prompts, expected in zip(case.prompts, case.answers, strict=True):
            found, _ = decode(runner, image_embeddings, prompts)
            of_kind = list(_pairs(case.scene, prompts.kind, expected, found))
            rows += [pair.row for pair in of_kind]
            pairs += [pair for pair in of_kind if pair.row.counts]
        pairs = sorted(pairs, key=lambda pair: pair.row.iou)[:SHOWN_MASKS]
    return Fidelity(runner.name, embeddings, tuple(rows), tuple(pairs))


def _pairs(
    scene: Scene, kind: str, expected: tuple[Tensor, Tensor], found: Tensor
) -> Iterator[MaskPair]:
    """Compare the masks that would answer each prompt; which is best, the reference says."""
    low_res_masks, iou_predictions = expected
    for index in range(low_res_masks.shape[1]):
        best = 1 + int(iou_predictions[0, index, 1:].argmax())
        for selection, mask in (("single", 0), ("best", best)):
            logits = (one[0, index, mask] for one in (low_res_masks, found))
            yield _pair(scene, f"{kind} {index + 1}", selection, *logits)


def _pair(scene: Scene, prompt: str, selection: str, expected: Tensor, found: Tensor) -> MaskPair:
    height, width = scene.shown.shape[:2]
    masks = [
        upscale_masks(logits.numpy(), (height, width), (height, width), scene.image.shape[-1])
        > MASK_THRESHOLD
        for logits in (expected, found)
    ]
    box = _box_around(masks[0] | masks[1])
    wanted, got = masks[0][box], masks[1][box]
    union = int((wanted | got).sum())
    mean, largest = _boundary_distance(wanted, got)
    row = MaskRow(
        scene=scene.name,
        prompt=prompt,
        selection=selection,
        stability=stability(expected),
        area=int(wanted.sum()),
        iou=int((wanted & got).sum()) / union if union else 1.0,
        boundary_mean=mean,
        boundary_max=largest,
        logits=relative_difference(found, expected),
    )
    return MaskPair(row, scene.shown[box], wanted, got)


def _box_around(mask: Mask) -> tuple[slice, slice]:
    """The part of an image around a mask; all of it where the mask is empty."""
    if not mask.any():
        return slice(None), slice(None)
    sides = []
    for axis in (1, 0):
        inside = np.flatnonzero(mask.any(axis=axis))
        sides.append(slice(max(int(inside[0]) - MARGIN, 0), int(inside[-1]) + 1 + MARGIN))
    return sides[0], sides[1]


def _boundary_distance(expected: Mask, found: Mask) -> tuple[float, float]:
    """Mean and largest distance between two contours; the diagonal where only one is there."""
    contours = [contour(mask) for mask in (expected, found)]
    if not any(edge.any() for edge in contours):
        return 0.0, 0.0
    if not all(edge.any() for edge in contours):
        diagonal = math.hypot(*expected.shape)
        return diagonal, diagonal
    distances = [
        distance_transform_edt(~other)[edge] for edge, other in (contours, reversed(contours))
    ]
    return (
        float(np.mean([one.mean() for one in distances])),
        max(float(one.max()) for one in distances),
    )
