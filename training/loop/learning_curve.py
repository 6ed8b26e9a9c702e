"""Validation scores of a run, and their drawing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cpcsam.artifacts.manifest import write_atomic

__all__ = ["ValidationScores", "best_of", "draw_learning_curve"]


MARGIN: Final = 0.05
"""Dice that a model must lose on other images, or it has learned nothing of what images show."""


class ValidationScores(NamedTuple):
    """Mean Dice of a click on each validation entity, after a step.

    Attributes:
        step: of the training.
        accurate: by accurate clicks.
        careless: by careless clicks.
        other_images: mean over both with other images under the same masks and clicks; None if
            not measured, as the scores are not better than earlier ones.
    """

    step: int
    accurate: float
    careless: float
    other_images: float | None = None

    @property
    def dice(self) -> float:
        """The validation Dice: the mean over accurate and careless clicks."""
        return (self.accurate + self.careless) / 2


def best_of(validations: Sequence[ValidationScores]) -> ValidationScores:
    """Return the validation of the highest Dice, of equal ones the earliest.

    After the first, which is the base's, only those count that other images cost `MARGIN`.
    """
    base, *trained = validations
    learned = [
        scores
        for scores in trained
        if scores.other_images is not None and scores.dice - scores.other_images >= MARGIN
    ]
    return max((base, *learned), key=lambda scores: scores.dice)


def draw_learning_curve(validations: Sequence[ValidationScores], file: Path) -> None:
    """Draw Dice over steps, with the base's as dashed lines.

    Args:
        validations: the first is the base's.
        file: PNG, replaced atomically.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    steps = [scores.step for scores in validations]
    for name, values in (
        ("accurate clicks", [scores.accurate for scores in validations]),
        ("careless clicks", [scores.careless for scores in validations]),
        ("mean", [scores.dice for scores in validations]),
    ):
        [line] = axes.plot(steps, values, marker=".", label=name)
        axes.axhline(values[0], color=line.get_color(), linestyle="--", linewidth=1)
    best = best_of(validations)
    axes.plot(best.step, best.dice, "k*", markersize=12, label=f"best, step {best.step}")
    axes.set(xlabel="step", ylabel="validation Dice", title="Dashed: the base")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(file, buffer.getvalue())
