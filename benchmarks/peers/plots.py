"""Plots of the report: CPU time over SamPredictor's, and latency over offered load."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from reporting.tables import Cell

__all__ = ["load_plot", "ratio_plot"]


def ratio_plot(bars: Mapping[str, Mapping[str, Cell]]) -> bytes:
    """Plot bars of ratios by workload, a colour for each system, as PNG.

    Args:
        bars: ratio by system, by workload.
    """
    systems = list(dict.fromkeys(system for group in bars.values() for system in group))
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.5 * len(bars)), layout="constrained")
    height = 0.8 / max(len(systems), 1)
    for number, system in enumerate(systems):
        rows = [(row, group[system]) for row, group in enumerate(bars.values()) if system in group]
        axes.barh(
            [row + number * height for row, _ in rows],
            [cell.mean for _, cell in rows],
            height,
            xerr=[cell.std or 0 for _, cell in rows],
            label=system,
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(bars))], list(bars))
    axes.invert_yaxis()
    axes.set_xlabel("CPU time of a request over SamPredictor's")
    axes.legend(fontsize="small")
    return _png(figure)


def load_plot(curves: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Plot the 95th percentile of the latency over the offered load, as PNG.

    Args:
        curves: (requests a second, seconds) by system.
    """
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for system, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=system)
    axes.set(xlabel="offered requests a second", ylabel="95th percentile, seconds")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    return png.getvalue()
