"""Annotation-free prompts, generated from the model's own stable masks.

As in SAM's automatic mask generator, the model is prompted with a grid of clicks, and the masks
that are stable under a shift of the threshold are kept. Each becomes three prompts that a user
could give: a click, a box with that click, and the click with the mask as a mask prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cpcsam.contract import (
    LOW_RES_FACTOR,
    PATCH_SIZE,
    PROMPT_BUCKETS,
    PointLabel,
)
from export.accuracy.runners import GraphRunner, backend_of
from export.real_images import Scene

__all__ = ["MIN_STABILITY", "Prompts", "decode", "encode", "prompts_for", "stability"]

CLICKS_A_SIDE: Final = 8
MAX_ENTITIES: Final = PROMPT_BUCKETS[-1]
MIN_STABILITY: Final = 0.8
"""SAM's generator requires 0.95; a compact model draws softer edges."""
STABILITY_OFFSET: Final = 1.0
"""Shift of the logits' threshold; SAM's automatic mask generator uses the same."""
MIN_CELLS: Final = 8
"""Least area of a mask in cells of the 4G × 4G grid."""
MAX_PART: Final = 0.9
SAME_MASK_IOU: Final = 0.8
BOX_LABELS: Final = (
    PointLabel.BOX_TOP_LEFT,
    PointLabel.BOX_BOTTOM_RIGHT,
    PointLabel.FOREGROUND,
    PointLabel.EMPTY,
)


@dataclass(frozen=True)
class Prompts:
    """Prompts of the same kind for one image.

    Attributes:
        kind: `click`, `box` or `mask`.
        tensors: point_coords (1, P, N, 2), point_labels (1, P, N) and, of kind `mask`, mask_input
            (1, P, 1, 4G, 4G).
    """

    kind: str
    tensors: dict[str, Tensor]


def encode(runner: GraphRunner, scene: Scene) -> Tensor:
    """Run the image encoder on a scene; return image_embeddings (1, 256, G, G)."""
    backend = backend_of(runner, scene.image.shape[-1])
    return torch.from_numpy(backend.encode(scene.image.numpy(), scene.input_size.numpy()))


def decode(
    runner: GraphRunner, image_embeddings: Tensor, prompts: Prompts
) -> tuple[Tensor, Tensor]:
    """Decode prompts to low_res_masks (1, P, 4, 4G, 4G) and iou_predictions (1, P, 4)."""
    backend = backend_of(runner, PATCH_SIZE * image_embeddings.shape[-1])
    arrays = {name: tensor.numpy() for name, tensor in prompts.tensors.items()}
    low_res_masks, iou_predictions = backend.decode(image_embeddings.numpy(), **arrays)
    return torch.from_numpy(low_res_masks), torch.from_numpy(iou_predictions)


def prompts_for(
    reference: GraphRunner, scene: Scene, image_embeddings: Tensor
) -> tuple[Prompts, ...]:
    """Generate prompts of each kind for up to `MAX_ENTITIES` stable masks of the reference.

    Args:
        reference: runner of the reference model.
        scene: the image.
        image_embeddings: (1, 256, G, G), computed by the reference.

    Returns:
        `click`, `box` and `mask` prompts, equally many of each; empty if no mask is stable.
    """
    clicks, masks = [], []
    for coords in _click_grid(scene).split(PROMPT_BUCKETS[-1]):
        low_res_masks, iou_predictions = decode(reference, image_embeddings, _clicks(coords))
        for index in range(len(coords)):
            # Mask 0 is SAM's single output, masks 1-3 its multimask output.
            best = 1 + int(iou_predictions[0, index, 1:].argmax())
            clicks += [coords[index]] * 2
            masks += [low_res_masks[0, index, 0], low_res_masks[0, index, best]]
    chosen = list(_stable_and_distinct(masks, scene))
    if not chosen:
        return ()
    points = torch.stack([clicks[index] for index in chosen])
    logits = torch.stack([masks[index] for index in chosen])
    return (
        _clicks(points),
        _boxes(points, logits > 0),
        Prompts("mask", {**_clicks(points).tensors, "mask_input": logits[None, :, None]}),
    )


def stability(low_res_mask: Tensor) -> float:
    """Return the stability score: IoU of the masks at a raised and a lowered threshold.

    Args:
        low_res_mask: (4G, 4G) logits.
    """
    outer = int((low_res_mask > -STABILITY_OFFSET).sum())
    return int((low_res_mask > STABILITY_OFFSET).sum()) / max(outer, 1)


def _click_grid(scene: Scene) -> Tensor:
    """Return an even grid of points (clicks, 2), (X, Y) in pixels of the encoder's frame."""
    height, width = scene.shown.shape[:2]
    steps = (torch.arange(CLICKS_A_SIDE) + 0.5) / CLICKS_A_SIDE
    return torch.cartesian_prod(steps * width, steps * height)


def _clicks(coords: Tensor) -> Prompts:
    labels = torch.full((1, len(coords), 1), int(PointLabel.FOREGROUND), dtype=torch.int32)
    return Prompts("click", {"point_coords": coords[None, :, None], "point_labels": labels})


def _boxes(points: Tensor, masks: Tensor) -> Prompts:
    """Make box prompts around masks (P, 4G, 4G), each with its click and an empty slot."""
    cell = PATCH_SIZE // LOW_RES_FACTOR
    corners = []
    for mask in masks:
        rows, columns = (torch.nonzero(mask.any(axis)).flatten() for axis in (1, 0))
        corners.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    boxes = cell * torch.tensor(corners, dtype=torch.float32).reshape(-1, 2, 2)
    coords = torch.cat([boxes, points[:, None], torch.zeros(len(points), 1, 2)], dim=1)
    labels = torch.tensor(BOX_LABELS, dtype=torch.int32).expand(1, len(points), -1)
    return Prompts("box", {"point_coords": coords[None], "point_labels": labels.contiguous()})


def _stable_and_distinct(masks: list[Tensor], scene: Scene) -> Iterator[int]:
    """Yield indices of the most stable masks, near-duplicates removed as by NMS on mask IoU."""
    cells = scene.input_size.prod() * (LOW_RES_FACTOR / PATCH_SIZE) ** 2
    scores = {
        index: stability(mask)
        for index, mask in enumerate(masks)
        if MIN_CELLS <= int((mask > 0).sum()) <= MAX_PART * cells
    }
    taken: list[Tensor] = []
    for index in sorted(scores, key=lambda candidate: -scores[candidate]):
        mask = masks[index] > 0
        if scores[index] < MIN_STABILITY or len(taken) == MAX_ENTITIES:
            return
        if all((mask & other).sum() < SAME_MASK_IOU * (mask | other).sum() for other in taken):
            taken.append(mask)
            yield index
