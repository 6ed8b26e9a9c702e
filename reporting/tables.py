"""Markdown tables, whose cells show rounded figures and keep them in full precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = [
    "Cell",
    "Interval",
    "interval_of",
    "markdown_table",
    "mean_cell",
    "paired_interval",
    "parts_of",
    "shown",
]


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation over seeds.

    Attributes:
        mean: over seeds.
        std: sample standard deviation; None for one seed.
        seeds: number of seeds; 0 if the figure is cited or there are no seeds.
        decimals: shown.
    """

    mean: float
    std: float | None = None
    seeds: int = 0
    decimals: int = 1

    def __str__(self) -> str:
        """`82.2 ± 1.0`, or without the deviation."""
        spread = "" if self.std is None else f" ± {self.std:.{self.decimals}f}"
        return f"{self.mean:.{self.decimals}f}{spread}"


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences and its 95 % confidence interval.

    Attributes:
        mean: of the differences.
        low: lower bound; None for one difference.
        high: upper bound; None for one difference.
        unpaired: text that follows the mean of one difference.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    unpaired: str = " (one seed)"

    def __str__(self) -> str:
        """`+13.1 [+11.3, +14.8]`."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.1f}{self.unpaired}"
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def interval_of(values: Sequence[float], unpaired: str = " (one seed)") -> Interval:
    """Make an interval of what `paired_interval` returns."""
    mean, *bounds = values
    low, high = bounds or (None, None)
    return Interval(mean, low, high, unpaired)


def mean_cell(values: Sequence[float], decimals: int = 1) -> Cell:
    """Mean and sample standard deviation of values, each of another seed."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Cell(float(np.mean(values)), std, len(values), decimals)


def paired_interval(differences: Sequence[float]) -> list[float]:
    """Mean and 95 % interval (Student's t) of paired differences; of a single one the mean."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return [mean]
    # Student's t, since the normal quantile is too small for a handful of seeds.
    half = float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))
    return [mean, mean - half, mean + half]


def shown(value: object) -> str:
    """Text of a cell; a dash if there is no figure."""
    return "–" if value is None else str(value)


def parts_of(value: object) -> dict[str, object]:
    """Figures of a cell in full precision, by the suffix of their column's name."""
    if isinstance(value, Cell) and (value.seeds or value.std is not None):
        named = {"mean": value.mean, "std": value.std, "seeds": value.seeds or None}
    elif isinstance(value, Interval):
        named = {"mean": value.mean, "low": value.low, "high": value.high}
    else:
        return {} if value is None else {"": value.mean if isinstance(value, Cell) else value}
    return {suffix: part for suffix, part in named.items() if part is not None}


def markdown_table(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Render a table, one line a row.

    `DataFrame.to_markdown` pads every cell to the width of its column, so that one changed figure
    changes every line of a committed report.

    Args:
        heads: titles of the columns.
        rows: cells, as many as there are titles.
    """
    lines = [heads, ["---"] * len(heads), *([shown(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
