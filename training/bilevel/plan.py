"""Plan of a run: what its configuration leaves to the data."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.model.base_checkpoint import load_base
from cpcsam.scale import Scale
from training.bilevel.config import TrainConfig
from training.data.sample import Sample
from training.evaluation.scale_search import WindowScore, best_window, score_windows
from training.loop.distributed import all_gather, is_main, training_device

__all__ = ["planned", "steps_for"]


def steps_for(images: int) -> int:
    """Return a number of steps that suits a number of training images."""
    return int(min(3000, max(200, 75 * math.sqrt(images))))


def planned(config: TrainConfig, samples: Sequence[Sample], *, resumed: bool) -> TrainConfig:
    """Settle the number of steps and the scale if the configuration leaves them open.

    Args:
        config: the run.
        samples: the training images.
        resumed: whether the run goes on, at the scale that its manifest declares.

    Raises:
        ArtifactError: the base or the manifest cannot be read.
        DataError: an image cannot be read.
    """
    if config.steps is None:
        config = replace(config, steps=steps_for(len(samples)))
    if not config.find_scale:
        return config
    if resumed:
        recorded = Scale.of_manifest(read_manifest(config.folder / "best", "run").config)
        return config if recorded is None else replace(config, scale=recorded)
    scores: list[WindowScore] = []
    if is_main():
        base = load_base(config.model.base, image_size=config.model.image_size)
        scores = score_windows(base.to(training_device()).eval(), samples, config.data.min_area)
    # The other processes wait here for the main one's.
    scores = all_gather(scores)
    window = best_window(scores)
    if is_main():
        found = f"windows of {window} pixels" if window else "whole images"
        shown = ", ".join(f"{score.window or 'whole'} {score.dice:.3f}" for score in scores)
        sys.stderr.write(f"scale: {found}, by the base's Dice on training images ({shown})\n")
    return replace(config, scale=replace(config.scale, window=window))
