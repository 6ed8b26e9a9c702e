r"""Command: train LoRA, unfrozen parts and CaPL on instance masks by bi-level optimisation (Eq. 4).

Examples:
  python -m training.train training/configs/dataset.yaml data.train.dataset=coco data.train.root=DIR
  python -m training.train training/configs/bbbc038.yaml data.train.bbbc038=/data/bbbc038v1
  python -m training.train training/configs/bbbc038.yaml model.capl.reweights=true \
      bilevel.capl_steps=5
  python -m training.train training/configs/bbbc038.yaml resume=true        after a kill
  python -m training.train training/configs/bbbc038.yaml model.capl=null name=lora_only
  torchrun --nproc-per-node 8 -m training.train training/configs/bbbc038.yaml batch.images=16
  tensorboard --logdir runs                                                 watch the losses

With the compact base, two CPU cores take about 3 s a step and half a minute to find the scale:
dataset.yaml needs 10 minutes for up to 7 images (200 steps), 20 for 25 (375 steps) and 75 for 400
(1,500 steps), less where patience ends it. max_minutes=10 ends any run after 10 minutes, with the
learning rate following the clock; progress and remaining time are shown.

The first line says what was read of the training data and what was left out, as
`python -m training.data check` does. The base is validated first and stays `best` until a
validation exceeds it. Exit status: 0 if one did, 3 if none did, 130 after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.commands import parser_of, run_command
from cpcsam.config import load_config
from training.bilevel.config import TrainConfig
from training.bilevel.run import TrainResult, train
from training.loop.distributed import is_main, process_group
from training.loop.trainer import INTERRUPTED, graceful_stop

__all__ = ["KEPT_BASE", "main"]

PROG = "python -m training.train"
KEPT_BASE: Final = 3
"""Exit code of a run that did not beat the base."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("config", type=Path, help="YAML file, see training/configs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the file")
    return run_command(parser, _train, argv)


def _train(options: argparse.Namespace) -> int:
    config = load_config(TrainConfig, options.config, options.overrides)
    with process_group(), graceful_stop() as interrupted:
        result = train(config, interrupted, print)
        if is_main():
            _report(config, result)
    if not result.finished:
        return INTERRUPTED
    return KEPT_BASE if result.best is result.base else 0


def _report(config: TrainConfig, result: TrainResult) -> None:
    best, base = result.best, result.base
    if result.finished and best is base:
        reason = (
            "only models beat that segment other images as well (do the masks belong to them?)"
            if result.learned_nothing
            else "training did not beat"
        )
        print(
            f"{config.folder / 'best'}: the base, validation Dice {base.dice:.4f}, which {reason} "
            f"in {result.step} steps"
        )
    elif result.finished:
        print(
            f"{config.folder / 'best'}: validation Dice {best.dice:.4f} at step {best.step}, base "
            f"{base.dice:.4f}, {result.step} steps"
        )
    else:
        print(f"{config.folder}: stopped at step {result.step}; continue with resume=true")


if __name__ == "__main__":
    sys.exit(main())
