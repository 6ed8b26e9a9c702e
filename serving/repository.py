"""Command: check that this machine can serve a repository, and print the folder to serve.

python -m serving.repository /models
tritonserver --model-repository=$(python -m serving.repository /models)
tritonserver $(python -m serving.repository /models --memory-pools) ...

It follows the link to the current version and compares every file with its digest. A TensorRT
engine runs only with the TensorRT version and on the GPU architecture that it was built for; any
other is refused here, before Triton starts, with a message that names both. So is a repository for
ONNX Runtime's CUDA provider where there is no GPU.

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
from serving.triton.check_repository import check_machine, open_repository
from serving.triton.memory_pools import memory_pool_options

__all__ = ["main"]

PROG: Final = "python -m serving.repository"


def _check(args: argparse.Namespace) -> None:
    version, manifest = open_repository(args.repository)
    target = manifest.config.get("target")
    gpus = visible_gpus() if target in ("cuda", "gpu") else ()
    if args.memory_pools:
        image_size = int(manifest.config["image_size"])
        print(*memory_pool_options(image_size, len(gpus), engines=target == "gpu"))
        return
    tensorrt = tensorrt_version() if target == "gpu" else None
    check_machine(version, manifest, tensorrt=tensorrt, gpus=gpus)
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
