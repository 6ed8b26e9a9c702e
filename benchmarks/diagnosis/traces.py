"""Traces of a model that answers careless prompts: Dice, attention, moved points and biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.calibration.runs import PromptedSample, prompt_sample, scores_of
from cpcsam.contract import PATCH_SIZE, PointLabel
from cpcsam.model.decoder import DecoderTrace
from cpcsam.model.point_calibration import sample_embeddings
from cpcsam.model.sam import CpcSam
from training.bilevel.losses import IOU_TOKENS, area_average
from training.data.prompt_sampling import accurate_points
from training.data.sample import Sample

__all__ = ["Answers", "answers_of", "clicks_of"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Answers of a model to the careless prompts of some samples, a row for each prompt.

    Attributes:
        dice: (n,) of mask 0.
        clicked: (n,) bool, the prompt begins with a click, not with a box.
        missed: (n,) bool, and that is not on the entity.
        inside: (n,) share of mask 0's token→image attention that is on the entity, averaged over
            heads and layers.
        covered: (n,) share of the image that the entity covers, which uniform attention would give.
        off: (n,) pixels from the first point to that of an accurate annotator.
        off_moved: (n,) the same after CaPL moved the point.
        change: (n,) ‖P̃ − P‖ / ‖P‖ of the first point, P taken after the move; 0 without a task
            module.
        bias: (n,) mean |C| of the token→image attentions; 0 without an entity module.
    """

    dice: Array
    clicked: NDArray[np.bool_]
    missed: NDArray[np.bool_]
    inside: Array
    covered: Array
    off: Array
    off_moved: Array
    change: Array
    bias: Array


@torch.no_grad()
def answers_of(model: CpcSam, samples: Sequence[Sample], strength: float) -> Answers:
    """Prompt a model carelessly and trace its decoder.

    Args:
        model: in evaluation mode.
        samples: square samples.
        strength: of the annotators' carelessness.
    """
    rows = [_trace(model, prompt_sample(sample, model.image_size, strength)) for sample in samples]
    return Answers(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _trace(model: CpcSam, prompted: PromptedSample) -> tuple[NDArray[Any], ...]:
    size = torch.full((1, 2), model.image_size, dtype=torch.int32)
    embeddings = model.encode_image(prompted.image, size)
    places = model.calibrate_points(embeddings, prompted.point_coords, prompted.point_labels)
    sparse, token_mask = model.encode_points(embeddings, places, prompted.point_labels)
    trace = DecoderTrace()
    masks, _ = model.decode_masks(embeddings, sparse, token_mask, None, trace)
    dice = np.array(scores_of(masks, prompted, model.image_size))
    # (layers, P, G·G), of mask 0's token, which follows the IoU token.
    maps = torch.stack([layer[0, :, :, IOU_TOKENS].mean(1) for layer in trace.attention_maps])
    cells = area_average(torch.from_numpy(prompted.shown), round(maps.shape[-1] ** 0.5)).flatten(1)
    first = prompted.point_labels[0, :, 0].tolist()
    wanted = torch.from_numpy(
        np.stack([accurate_points(m)[kind] for m, kind in zip(prompted.shown, first, strict=True)])
    )
    off = [(coords[0, :, 0] - wanted).norm(dim=-1) for coords in (prompted.point_coords, places)]
    plain = model.embed_points(places, prompted.point_labels)[0, :, 0]
    change = (sparse[0, :, 0] - plain).norm(dim=-1) / plain.norm(dim=-1)
    biases = [bias[0].abs().mean((1, 2, 3)) for bias in trace.token_to_image_biases]
    return (
        dice,
        *_first_clicks(prompted),
        (maps.mean(0) * cells).sum(-1).numpy(),
        cells.mean(-1).numpy(),
        *(distance.numpy() for distance in off),
        change.numpy(),
        (torch.stack(biases).mean(0) if biases else torch.zeros(len(dice))).numpy(),
    )


@torch.no_grad()
def clicks_of(model: CpcSam, samples: Sequence[Sample]) -> tuple[Array, NDArray[np.bool_]]:
    """Embed careless first clicks and their surroundings, the task module's possible inputs.

    Returns:
        (n, 1536): P, e(x), and e(x) a cell to the left, right, top and bottom; and (n,) bool,
        True if the click missed.
    """
    step = PATCH_SIZE * torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
    size = torch.full((1, 2), model.image_size, dtype=torch.int32)
    features, missed = [], []
    for sample in samples:
        prompted = prompt_sample(sample, model.image_size, 1.0)
        clicks, misses = _first_clicks(prompted)
        # (clicks, 2), of the first slot
        points = prompted.point_coords[0, clicks, 0]
        around = sample_embeddings(
            model.encode_image(prompted.image, size), (points[:, None] + step)[None]
        )[0]
        tokens = model.embed_points(prompted.point_coords, prompted.point_labels)[0, clicks, 0]
        features.append(torch.cat([tokens, around.flatten(1)], 1).double().numpy())
        missed.append(misses[clicks])
    return np.concatenate(features), np.concatenate(missed)


def _first_clicks(prompted: PromptedSample) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Prompts that begin with a click, and those whose click misses the entity; (P,) bool each."""
    side = prompted.shown.shape[-1]
    clicks = prompted.point_labels[0, :, 0].numpy() == PointLabel.FOREGROUND
    x, y = prompted.point_coords[0, :, 0].numpy().round().astype(int).clip(0, side - 1).T
    return clicks, clicks & ~prompted.shown[np.arange(len(x)), y, x]
