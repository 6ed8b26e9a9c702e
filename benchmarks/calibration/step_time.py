"""Relative time of a training step, measured in turns so that other load slows all arms alike."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.calibration.arms import Arm
from benchmarks.calibration.runs import prepare
from benchmarks.calibration.splits import Split
from cpcsam.artifacts.manifest import write_atomic

__all__ = ["measure_tempo", "steps_of"]

ROUNDS = 8
SEED = 0
LONGEST_TURN = 12
"""Upper bound of a turn's steps, for arms that hardly ever update CaPL."""


def measure_tempo(
    arms: Iterable[Arm], split: Split, base: Path, rounds: int = ROUNDS
) -> dict[str, float]:
    """Measure the arms in turns, on one thread.

    Args:
        arms: with distinct names.
        split: training samples.
        base: checkpoint that training starts from.
        rounds: turns of each, of which the first warms up and does not count.

    Returns:
        CPU seconds a step by name, the median of the rounds; a turn is as many steps as CaPL's
        round has.
    """
    torch.set_num_threads(1)
    prepared = {arm.name: prepare(arm, split, base, SEED) for arm in arms}
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for _ in tqdm(range(rounds), desc="tempo", unit="round"):
        for name, ready in prepared.items():
            turn = range(min(ready.bilevel.capl_every, LONGEST_TURN))
            # Drawn before the clock starts, since budgets count training steps alone.
            drawn = [ready.batches[ready.state.step + step] for step in turn]
            started = time.process_time()
            for halves in drawn:
                ready.state.train_step(halves, ready.bilevel)
            seconds[name].append((time.process_time() - started) / len(drawn))
    return {name: float(torch.tensor(values[1:]).median()) for name, values in seconds.items()}


def steps_of(
    arms: Iterable[Arm], steps: int, reference: Arm, split: Split, base: Path, kept: Path
) -> Mapping[str, int]:
    """Compute the steps of each arm that take the time of `steps` steps of the reference.

    Args:
        arms: any.
        steps: of the reference.
        reference: an arm.
        split: training samples.
        base: checkpoint that training starts from.
        kept: file with the tempo of arms that were measured before; missing arms are measured
            together with the reference and added.
    """
    # Ratios instead of seconds, as they also hold when the machine is busier.
    ratios: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    missing = {arm.name: arm for arm in arms if arm.name not in ratios}
    if missing:
        tempo = measure_tempo([*({reference.name: reference} | missing).values()], split, base)
        ratios |= {name: tempo[name] / tempo[reference.name] for name in missing}
        write_atomic(kept, (json.dumps(ratios, indent=2) + "\n").encode())
    return {arm.name: max(1, round(steps / ratios[arm.name])) for arm in arms}
