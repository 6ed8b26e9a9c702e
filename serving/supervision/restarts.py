"""Restarts and switches: the backoff of restarts, and counts, which the gateway's metrics show.

The counts are a file in memory with a line for each restart, `PROGRAM CAUSE`, which the gateway
inherits and reads when it is scraped; so the counts outlive the gateway. Switches of the model's
version are lines likewise, `version OUTCOME`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final

__all__ = ["CAUSES", "SWITCHES", "Backoff", "RestartLog", "count_restarts", "count_switches"]

CAUSES: Final = (
    ("gateway", "exit"),
    ("gateway", "silence"),
    ("http", "exit"),
    ("http", "silence"),
    ("triton", "exit"),
    ("triton", "inference"),
    ("triton", "start"),
    ("triton", "step"),
)
"""Programs and what they are restarted for: their end, an event loop that
stands still, a dead step, inference that fails or stands
still, and a start that failed."""
SWITCHES: Final = ("switched", "refused")
"""Outcomes of a switch to another version of the model."""
VERSION: Final = "version"
FIRST_S: Final = 0.25
LONGEST_S: Final = 30.0
STEADY_S: Final = 60.0


class Backoff:
    """Delays before restarts: none, then 0.25 s, doubled up to 30 s until a run lasts a minute."""

    def __init__(self) -> None:
        self._short_runs = 0

    def delay_s(self, ran_s: float) -> float:
        """Return the seconds to wait before the next start.

        Args:
            ran_s: how long the process that has ended was healthy; 0 if it did not start.
        """
        if ran_s >= STEADY_S:
            self._short_runs = 0
        self._short_runs += 1
        if self._short_runs == 1:
            return 0.0
        # The exponent is bounded, as a float is.
        return min(LONGEST_S, FIRST_S * 2.0 ** min(self._short_runs - 2, 16))


class RestartLog:
    """List of restarts, to which several threads may add.

    Attributes:
        descriptor: of its file, for children to inherit.
        path: of its file, in those children.
    """

    def __init__(self) -> None:
        self.descriptor: Final = os.memfd_create("restarts")
        self.path: Final = Path(f"/dev/fd/{self.descriptor}")

    def add(self, program: str, cause: str) -> None:
        """Add a restart; program and cause are a pair of `CAUSES`."""
        os.write(self.descriptor, f"{program} {cause}\n".encode())

    def add_switch(self, outcome: str) -> None:
        """Add a switch to another version of the model; the outcome is one of `SWITCHES`."""
        self.add(VERSION, outcome)


def count_restarts(path: Path | None) -> dict[tuple[str, str], int]:
    """Count restarts by program and cause.

    Args:
        path: of a `RestartLog`; None if nothing supervises, and all counts are 0.

    Raises:
        OSError: there is no such file.
    """
    found = _count(path)
    return {pair: found[pair] for pair in CAUSES}


def count_switches(path: Path | None) -> dict[str, int]:
    """Count switches by outcome; see `count_restarts`."""
    found = _count(path)
    return {outcome: found[VERSION, outcome] for outcome in SWITCHES}


def _count(path: Path | None) -> Counter[tuple[str, str]]:
    lines = [] if path is None else path.read_text().splitlines()
    return Counter((program, cause) for program, cause in map(str.split, lines))
