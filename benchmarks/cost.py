"""Measure what a training step costs in every strategy, and by LoRA alone."""

from __future__ import annotations

import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.calibration.arms import SHOTS, Arm
from benchmarks.calibration.runs import prepare, read_split
from benchmarks.micro.memory import rss_peak_bytes
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, count, exit_code_of
from cpcsam.model.base_checkpoint import base_digest
from training.bilevel.model_config import ModelConfig
from training.bilevel.step import BilevelConfig

__all__ = ["STRATEGIES", "Cost", "main", "measure"]

PROG = "python -m benchmarks.cost"
EXAMPLES = """examples:
  python -m benchmarks.cost               10 steps of each
  python -m benchmarks.cost --steps 2     a quick look

Every strategy trains in a process of its own, on one thread, on the same batches of the confounded
scenes. A step counts all of its work, drawing its batch included; one step before the first that
counts warms up. Times are CPU seconds of the process, so other programs hardly disturb them.
"""
SEED = 0
WARM_UP = 1
REFERENCE = "unrolled_1"

STRATEGIES = (
    Arm("capl_first", "CaPL first, first order (default)"),
    Arm("unrolled_1", "CaPL first, 1 unrolled step", bilevel=BilevelConfig(unroll_steps=1)),
    Arm("unrolled_5", "CaPL first, 5 unrolled steps", bilevel=BilevelConfig(unroll_steps=5)),
    Arm("sam_first", "SAM first, first order", bilevel=BilevelConfig(order="sam_first")),
    Arm("capl_5_steps", "5 CaPL steps a round, first order", bilevel=BilevelConfig(capl_steps=5)),
    Arm("lora", "LoRA alone", ModelConfig(capl=None)),
)


@dataclass(frozen=True)
class Cost:
    """What the steps of one strategy took.

    Attributes:
        name: of the strategy.
        label: for the table.
        step_s: CPU seconds of every step.
        draw_s: CPU seconds of it that drew the batch, mean over steps.
        rss_before_mib: peak resident memory before the first step, mebibytes.
        rss_peak_mib: at the end.
    """

    name: str
    label: str
    step_s: tuple[float, ...]
    draw_s: float
    rss_before_mib: float
    rss_peak_mib: float

    @property
    def mean_s(self) -> float:
        """CPU seconds a step."""
        return float(np.mean(self.step_s))


def measure(arm: Arm, base: Path, steps: int) -> Cost:
    """Train for some steps in this process, on one thread, as `benchmarks.calibration` does.

    Args:
        arm: the strategy.
        base: where training starts.
        steps: that count; `WARM_UP` more come before them.
    """
    torch.set_num_threads(1)
    state, batches, bilevel, _ = prepare(arm, read_split(SEED, SHOTS["standard"]), base, SEED)
    before, step_s, draw_s = rss_peak_bytes() / 2**20, [], []
    for step in range(WARM_UP + steps):
        started = time.process_time()
        halves = batches[step]
        drawn = time.process_time()
        state.train_step(halves, bilevel)
        step_s.append(time.process_time() - started)
        draw_s.append(drawn - started)
    return Cost(
        arm.name,
        arm.label,
        tuple(step_s[WARM_UP:]),
        float(np.mean(draw_s[WARM_UP:])),
        before,
        rss_peak_bytes() / 2**20,
    )


def _in_a_process_of_its_own(arm: Arm, base: Path, steps: int) -> Cost:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure, arm, base, steps).result()


def _table(costs: Sequence[Cost]) -> list[str]:
    reference = next(cost.mean_s for cost in costs if cost.name == REFERENCE)
    lines = [
        "| strategy | CPU s a step | of unrolled, 1 step | peak MiB | of it training |",
        "|---|---|---|---|---|",
    ]
    for cost in costs:
        lines.append(
            f"| {cost.label} | {cost.mean_s:.2f} ± {float(np.std(cost.step_s)):.2f} "
            f"| {cost.mean_s / reference:.2f} | {cost.rss_peak_mib:.0f} "
            f"| {cost.rss_peak_mib - cost.rss_before_mib:.0f} |"
        )
    return lines


def _write_report(costs: Sequence[Cost], base: Path, steps: int, out: Path) -> str:
    reference = next(cost.mean_s for cost in costs if cost.name == REFERENCE)
    machine, digest = f"{platform.machine()}, 1 thread", base_digest(base)
    context = {
        "base_sha256": digest,
        "steps": steps,
        "machine": machine,
        "torch": torch.__version__,
        "reference": REFERENCE,
    }
    rows = [
        {**asdict(cost), "mean_s": cost.mean_s, "ratio": cost.mean_s / reference} for cost in costs
    ]
    lines = [
        f"{steps} steps of 2 × 2 windows with 3 entities and 5 prompt groups, in mixed precision, "
        f"{machine}; base `{digest[:12]}`. CPU seconds a step, mean ± standard "
        "deviation over steps; peak resident memory of the process, and how much of it training "
        "added.",
        "",
        *_table(costs),
    ]
    markdown = "\n".join(lines) + "\n"
    report = {"context": context, "strategies": rows}
    write_atomic(out / "cost.json", (json.dumps(report, indent=2) + "\n").encode())
    write_atomic(out / "cost.md", markdown.encode())
    return markdown


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument(
        "--steps", type=count, default=10, metavar="N", help="of each (default: 10)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cost"), metavar="DIR")
    options = parser.parse_args(arguments)

    def command() -> None:
        base_digest(options.base)  # a missing base is refused here, not by the first process
        costs = [
            _in_a_process_of_its_own(arm, options.base, options.steps)
            for arm in tqdm(STRATEGIES, desc="strategies")
        ]
        print(_write_report(costs, options.base, options.steps, options.out), end="")

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
