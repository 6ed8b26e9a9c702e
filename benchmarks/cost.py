"""Measure the cost of a training step of every strategy, and of LoRA alone.

Examples:
  python -m benchmarks.cost               10 steps of each
  python -m benchmarks.cost --steps 2     a quick look

Every strategy trains in a process of its own, on one thread, on the same batches of the confounded
scenes. A step includes drawing its batch; a warm-up step precedes the first that counts. Times are
CPU seconds of the process, so other programs hardly disturb them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.calibration.arms import SHOTS, Arm
from benchmarks.calibration.runs import prepare
from benchmarks.calibration.splits import read_split
from benchmarks.common.memory import rss_peak_bytes
from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.commands import count, parser_of, run_command
from cpcsam.model.base_checkpoint import base_digest
from cpcsam.model.capl import FULL_CAPL
from reporting.run_report import RunReport, Table, machine_of
from reporting.tables import Cell
from training.bilevel.config import ModelConfig
from training.bilevel.step import BilevelConfig

__all__ = ["STRATEGIES", "Cost", "main", "measure", "report_of"]

PROG = "python -m benchmarks.cost"
SEED = 0
WARM_UP = 1
REFERENCE = "unrolled_1"


def _full(name: str, label: str, **options: Any) -> Arm:
    model = ModelConfig(capl=FULL_CAPL)
    return Arm(name, label, model, bilevel=BilevelConfig(**options))


STRATEGIES = (
    Arm("points", "points that stay or move (default)"),
    _full("capl_first", "CaPL first, first order"),
    _full("unrolled_1", "CaPL first, 1 unrolled step", unroll_steps=1),
    _full("unrolled_5", "CaPL first, 5 unrolled steps", unroll_steps=5),
    _full("sam_first", "SAM first, first order", order="sam_first"),
    _full("capl_5_steps", "5 CaPL steps a round, first order", capl_steps=5),
    Arm("lora", "LoRA alone", ModelConfig(capl=None)),
)


@dataclass(frozen=True)
class Cost:
    """Time and memory of a strategy's steps.

    Attributes:
        name: of the strategy.
        label: for the table.
        step_s: CPU seconds of every step.
        draw_s: CPU seconds of drawing a batch, mean over steps.
        rss_before_mib: peak resident memory before the first step, MiB.
        rss_peak_mib: peak resident memory at the end, MiB.
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
        base: checkpoint that training starts from.
        steps: that count; `WARM_UP` more precede them.
    """
    torch.set_num_threads(1)
    state, batches, bilevel, _ = prepare(arm, read_split(SEED, SHOTS["standard"]), base, SEED)
    # After loading, so that the difference to the end is what training takes.
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
    # A forked child would begin with this process's memory.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure, arm, base, steps).result()


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result."""
    context = result["context"]
    heads = ["strategy", "CPU s a step", "of unrolled, 1 step", "peak MiB", "of it training"]
    rows = [
        [
            row["label"],
            Cell(row["mean_s"], float(np.std(row["step_s"])), len(row["step_s"]), 2),
            Cell(row["ratio"], decimals=2),
            Cell(row["rss_peak_mib"], decimals=0),
            Cell(row["rss_peak_mib"] - row["rss_before_mib"], decimals=0),
        ]
        for row in result["strategies"]
    ]
    note = (
        f"{context['steps']} steps of 2 × 2 windows with 3 entities and 5 prompt groups, in mixed "
        f"precision, {context['machine']}; base `{context['base_sha256'][:12]}`. CPU seconds a "
        "step, mean ± standard deviation over steps; peak resident memory of the process, and the "
        "part of it that training added."
    )
    return RunReport("cost", "Cost of a training step", note, [Table("", heads, rows)])


def _run(args: argparse.Namespace) -> None:
    digest = base_digest(args.base)
    costs = [
        _in_a_process_of_its_own(arm, args.base, args.steps)
        for arm in tqdm(STRATEGIES, desc="strategies")
    ]
    reference = next(cost.mean_s for cost in costs if cost.name == REFERENCE)
    result = {
        "context": {
            "base_sha256": digest,
            "steps": args.steps,
            "machine": f"{machine_of()}, 1 thread",
            "torch": torch.__version__,
            "reference": REFERENCE,
        },
        "strategies": [
            {**asdict(cost), "mean_s": cost.mean_s, "ratio": cost.mean_s / reference}
            for cost in costs
        ],
    }
    write_json(args.out / "cost.json", result)
    publish(report_of(result), args.out / "cost.md", args, digest)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument(
        "--steps", type=count, default=10, metavar="N", help="of each (default: 10)"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT / "cost", metavar="DIR", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
