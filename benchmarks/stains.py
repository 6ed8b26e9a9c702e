"""Tell BBBC038v1's stained tissue from its fluorescence, and list the ids of either."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, exit_code_of
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import Sample

__all__ = ["is_stained", "main"]

PROG = "python -m benchmarks.stains"
EXAMPLES = """example:
  python -m benchmarks.stains /data/bbbc038v1 --ids train.txt --out build/stains/train

writes build/stains/train-fluorescence.txt and build/stains/train-tissue.txt.
"""
COLOURED = 10
"""Mean difference of an image's strongest and weakest channel, in grey levels."""


def is_stained(sample: Sample) -> bool:
    """Stained tissue is coloured, fluorescence is grey."""
    channels = sample.image.astype(np.int16)
    return float((channels.max(-1) - channels.min(-1)).mean()) > COLOURED


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of BBBC038v1")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="list of ids in that folder")
    parser.add_argument("--out", type=Path, required=True, metavar="PREFIX", help="of the lists")
    options = parser.parse_args(arguments)

    def command() -> None:
        ids = None if options.ids is None else options.root / options.ids
        samples = read_bbbc038(options.root, ids)
        for name, stained in (("fluorescence", False), ("tissue", True)):
            chosen = [sample.name for sample in samples if is_stained(sample) == stained]
            path = options.out.with_name(f"{options.out.name}-{name}.txt")
            write_atomic(path, "".join(f"{one}\n" for one in chosen).encode())
            print(f"{path}: {len(chosen)} images")

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
