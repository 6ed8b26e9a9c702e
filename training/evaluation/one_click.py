"""Dice and IoU of masks, and the one-click evaluation protocol with its clicks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpcsam.client.prompts import XY
from cpcsam.contract import MASK_THRESHOLD, PointLabel
from cpcsam.model.sam import CpcSam
from training.data.augment import whole_window
from training.data.prompt_sampling import PromptMix, sample_prompt
from training.data.sample import Sample, entity_labels

__all__ = [
    "ACCURATE_CLICK",
    "CARELESS_CLICK",
    "CLICKS",
    "OneClickResult",
    "OneClickScores",
    "dice_score",
    "entity_clicks",
    "iou_score",
    "one_click",
    "scores_by_click",
    "to_size",
    "without_masks",
]

ACCURATE_CLICK: Final = PromptMix(box=0, several=0, centre=1)
"""On the pixel nearest the centroid."""

CARELESS_CLICK: Final = PromptMix(box=0, several=0, centre=0, wrong=0.5, wrong_reach=5)
"""Half of the clicks anywhere on the entity, half outside it, at most 5 pixels off."""

CLICKS: Final[Mapping[str, PromptMix]] = {"accurate": ACCURATE_CLICK, "careless": CARELESS_CLICK}
"""Kinds of clicks by name."""


def entity_clicks(
    sample: Sample, min_area: int, annotator: PromptMix = ACCURATE_CLICK
) -> dict[int, XY]:
    """Click every entity of a sample once.

    Args:
        sample: its name decides the chance in careless clicks, so all models get the same.
        min_area: entities of fewer pixels get no click.
        annotator: how it clicks, in pixels of the sample.

    Returns:
        (X, Y) by the entity's label.
    """
    rng = np.random.default_rng(zlib.crc32(sample.name.encode(errors="backslashreplace")))
    clicks = {}
    for label in entity_labels(sample.instances, min_area):
        coords, _ = sample_prompt(sample.instances == label, annotator, rng)
        clicks[int(label)] = (float(coords[0, 0]), float(coords[0, 1]))
    return clicks


BoolMask = NDArray[np.bool_]


def dice_score(predicted: BoolMask, truth: BoolMask) -> float:
    """Compute Dice = 2|A∩B| / (|A| + |B|) (Eq. 11); two empty masks score 1."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def iou_score(predicted: BoolMask, truth: BoolMask) -> float:
    """Compute IoU = |A∩B| / |A∪B| (Eq. 10); two empty masks score 1."""
    union = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / union if union else 1.0


@dataclass(frozen=True)
class OneClickResult:
    """Result of one positive click on an entity.

    Attributes:
        sample: its name.
        label: the entity's label in it.
        click: (X, Y), pixels of the sample.
        dice: of mask 0 at the sample's own resolution.
        iou: likewise.
        iou_prediction: output of the IoU head.
        mask: the predicted mask, of the sample's size.
        annotator: simulated annotator of the click.
    """

    sample: str
    label: int
    click: XY
    dice: float
    iou: float
    iou_prediction: float
    mask: BoolMask
    annotator: PromptMix = ACCURATE_CLICK


@dataclass(frozen=True)
class OneClickScores:
    """Mean scores over entities.

    Attributes:
        entities: number of segmented entities.
        dice: mean Dice.
        iou: mean IoU.
        iou_correlation: Pearson's r between predicted and true IoU.
    """

    entities: int
    dice: float
    iou: float
    iou_correlation: float

    @classmethod
    def of(cls, results: Sequence[OneClickResult]) -> OneClickScores:
        """Average results."""
        iou = np.array([result.iou for result in results])
        predicted = np.array([result.iou_prediction for result in results])
        # Correlation with a constant is NaN.
        varies = len(results) > 1 and iou.std() > 0 and predicted.std() > 0
        return cls(
            entities=len(results),
            dice=float(np.mean([result.dice for result in results])),
            iou=float(iou.mean()),
            iou_correlation=float(np.corrcoef(iou, predicted)[0, 1]) if varies else 0.0,
        )


def without_masks(results: Iterable[OneClickResult]) -> list[OneClickResult]:
    """List results without their masks, which take all the memory."""
    none = np.zeros((0, 0), bool)  # a part of a mask would keep all of it
    return [replace(result, mask=none) for result in results]


def scores_by_click(results: Sequence[OneClickResult]) -> dict[str, OneClickScores]:
    """Average results of each kind in `CLICKS`, all of which they must hold."""
    return {
        kind: OneClickScores.of([result for result in results if result.annotator == annotator])
        for kind, annotator in CLICKS.items()
    }


@torch.no_grad()
def one_click(
    model: CpcSam,
    samples: Sequence[Sample],
    min_area: int = 30,
    annotators: Sequence[PromptMix] = (ACCURATE_CLICK,),
    prompts_per_call: int = 64,
) -> Iterator[OneClickResult]:
    """Segment every entity of samples by one click of each annotator.

    Args:
        model: in evaluation mode.
        samples: each shown whole, padded to a square of the model's image_size as in serving.
        min_area: smaller entities, in the sample's own pixels, are left out.
        annotators: simulated annotators; their distances are in the sample's own pixels.
        prompts_per_call: bound on the prompts decoded at once.
    """
    device = model.sam.pixel_mean.device
    for sample in samples:
        clicks = [
            (annotator, label, click)
            for annotator in annotators
            for label, click in entity_clicks(sample, min_area, annotator).items()
        ]
        if not clicks:
            continue
        window = whole_window(sample, model.image_size)
        height, width = sample.instances.shape
        shown = [round(height * window.scale), round(width * window.scale)]
        input_size = torch.tensor([shown], dtype=torch.int32, device=device)
        embeddings = model.encode_image(window.image[None].to(device), input_size)
        for start in range(0, len(clicks), prompts_per_call):
            chunk = clicks[start : start + prompts_per_call]
            coords = torch.tensor([click for *_, click in chunk], device=device)
            # (1, P, 1, 2)
            coords = coords[None, :, None] * window.scale
            point_labels = torch.full_like(coords[..., 0], int(PointLabel.FOREGROUND)).int()
            low_res_masks, iou = model.decode_masks(
                embeddings, *model.encode_prompts(embeddings, coords, point_labels)
            )
            masks = to_size(low_res_masks[0, :, :1], model.image_size, max(height, width))
            masks = masks[:, 0, :height, :width]
            for (annotator, label, click), mask, iou_prediction in zip(
                chunk, masks, iou[0, :, 0], strict=True
            ):
                truth = sample.instances == label
                yield OneClickResult(
                    sample.name,
                    label,
                    click,
                    dice_score(mask, truth),
                    iou_score(mask, truth),
                    float(iou_prediction),
                    mask,
                    annotator,
                )


def to_size(low_res_masks: Tensor, image_size: int, side: int) -> BoolMask:
    """Upscale logits to S, then to the square sample, and threshold (SAM's postprocess_masks)."""
    # Two steps, as in SAM: a single one gives other pixels along the border.
    shown = F.interpolate(low_res_masks.float(), (image_size, image_size), mode="bilinear")
    original = F.interpolate(shown, (side, side), mode="bilinear")
    result: BoolMask = (original > MASK_THRESHOLD).cpu().numpy()
    return result
