"""Separate BBBC038v1's stained tissue from its fluorescence, and list the ids of both.

Example:
  python -m benchmarks.stains /data/bbbc038v1 --ids train.txt --out build/stains/train

writes build/stains/train-fluorescence.txt and build/stains/train-tissue.txt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.stains import is_stained
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import parser_of, run_command
from training.data.datasets.instance_folders import read_bbbc038

__all__ = ["main"]

PROG = "python -m benchmarks.stains"


def _run(args: argparse.Namespace) -> None:
    ids = None if args.ids is None else args.root / args.ids
    samples = read_bbbc038(args.root, ids)
    for name, stained in (("fluorescence", False), ("tissue", True)):
        chosen = [sample.name for sample in samples if is_stained(sample) == stained]
        path = args.out.with_name(f"{args.out.name}-{name}.txt")
        write_atomic(path, "".join(f"{line}\n" for line in chosen).encode())
        print(f"{path}: {len(chosen)} images")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of BBBC038v1")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="list of ids in that folder")
    parser.add_argument("--out", type=Path, required=True, metavar="PREFIX", help="of the lists")
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
