"""Command: check that this machine can serve a repository, and print the folder to serve.

python -m serving.repository /models
tritonserver --model-repository=$(python -m serving.repository /models)

It follows the link to the current version and compares every file with its digest. A TensorRT
engine runs only in the TensorRT and on the GPU architecture that it was built for; another one is
refused here, before Triton starts, by name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.gpu import tensorrt_version, visible_gpus
from serving.triton.check_repository import check_engines, open_repository

__all__ = ["main"]

PROG: Final = "python -m serving.repository"


def _check(path: Path) -> None:
    version, manifest = open_repository(path)
    if manifest.config.get("target") == "gpu":
        check_engines(version, manifest, tensorrt=tensorrt_version(), gpus=visible_gpus())
    print(version)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it can be served, 2 after an error, told in one line."""
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("repository", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    return exit_code_of(lambda: _check(args.repository), PROG)


if __name__ == "__main__":
    sys.exit(main())
