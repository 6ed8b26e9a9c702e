"""Train LoRA, the unfrozen parts and CaPL on instance masks, by bi-level optimisation (Eq. 4)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.config import load_config
from training.loop.config import TrainConfig
from training.loop.distributed import is_main, process_count, process_group
from training.loop.trainer import TrainResult, train

__all__ = ["main"]

PROG = "python -m training.train"
EXAMPLES = """examples:
  python -m training.train training/configs/bbbc038.yaml data.train.bbbc038=/data/bbbc038v1
  python -m training.train training/configs/bbbc038.yaml model.lora.rank=8 bilevel.capl_steps=5
  python -m training.train training/configs/bbbc038.yaml resume=true        after a kill
  python -m training.train training/configs/bbbc038.yaml model.capl=null name=lora_only
  torchrun --nproc-per-node 8 -m training.train training/configs/bbbc038.yaml batch.images=16
  tensorboard --logdir runs                                                 watch the losses
"""
INTERRUPTED = 130


@contextmanager
def _graceful_stop() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a question that is answered with yes.

    A second one ends a lone process at once. One of several may get the same signal twice, from
    the scheduler and through torchrun, so there it is no sign of impatience.
    """
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        received.append(number)
        if process_count() == 1:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("config", type=Path, help="YAML file, see training/configs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the file")
    options = parser.parse_args(arguments)
    results: list[TrainResult] = []

    def command() -> None:
        config = load_config(TrainConfig, options.config, options.overrides)
        with process_group(), _graceful_stop() as interrupted:
            results.append(train(config, interrupted))
            if is_main():
                _report(config, results[0])

    code = exit_code_of(command, PROG)
    return INTERRUPTED if results and not results[0].finished else code


def _report(config: TrainConfig, result: TrainResult) -> None:
    if result.finished:
        print(
            f"{config.folder / 'best'}: validation Dice {result.best_dice:.4f}, base "
            f"{result.base_dice:.4f}, {result.step} steps"
        )
    else:
        print(f"{config.folder}: stopped at step {result.step}; go on with resume=true")


if __name__ == "__main__":
    sys.exit(main())
