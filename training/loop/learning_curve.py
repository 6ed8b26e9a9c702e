"""Validation scores of a run, and their drawing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cpcsam.artifacts.manifest import write_atomic

__all__ = ["ValidationScores", "best_of", "draw_learning_curve"]


class ValidationScores(NamedTuple):
    """Mean Dice of a click on each validation entity, after a step."""

    step: int
    accurate: float
    careless: float

    @property
    def dice(self) -> float:
        """The validation Dice: the mean over accurate and careless clicks."""
        return (self.accurate + self.careless) / 2


def best_of(validations: Sequence[ValidationScores]) -> ValidationScores:
    """Return the validation of the highest Dice, of equal ones the earliest."""
    return max(validations, key=lambda scores: scores.dice)


def draw_learning_curve(validations: Sequence[ValidationScores], file: Path) -> None:
    """Draw Dice over steps, with the base's as dashed lines.

    Args:
        validations: the first is the base's.
        file: PNG, replaced atomically.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
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
