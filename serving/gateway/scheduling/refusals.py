"""Refusals for lack of room, each with a delay after which a retry is worth its while.

While Triton does not answer at all, the lack of room is its fault, and the service is unavailable.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final, TypeAlias

from cpcsam.grpc_errors import FullError, UnavailableError

__all__ = ["Refusal", "Refusals"]

MIN_RETRY_S: Final = 0.1
AGAIN: Final = "try again in a moment"
Refusal: TypeAlias = FullError | UnavailableError


class Refusals:
    """Maker of refusals that paces retries (leaky bucket).

    A retry comes when there is room, and after those of the requests that were refused before.

    Args:
        max_retry_s: longest delay to suggest.
        is_answering: whether Triton answers.
    """

    def __init__(self, max_retry_s: float, is_answering: Callable[[], bool]) -> None:
        self._is_answering = is_answering
        self._max_retry_s = max_retry_s
        self._next_retry = 0.0

    def full(
        self,
        what: str,
        *,
        got: str,
        expected: str,
        fix: str = AGAIN,
        wait_s: float = 0.0,
        cost_s: float = 0.0,
    ) -> Refusal:
        """Return a refusal.

        Args:
            what: the bound that is exceeded.
            got: what was found.
            expected: what the bound admits.
            fix: what the caller can do.
            wait_s: seconds until there is room.
            cost_s: seconds of Triton that the request takes.
        """
        if not self._is_answering():
            return UnavailableError.of(
                "inference server",
                got=f"no answer, and for {what} {got}",
                expected=expected,
                fix="try again; if it stays away, see its log",
            )
        error = FullError.of(what, got=got, expected=expected, fix=fix)
        now = monotonic()
        earliest = max(self._next_retry + cost_s, now + wait_s, now + MIN_RETRY_S)
        error.retry_s = min(earliest - now, self._max_retry_s)
        self._next_retry = now + error.retry_s
        return error

    def late(self, late_s: float, left_s: float, *, cost_s: float) -> Refusal:
        """Return a refusal of what might be answered after its deadline; see `full`.

        Args:
            late_s: seconds between the deadline and the answer, at the worst.
            left_s: seconds until the deadline.
            cost_s: seconds of Triton that the request takes.
        """
        got = f"an answer in up to {left_s + late_s:.3g} s, as many calls are ahead"
        fix = AGAIN
        if cost_s > left_s:
            got = f"calls that take about {cost_s:.3g} s by themselves"
            fix = "allow more time, or ask for less: fewer prompts, points or tiles"
        return self.full(
            "deadline",
            got=got,
            expected=f"{max(left_s, 0):.3g} s",
            fix=fix,
            wait_s=late_s,
            cost_s=cost_s,
        )

    def no_turn(self, waited_s: float, limit_s: float) -> Refusal:
        """Return a refusal of what got no turn within a limit in seconds."""
        return self.full("queue", got=f"no turn within {waited_s:.3g} s", expected=f"{limit_s:g} s")

    def no_time(self) -> Refusal:
        """Return a refusal of what waited for a turn that leaves time for an answer."""
        return self.full(
            "queue", got="no turn in time", expected="one that leaves time for an answer"
        )
