"""Range checks of configuration values."""

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
    """Raise an error unless a number lies in a range.

    Args:
        name: of the value, for the error.
        value: number to check; NaN lies in no range.
        low: smallest allowed value.
        high: largest allowed value.
        above: exclude `low` itself.
        below: exclude `high` itself.

    Raises:
        ConfigError: the number lies outside of the range.
    """
    if low <= value <= high and not (above and value == low) and not (below and value == high):
        return
    if high == math.inf:
        expected = f"above {low}" if above else f"{low} or more"
    else:
        expected = f"from {'above ' if above else ''}{low} to {'below ' if below else ''}{high}"
    raise ConfigError.of(name, got=value, expected=expected, fix="correct the value")
