"""Command: fetch the official SAM checkpoints, or identify a checkpoint.

Examples:
  python -m training.checkpoints list
  python -m training.checkpoints fetch vit_b
  python -m training.checkpoints fetch vit_h --out /data/sam --url https://mirror.example/sam_h.pth
  python -m training.checkpoints verify weights/sam_vit_b_01ec64.pth

fetch writes NAME.part and renames it when its size and SHA-256 are right; started again after an
interruption, it resumes where it stopped. HTTPS_PROXY is respected.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cpcsam.commands import ArgumentParser, parser_of, run_command
from cpcsam.errors import ArtifactError
from cpcsam.model.official_checkpoints import (
    OFFICIAL,
    OfficialCheckpoint,
    by_file_name,
    identify,
    mismatch,
)
from training.data.download import RESUME, fetch

__all__ = ["fetch", "main", "verify"]

PROG = "python -m training.checkpoints"
INTERRUPTED = 130


def verify(file: Path, official: Mapping[str, OfficialCheckpoint] = OFFICIAL) -> str:
    """Describe a base: an official file by its digest, any other by its layout.

    Args:
        file: a checkpoint file, or an artifact of kind `checkpoint`.
        official: the known files.

    Raises:
        ArtifactError: it cannot be used, or has an official name and other content.
        ConfigError: an image size that the contract does not know.
    """
    from cpcsam.model.base_checkpoint import base_digest, inspect_base  # torch: the rest needs none

    known = identify(file, official) if file.is_file() else None
    if known is not None:
        return f"the official {known.model_size}, sha256 {known.sha256}"
    model_size, image_size = inspect_base(file)
    claimed = by_file_name(file.name, official) if file.is_file() else None
    if claimed is not None:
        raise ArtifactError(
            f"{file}: {mismatch(file, claimed)}, or rename it if it is your own {model_size}"
        )
    return f"{model_size} at {image_size}, not an official file, sha256 {base_digest(file)}"


def _parser(official: Mapping[str, OfficialCheckpoint]) -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetching = commands.add_parser("fetch", help="download one and check its SHA-256")
    fetching.add_argument("name", choices=sorted(official), help="which one")
    fetching.add_argument(
        "--out", type=Path, default=Path("weights"), metavar="DIR", help="default: weights"
    )
    fetching.add_argument("--url", help="another address of the same file")
    verifying = commands.add_parser("verify", help="identify a checkpoint")
    verifying.add_argument("file", type=Path, help="a file, or an artifact of kind checkpoint")
    commands.add_parser("list", help="list the official checkpoints")
    return parser


def main(
    argv: Sequence[str] | None = None, official: Mapping[str, OfficialCheckpoint] = OFFICIAL
) -> int:
    """Run the command on the known files."""

    def work(options: argparse.Namespace) -> int:
        if options.command == "fetch":
            known = official[options.name]
            try:
                file = fetch(known, options.out, options.url)
            except KeyboardInterrupt:
                print(f"{PROG}: interrupted{RESUME}", file=sys.stderr)
                return INTERRUPTED
            print(f"{file}: the official {known.model_size}, sha256 {known.sha256}")
        elif options.command == "verify":
            print(f"{options.file}: {verify(options.file, official)}")
        else:
            for known in official.values():
                print(known.model_size, known.file_name, known.size_bytes, known.sha256, known.url)
        return 0

    return run_command(_parser(official), work, argv)


if __name__ == "__main__":
    sys.exit(main())
