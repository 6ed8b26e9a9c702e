"""Training budgets: limits by optimiser steps and by minutes."""

from __future__ import annotations

from dataclasses import dataclass

from cpcsam.errors import ConfigError

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """Limits of a training run, which ends when either is reached.

    Attributes:
        minutes: training time as the trainer's clock counts it; None sets no limit.
        steps: optimiser steps; None sets no limit.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse training without an end."""
        limits = [limit for limit in (self.minutes, self.steps) if limit is not None]
        if not limits or min(limits) <= 0:
            raise ConfigError.of(
                "budget",
                got=f"minutes {self.minutes} and steps {self.steps}",
                expected="at least one of them, above 0",
                fix="set minutes or steps",
            )

    def progress(self, steps: int, seconds: float) -> float:
        """Return the used share of the budget, by time or by steps, whichever is larger."""
        by_time = seconds / (60 * self.minutes) if self.minutes is not None else 0.0
        return max(by_time, steps / self.steps if self.steps is not None else 0.0)
