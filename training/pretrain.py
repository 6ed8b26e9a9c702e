"""Command: pretrain the compact base, all of vit_t's weights, class-agnostic, without CaPL.

Example:
  python -m training.pretrain training/configs/pretrain.yaml data.bbbc038=/data/bbbc038v1

Started again after an interruption, it continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cpcsam.commands import parser_of, run_command
from cpcsam.config import load_config
from training.loop.trainer import INTERRUPTED, graceful_stop
from training.pretraining.config import PretrainConfig
from training.pretraining.run import pretrain

__all__ = ["main"]

PROG = "python -m training.pretrain"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("config", type=Path, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the file")
    return run_command(parser, _pretrain, argv)


def _pretrain(options: argparse.Namespace) -> int:
    config = load_config(PretrainConfig, options.config, options.overrides)
    started = time.monotonic()
    with graceful_stop() as interrupted:
        scores = pretrain(config, interrupted)
    if scores is None:
        print(f"{config.run}: stopped; the same command continues")
        return INTERRUPTED
    minutes = (time.monotonic() - started) / 60
    print(
        f"{config.out}: one-click Dice {scores.dice:.4f} on {scores.entities} entities, "
        f"IoU head r = {scores.iou_correlation:.3f}, {minutes:.1f} minutes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
