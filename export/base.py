"""Command: export the shipped base, without a run, and publish it as a Triton model repository.

python -m export.base --out build/repository
python -m export.base --out build/repository --if-missing

It merges weights/vit_t, converts it to ONNX, compares the graphs with torch and publishes them, as
`make export` does for a run. The steps' artifacts are kept in build/base. With --if-missing a
repository that has a version stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.artifacts.versions import current_version
from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ExportError

__all__ = ["BASE", "main"]

PROG: Final = "python -m export.base"
BASE: Final = Path("weights/vit_t")
STEPS: Final = Path("build/base")


def _run(args: argparse.Namespace) -> None:
    if args.if_missing and current_version(args.out) is not None:
        print(f"{args.out}: exists")
        return
    # torch takes seconds to import, which most starts of the service need not wait for.
    from export import merge, repository, to_onnx

    merged, graphs = str(args.steps / "merged"), str(args.steps / "onnx")
    print(f"{args.out}: the base {args.base} is exported once, in about two minutes", flush=True)
    for title, command, words in (
        ("1/3 merge", merge, ["--base", str(args.base), "--out", merged]),
        ("2/3 convert and compare", to_onnx, ["--merged", merged, "--out", graphs]),
        ("3/3 publish", repository, ["publish", "--onnx", graphs, "--out", str(args.out)]),
    ):
        print(f"── {title}", flush=True)
        if command.main(words):
            raise ExportError.of(
                title, got="a failure", expected="success", fix="see the message above"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the repository")
    parser.add_argument(
        "--base", type=Path, metavar="PATH", default=BASE, help="the base (%(default)s)"
    )
    text = "folder of the merged model and its graphs (%(default)s)"
    parser.add_argument("--steps", type=Path, metavar="DIR", default=STEPS, help=text)
    text = "do nothing where the repository has a version"
    parser.add_argument("--if-missing", action="store_true", help=text)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
