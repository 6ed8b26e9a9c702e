"""A stage of the GPU measurements, what time it gets, and what its code is given.

The code of a stage is a module with `measure(context)`, which yields records as soon as each is
measured. A record is a flat mapping of plain JSON values. `case` names its row in the report, and
every other key is a column, with its unit at the end: `_ms`, `_gib`, `_tflops`, `_gbps`,
`images_per_s`. The report adds shares of the machine's limits to records with `dtype`, as in
`bfloat16`, and `rate_tflops`, or `tflop` (of an image) and `images_per_s`, and to those with
`moved_gbps` (bytes read and written). What the machine lacks is a record
`{"case": ..., "skipped": "reason"}` and no exception.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

__all__ = ["Stage", "StageContext", "grant"]

LEAST_S: Final = 10.0
"""Below this a stage would hardly load its libraries."""
MIN_REPEATS: Final = 3
MAX_REPEATS: Final = 100
QUICK_REPEATS: Final = 2
TIMED_S: Final = 0.5
"""Seconds that the timed calls of one figure take, unless `repeats` is given."""


@dataclass(frozen=True)
class Stage:
    """A stage of the plan.

    Attributes:
        name: module of its code below `benchmarks.gpu.stages`, and key of its records.
        cap_s: seconds after which its process is killed.
        priority: 1 is the most important; a stage leaves the caps of more important later stages
            untouched.
        help: what it measures, one line.
        module: dotted name of its code, if it lies elsewhere.
    """

    name: str
    cap_s: float
    priority: int
    help: str
    module: str = ""

    @property
    def code(self) -> str:
        """Dotted name of the module with `measure`."""
        return self.module or f"benchmarks.gpu.stages.{self.name}"


def grant(stage: Stage, later: Sequence[Stage], left_s: float) -> float | None:
    """Return the seconds that a stage may take, by cap and priority.

    Args:
        stage: about to start.
        later: still to come; the caps of those of higher priority are kept for them.
        left_s: seconds of the budget that are left.

    Returns:
        At most the stage's cap; None if too little is left to start it.
    """
    kept = sum(other.cap_s for other in later if other.priority < stage.priority)
    granted = min(stage.cap_s, left_s - kept)
    return granted if granted >= min(LEAST_S, stage.cap_s) else None


@dataclass(frozen=True)
class StageContext:
    """Device, limits and input of a stage.

    Attributes:
        device: to measure on.
        quick: small sizes and few repeats, to try the code path; the figures mean nothing.
        deadline: value of `time.monotonic()` by which the stage should end; later it is killed.
        out: existing folder for files, of which the whole run may leave 8.
        images: folder of real images, if given.
        bbbc038: folder of the BBBC038v1 data set, if given.
    """

    device: torch.device
    quick: bool
    deadline: float
    out: Path
    images: Path | None = None
    bbbc038: Path | None = None

    def left_s(self) -> float:
        """Seconds until the deadline, 0 when it has passed."""
        return max(0.0, self.deadline - time.monotonic())

    def synchronize(self) -> None:
        """Wait for the GPU; nothing on the CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(
        self, fn: Callable[[], object], *, warmup: int = 3, repeats: int | None = None
    ) -> float:
        """Return the median seconds of a call, on the GPU's clock or the CPU's wall clock.

        Args:
            fn: issues the work; it need not wait for the GPU.
            warmup: calls before the first that counts, at most one when `quick`.
            repeats: calls that count; None repeats for about half a second.
        """
        for _ in range(min(warmup, 1) if self.quick else warmup):
            fn()
        self.synchronize()
        if repeats is None:
            repeats = self._repeats(fn)
        if self.device.type != "cuda":
            return statistics.median(_wall_s(fn) for _ in range(repeats))
        spans = [(_event(), _event()) for _ in range(repeats)]
        for begin, end in spans:
            begin.record()
            fn()
            end.record()
        self.synchronize()
        return statistics.median(float(begin.elapsed_time(end)) / 1000 for begin, end in spans)

    def peak_memory(self, fn: Callable[[], object]) -> int | None:
        """Return the most bytes that tensors took during a call, or None on the CPU.

        The caching allocator counts them: weights and inputs that lie on the GPU included, the
        context and the libraries' own memory not.
        """
        if self.device.type != "cuda":
            return None
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        fn()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self.device)

    def _repeats(self, fn: Callable[[], object]) -> int:
        if self.quick:
            return QUICK_REPEATS
        begin = time.perf_counter()
        fn()
        self.synchronize()
        once = time.perf_counter() - begin
        return min(max(int(TIMED_S / max(once, 1e-6)), MIN_REPEATS), MAX_REPEATS)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _wall_s(fn: Callable[[], object]) -> float:
    begin = time.perf_counter()
    fn()
    return time.perf_counter() - begin
