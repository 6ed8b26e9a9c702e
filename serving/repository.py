"""Command: check that this machine can serve a repository, and print the folder to serve.

python -m serving.repository /models
tritonserver --model-repository=$(python -m serving.repository /models)
tritonserver $(python -m serving.repository /models --memory-pools) ...

It follows the link to the current version and compares every file with its digest. A TensorRT
engine runs only with the TensorRT version and on the GPU architecture that it was built for; any
other is refused here, before Triton starts, with a message that names both.

`--memory-pools` prints options of Triton instead: the sizes of its memory pools for this model, and
without a GPU, that none is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.commands import parser_of, run_command
from cpcsam.gpu import tensorrt_version, visible_gpus
from serving.triton.check_repository import check_engines, open_repository
from serving.triton.memory_pools import memory_pool_options

__all__ = ["main"]

PROG: Final = "python -m serving.repository"


def _check(args: argparse.Namespace) -> None:
    version, manifest = open_repository(args.repository)
    on_gpu = manifest.config.get("target") == "gpu"
    gpus = visible_gpus() if on_gpu else ()
    if args.memory_pools:
        print(*memory_pool_options(int(manifest.config["image_size"]), len(gpus)))
        return
    if on_gpu:
        check_engines(version, manifest, tensorrt=tensorrt_version(), gpus=gpus)
    print(version)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 0 if the repository can be served here."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("repository", type=Path, metavar="DIR")
    text = "print the options of Triton's memory pools, not the folder"
    parser.add_argument("--memory-pools", action="store_true", help=text)
    return run_command(parser, _check, argv)


if __name__ == "__main__":
    sys.exit(main())
