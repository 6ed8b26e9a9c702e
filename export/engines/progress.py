"""Progress bars for TensorRT's builder."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from tqdm import tqdm

__all__ = ["progress_monitor"]

SHOWN_DEPTH: Final = 3
"""Depth of nested phases that get a bar; deeper ones end too quickly to be read."""


def progress_monitor(trt: ModuleType, title: str) -> Any:
    """Return an `IProgressMonitor` with a bar for each of the outer phases.

    Args:
        trt: the module `tensorrt`.
        title: prefix of the outermost phase.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.bars: dict[str, tqdm[Any]] = {}
            self.depths: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            depth = self.depths.get(parent, 0) + 1 if parent else 0
            self.depths[phase] = depth
            if depth < SHOWN_DEPTH:
                name = phase if parent else f"{title}: {phase}"
                self.bars[phase] = tqdm(
                    total=steps, desc=name, unit="step", leave=depth == 0, position=depth
                )

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.bars:
                self.bars[phase].update()
            return True

        def phase_finish(self, phase: str) -> None:
            bar = self.bars.pop(phase, None)
            if bar is not None:
                bar.update((bar.total or 0) - bar.n)  # TensorRT may omit the last step of a phase
                bar.close()

    return Monitor()
