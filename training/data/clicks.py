"""Evaluation clicks: accurate and careless."""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np

from cpcsam.client.prompts import XY
from training.data.prompt_sampling import PromptMix, sample_prompt
from training.data.sample import Sample, entity_labels

__all__ = ["ACCURATE_CLICK", "CARELESS_CLICK", "entity_clicks"]

ACCURATE_CLICK: Final = PromptMix(box=0, several=0, centre=1)
"""On the pixel nearest the centroid."""

CARELESS_CLICK: Final = PromptMix(box=0, several=0, centre=0, wrong=0.5, wrong_reach=5)
"""Half of the clicks anywhere on the entity, half outside it, at most 5 pixels off."""


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
    rng = np.random.default_rng(zlib.crc32(sample.name.encode()))
    clicks = {}
    for label in entity_labels(sample.instances, min_area):
        coords, _ = sample_prompt(sample.instances == label, annotator, rng)
        clicks[int(label)] = (float(coords[0, 0]), float(coords[0, 1]))
    return clicks
