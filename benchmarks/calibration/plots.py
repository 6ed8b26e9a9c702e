"""Plots of `benchmarks.calibration`: Dice by prompt noise, and over training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.calibration.arms import CORE

__all__ = ["curve_plot", "noise_plot"]

Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]


def noise_plot(runs: Runs, title: str) -> bytes:
    """Plot Dice on target classes by the strength of prompt noise, mean ± deviation, as PNG.

    Args:
        runs: by arm and seed.
        title: of the plot.
    """
    figure, axes = _axes()
    for arm in CORE:
        if arm.name in runs:
            levels = sorted(next(iter(runs[arm.name].values()))["target"], key=float)
            dice = np.array(
                [
                    [100 * run["target"][level] for level in levels]
                    for run in runs[arm.name].values()
                ]
            )
            places = [float(level) for level in levels]
            axes.errorbar(places, dice.mean(0), dice.std(0), marker="o", capsize=3, label=arm.label)
    axes.set(xlabel="strength of prompt noise", ylabel="Dice on target classes (%)", title=title)
    return _png(figure, axes)


def curve_plot(runs: Runs, title: str) -> bytes | None:
    """Plot Dice on base and target classes over the training of seed 0, as PNG.

    Args:
        runs: by arm and seed.
        title: of the plot.

    Returns:
        None if no run has a curve.
    """
    curves = {
        arm: runs[arm.name][0]["curve"]
        for arm in CORE
        if runs.get(arm.name, {}).get(0, {}).get("curve")
    }
    if not curves:
        return None
    figure, axes = _axes()
    for index, (arm, points) in enumerate(curves.items()):
        progress = [100 * point["progress"] for point in points]
        for kind, style in (("base", ":"), ("target", "-")):
            values = [100 * point[kind] for point in points]
            label = arm.label if kind == "target" else None
            axes.plot(progress, values, style, color=f"C{index}", marker=".", label=label)
    axes.set(xlabel="share of training (%)", ylabel="Dice (%): target solid, base dotted")
    axes.set_title(title)
    return _png(figure, axes)


def _axes() -> tuple[Figure, Axes]:
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    return figure, axes


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.legend(fontsize=7)
    png = io.BytesIO()
    # Matplotlib's version would make equal plots differ in their bytes.
    figure.savefig(png, dpi=120, format="png", metadata={"Software": None})
    plt.close(figure)
    return png.getvalue()
