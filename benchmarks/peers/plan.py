"""Plan of the measurements: systems, models, rounds and workloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.peers.load.workloads import BOX, EVERYTHING, Workload

__all__ = [
    "CAPACITY",
    "FULL",
    "OFFICIAL",
    "QUICK",
    "SERVED",
    "SYSTEMS",
    "Setting",
    "offered_load",
    "prompt_costs",
    "size_costs",
    "supports",
]

OFFICIAL: Final = "official"
SYSTEMS: Final = {
    OFFICIAL: "SamPredictor, in process",
    "fast": "segment-anything-fast's form, in process",
    "litserve": "LitServe + SamPredictor",
    "onnx": "ONNX Runtime sessions, in process",
    "triton": "Triton alone",
    "gateway": "gateway and Triton",
}
"""Titles of the systems, in the order of a round."""
SERVED: Final = ("litserve", "triton", "gateway")
CAPACITY: Final = "8 clients, new images"
"""Workload whose throughput is the capacity, of which offered loads are shares."""


@dataclass(frozen=True)
class Setting:
    """Measurements of one model.

    Attributes:
        model: vit_t or vit_b.
        rounds: each runs every system once, one after the other.
        compared: workloads whose masks are compared with official SAM's before anything is timed.
        workloads: of every round.
        once: further workloads of the first round.
        second_load: measure the gateway by a second load generator as well.
    """

    model: str
    rounds: int
    compared: Sequence[Workload]
    workloads: Sequence[Workload]
    once: Sequence[Workload] = ()
    second_load: bool = False


def supports(system: str, workload: Workload) -> bool:
    """Whether a system answers such requests at all.

    Triton alone has no automatic masks, and an open loop in process would measure its own queue.
    """
    if workload.kind == EVERYTHING and system == "triton":
        return False
    return not workload.load or system in SERVED


def prompt_costs(prompts: Sequence[int], count: int) -> list[Workload]:
    """Requests of several boxes on a known image."""
    return [
        Workload(f"{n} box{'es' * (n > 1)}, known image", BOX, count, new=False, prompts=n)
        for n in prompts
    ]


def size_costs(sides: Sequence[int], count: int) -> list[Workload]:
    """Requests of a click on a new image of several sizes."""
    return [Workload(f"new image of {n} x {n}", count=count, side=n) for n in sides]


def offered_load(loads: Sequence[float], seconds: float) -> list[Workload]:
    """Open loops of new images at shares of each system's capacity."""
    return [Workload(f"load {100 * load:.0f} %", load=load, seconds=seconds) for load in loads]


NEW: Final = Workload("one click, new image", count=12)
CLICKS: Final = Workload("follow-up clicks, known image", count=20, new=False)
BOXES: Final = Workload("100 boxes, known image", BOX, 3, new=False, prompts=100)
GRID: Final = Workload("everything, grid of 32 x 32", EVERYTHING, prompts=32)
SMALL_GRID: Final = Workload("everything, grid of 16 x 16", EVERYTHING, prompts=16)
MANY: Final = Workload(CAPACITY, count=32, clients=8)
REPEATS: Final = Workload("8 clients, known images", count=120, new=False, clients=8)
COMPARED_CLICKS: Final = Workload("compared clicks", count=8)
KNOWN_CLICKS: Final = Workload("compared clicks", count=4, new=False)
COMPARED_BOXES: Final = Workload("compared boxes", BOX, 1, new=False, prompts=16)
COMPARED_GRID: Final = replace(SMALL_GRID, name="compared grid")

FULL: Final = (
    Setting(
        "vit_t",
        3,
        (COMPARED_CLICKS, COMPARED_BOXES, COMPARED_GRID),
        (NEW, CLICKS, BOXES, GRID, MANY, REPEATS),
        (
            *prompt_costs((1, 4, 16, 64), 5),
            *size_costs((256, 512, 1024, 2048), 5),
            *offered_load((0.25, 0.5, 0.75, 0.95), 8),
        ),
        second_load=True,
    ),
    Setting(
        "vit_b",
        2,
        (KNOWN_CLICKS, COMPARED_BOXES),
        (replace(NEW, count=1), CLICKS, replace(BOXES, count=1)),
        (GRID, replace(MANY, count=8), replace(REPEATS, count=40)),
    ),
)
QUICK: Final = (
    Setting(
        "vit_t",
        2,
        (replace(COMPARED_CLICKS, count=4), COMPARED_BOXES, replace(COMPARED_GRID, prompts=8)),
        (
            replace(NEW, count=4),
            replace(CLICKS, count=10),
            replace(BOXES, count=1),
            replace(MANY, count=8),
            replace(REPEATS, count=24),
        ),
        (
            SMALL_GRID,
            *prompt_costs((1, 16), 3),
            *size_costs((256, 1024), 3),
            *offered_load((0.5, 0.95), 3),
        ),
        second_load=True,
    ),
    Setting(
        "vit_b",
        1,
        (KNOWN_CLICKS,),
        (replace(NEW, count=1), replace(CLICKS, count=5)),
    ),
)
