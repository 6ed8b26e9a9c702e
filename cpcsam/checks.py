"""Refuse numbers that a configuration cannot mean."""

from __future__ import annotations

import math

from cpcsam.errors import ConfigError

__all__ = ["require_range"]


def require_range(
    name: str,
    value: float,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse a number outside of a range.

    Args:
        name: of the value, for the error.
        value: what must lie in [low, high]; NaN never does.
        low: smallest.
        high: largest.
        above: `low` itself is refused.
        below: `high` itself is refused.

    Raises:
        ConfigError: it lies outside.
    """
    if low <= value <= high and not (above and value == low) and not (below and value == high):
        return
    if high == math.inf:
        expected = f"above {low}" if above else f"{low} or more"
    else:
        expected = f"from {'above ' if above else ''}{low} to {'below ' if below else ''}{high}"
    raise ConfigError.of(name, got=value, expected=expected, fix="correct the value")
