"""Mask fidelity: IoU and boundary distance between an engine's masks and torch's on real images.

Every engine runs the whole pipeline, so its errors accumulate as they would in service. Masks are
compared in the encoder's frame. Polygraphy's Comparator does neither: it compares the outputs of
single graphs element by element.
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

from cpcsam.contract import MASK_THRESHOLD
from cpcsam.drawing import contour
from cpcsam.transforms import upscale_masks
from export.accuracy.runners import GraphRunner
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
"""Pixels around a pair of masks that the report shows."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """A scene with its prompts and the reference's outputs.

    Attributes:
        scene: the image.
        prompts: one group for each kind.
        image_embeddings: (1, 256, G, G).
        expected: low_res_masks (1, P, 4, 4G, 4G) and iou_predictions (1, P, 4) of each group.
    """

    scene: Scene
    prompts: tuple[Prompts, ...]
    image_embeddings: Tensor
    expected: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class MaskRow:
    """Measures of an engine's mask against the reference's.

    Attributes:
        scene: name of the image.
        prompt: `click`, `box` or `mask`, and its number.
        selection: `single` (mask 0) or `best` (the highest predicted IoU of masks 1-3).
        stability: stability score of the reference's mask.
        area: pixels of the reference's mask.
        iou: of both masks; 1 if both are empty.
        boundary_mean: mean distance between the contours in pixels of the encoder's frame,
            averaged over both directions.
        boundary_max: largest distance of a contour's pixel from the other contour (Hausdorff).
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
        """True if the reference's mask is stable and not empty, so that the gate counts it."""
        return self.stability >= MIN_STABILITY and self.area > 0


@dataclass(frozen=True)
class MaskPair:
    """A mask in the report: a crop of the image and both masks within it."""

    row: MaskRow
    image: NDArray[np.uint8]
    expected: Mask
    actual: Mask


@dataclass(frozen=True)
class Fidelity:
    """All mask comparisons of an engine.

    Attributes:
        engine: name of its runner.
        embeddings: largest relative difference of image_embeddings, of each image.
        scores: likewise of iou_predictions, which choose and rank masks.
        rows: all masks.
        worst: counted masks of lowest IoU, worst first, at most `SHOWN_MASKS`.
    """

    engine: str
    embeddings: tuple[float, ...]
    scores: tuple[float, ...]
    rows: tuple[MaskRow, ...]
    worst: tuple[MaskPair, ...]

    @property
    def counted(self) -> list[MaskRow]:
        """Rows whose reference mask is stable and not empty."""
        return [row for row in self.rows if row.counts]

    def summary(self) -> dict[str, float]:
        """Return the figures of the report; without a counted mask, those of masks are absent."""
        counted = self.counted
        figures = {
            f"{name}_max": float(np.max(differences, initial=0.0))  # keeps NaN
            for name, differences in (("embeddings", self.embeddings), ("scores", self.scores))
        }
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


def find_cases(reference: GraphRunner, scenes: Sequence[Scene]) -> list[Case]:
    """Run the reference on every scene; scenes without a stable mask are left out."""
    cases = []
    for scene in tqdm(scenes, desc=f"masks, {reference.name}", unit="image"):
        image_embeddings = encode(reference, scene)
        prompts = prompts_for(reference, scene, image_embeddings)
        if prompts:
            expected = tuple(decode(reference, image_embeddings, group) for group in prompts)
            cases.append(Case(scene, prompts, image_embeddings, expected))
    return cases


def measure(cases: Sequence[Case], runner: GraphRunner) -> Fidelity:
    """Run an engine on the same prompts and measure its masks against the reference's."""
    embeddings: list[float] = []
    scores: list[float] = []
    pairs: list[MaskPair] = []
    rows: list[MaskRow] = []
    for case in tqdm(cases, desc=f"masks, {runner.name}", unit="image"):
        image_embeddings = encode(runner, case.scene)
        embeddings.append(relative_difference(image_embeddings, case.image_embeddings))
        differences = []
        for prompts, expected in zip(case.prompts, case.expected, strict=True):
            low_res_masks, iou_predictions = decode(runner, image_embeddings, prompts)
            differences.append(relative_difference(iou_predictions, expected[1]))
            of_kind = list(_pairs(case.scene, prompts.kind, expected, low_res_masks))
            rows += [pair.row for pair in of_kind]
            pairs += [pair for pair in of_kind if pair.row.counts]
        scores.append(float(np.max(differences)))
        pairs = sorted(pairs, key=lambda pair: pair.row.iou)[:SHOWN_MASKS]
    return Fidelity(runner.name, tuple(embeddings), tuple(scores), tuple(rows), tuple(pairs))


def _pairs(
    scene: Scene, kind: str, expected: tuple[Tensor, Tensor], actual: Tensor
) -> Iterator[MaskPair]:
    """Compare the single and the best mask of each prompt, by the reference's predicted IoU."""
    low_res_masks, iou_predictions = expected
    for index in range(low_res_masks.shape[1]):
        best = 1 + int(iou_predictions[0, index, 1:].argmax())
        for selection, mask in (("single", 0), ("best", best)):
            logits = (masks[0, index, mask] for masks in (low_res_masks, actual))
            yield _pair(scene, f"{kind} {index + 1}", selection, *logits)


def _pair(scene: Scene, prompt: str, selection: str, expected: Tensor, actual: Tensor) -> MaskPair:
    height, width = scene.shown.shape[:2]
    masks = [
        upscale_masks(logits.numpy(), (height, width), (height, width), scene.image.shape[-1])
        > MASK_THRESHOLD
        for logits in (expected, actual)
    ]
    # Distance transforms of whole images would dominate the time of a comparison.
    window = _window_around(masks[0] | masks[1])
    expected_mask, actual_mask = masks[0][window], masks[1][window]
    union = int((expected_mask | actual_mask).sum())
    mean, largest = _boundary_distance(expected_mask, actual_mask)
    row = MaskRow(
        scene=scene.name,
        prompt=prompt,
        selection=selection,
        stability=stability(expected),
        area=int(expected_mask.sum()),
        iou=int((expected_mask & actual_mask).sum()) / union if union else 1.0,
        boundary_mean=mean,
        boundary_max=largest,
        logits=relative_difference(actual, expected),
    )
    return MaskPair(row, scene.shown[window], expected_mask, actual_mask)


def _window_around(mask: Mask) -> tuple[slice, slice]:
    """Return the window (rows, columns) around a mask; the whole image if the mask is empty."""
    if not mask.any():
        return slice(None), slice(None)
    sides = []
    for axis in (1, 0):
        inside = np.flatnonzero(mask.any(axis=axis))
        sides.append(slice(max(int(inside[0]) - MARGIN, 0), int(inside[-1]) + 1 + MARGIN))
    return sides[0], sides[1]


def _boundary_distance(expected: Mask, actual: Mask) -> tuple[float, float]:
    """Return mean and largest distance between two contours; the diagonal if only one exists."""
    contours = [contour(mask) for mask in (expected, actual)]
    if not any(edge.any() for edge in contours):
        return 0.0, 0.0
    if not all(edge.any() for edge in contours):
        diagonal = math.hypot(*expected.shape)
        return diagonal, diagonal
    distances = [
        distance_transform_edt(~other)[edge] for edge, other in (contours, reversed(contours))
    ]
    return (
        float(np.mean([direction.mean() for direction in distances])),
        max(float(direction.max()) for direction in distances),
    )
