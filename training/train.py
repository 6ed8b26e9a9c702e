"""Command: train LoRA, unfrozen parts and CaPL on instance masks by bi-level optimisation (Eq. 4).

Examples:
  python -m training.train training/configs/bbbc038.yaml data.train.bbbc038=/data/bbbc038v1
  python -m training.train training/configs/bbbc038.yaml model.lora.rank=8 bilevel.capl_steps=5
  python -m training.train training/configs/bbbc038.yaml resume=true        after a kill
  python -m training.train training/configs/bbbc038.yaml model.capl=null name=lora_only
  torchrun --nproc-per-node 8 -m training.train training/configs/bbbc038.yaml batch.images=16
  tensorboard --logdir runs                                                 watch the losses
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cpcsam.commands import parser_of, run_command
from cpcsam.config import load_config
from training.bilevel.config import TrainConfig
from training.bilevel.run import TrainResult, train
from training.loop.distributed import is_main, process_group
from training.loop.trainer import INTERRUPTED, graceful_stop

__all__ = ["main"]

PROG = "python -m training.train"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("config", type=Path, help="YAML file, see training/configs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the file")
    return run_command(parser, _train, argv)


def _train(options: argparse.Namespace) -> int:
    config = load_config(TrainConfig, options.config, options.overrides)
    with process_group(), graceful_stop() as interrupted:
        result = train(config, interrupted)
        if is_main():
            _report(config, result)
    return 0 if result.finished else INTERRUPTED


def _report(config: TrainConfig, result: TrainResult) -> None:
    if result.finished:
        print(
            f"{config.folder / 'best'}: validation Dice {result.best_dice:.4f}, base "
            f"{result.base_dice:.4f}, {result.step} steps"
        )
    else:
        print(f"{config.folder}: stopped at step {result.step}; continue with resume=true")


if __name__ == "__main__":
    sys.exit(main())
