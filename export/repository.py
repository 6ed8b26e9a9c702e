"""Command: publish versions of the Triton model repository, list, verify and roll back.

python -m export.repository publish --onnx build/onnx --out build/repository
python -m export.repository publish --onnx build/onnx --clip build/clip --out build/repository
python -m export.repository publish --onnx build/onnx --provider cuda --out build/repository-cuda
python -m export.repository publish --engines build/engines --out build/repository-gpu
python -m export.repository publish --onnx build/onnx --out build/repository --no-switch
python -m export.repository list build/repository
python -m export.repository verify build/repository
python -m export.repository switch build/repository --to 3
python -m export.repository rollback build/repository
python -m export.repository rollback build/repository --to 3
python -m export.repository configs model_repository

Each version is a complete repository, so that all its models change together. `serving.serve`
follows the current version while it runs: it starts another Triton with it, compares its answers
with those that are published with the version, and then moves its clients there. The last form
regenerates the committed trees after a change of the contract.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import MANIFEST_NAME, read_manifest
from cpcsam.artifacts.versions import CURRENT, current_version, list_versions, roll_back
from cpcsam.backends.onnx_backend import PROVIDERS
from cpcsam.commands import ArgumentParser, parser_of, run_command
from cpcsam.errors import ArtifactError, ConfigError
from export.provenance import COMPARED_IN
from export.triton_repository.config import Target
from export.triton_repository.publishing import KIND, build_repository, write_configs

__all__ = ["main"]

PROG: Final = "python -m export.repository"
COMPARED_ON_GPU: Final = "compared with torch in the CUDA provider, within tolerance"
NOT_COMPARED: Final = (
    "not compared with torch in the CUDA provider, as the graphs were exported without it; where "
    "there is a GPU: python -m export.compare --provider cuda"
)


def _parser() -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    action = actions.add_parser("publish", help="add a version and make it the current one")
    graphs = action.add_mutually_exclusive_group(required=True)
    graphs.add_argument("--onnx", type=Path, metavar="DIR", help="graphs for ONNX Runtime")
    graphs.add_argument("--engines", type=Path, metavar="DIR", help="TensorRT plans for the GPU")
    action.add_argument("--out", type=Path, metavar="DIR", required=True, help="the repository")
    action.add_argument(
        "--threads", type=int, default=0, help="of each graph on the CPU; default: all cores"
    )
    text = "that runs the graphs of --onnx; default: cpu"
    action.add_argument("--provider", choices=PROVIDERS, help=text)
    text = "graphs that the engines were built of, whose answers a server compares with its own"
    action.add_argument("--golden", type=Path, metavar="DIR", help=f"{text} (--onnx)")
    text = "towers of export.text_encoder, for classes by text"
    action.add_argument("--clip", type=Path, metavar="DIR", help=text)
    text = "publish no answers, so that a server cannot compare its own"
    action.add_argument("--no-golden", action="store_true", help=text)
    text = "leave the current version, if there is any, as it is"
    action.add_argument("--no-switch", action="store_true", help=text)
    action.set_defaults(run=_publish)

    for name, run, purpose in (
        ("list", _list, "list the versions; * marks the current one"),
        ("verify", _verify, "compare every version with its digests"),
        ("switch", _switch, "make a version the current one"),
        ("rollback", _switch, "make an earlier version the current one"),
    ):
        action = actions.add_parser(name, help=purpose)
        action.add_argument("repository", type=Path, metavar="DIR")
        action.set_defaults(run=run)
        if run is _switch:
            is_back = name == "rollback"
            text = "default: the one before" if is_back else "its number"
            action.add_argument(
                "--to", type=int, metavar="VERSION", required=not is_back, help=text
            )

    action = actions.add_parser("configs", help="regenerate the committed trees")
    action.add_argument("trees", type=Path, metavar="DIR")
    action.set_defaults(run=lambda args: write_configs(args.trees))
    return parser


def _publish(args: argparse.Namespace) -> None:
    target: Target = "gpu"
    if args.onnx:
        target = args.provider or "cpu"
    elif args.provider:
        raise ConfigError.of(
            "--provider",
            got=f"{args.provider} with --engines",
            expected="--onnx, whose graphs a provider runs",
            fix="leave one of them out",
        )
    before = list_versions(args.out)
    version = build_repository(
        args.onnx or args.engines,
        args.out,
        target=target,
        threads=args.threads,
        golden=None if args.no_golden else args.golden or args.onnx,
        clip=args.clip,
        switch=not args.no_switch,
    )
    number = int(version.name)
    state = "current" if number == current_version(args.out) else "published"
    print(f"{version}: {state}{', unchanged' if number in before else ''}")
    if target == "cuda":
        compared = read_manifest(version, verify=False).config.get(COMPARED_IN) == target
        print(f"{version}: {COMPARED_ON_GPU if compared else NOT_COMPARED}")


def _list(args: argparse.Namespace) -> None:
    current = current_version(args.repository)
    print(
        f"  {'version':8} {'made':16} {'target':6} {'model':6} {'size':>5} {'precision':9} graphs"
    )
    for number, path in _versions(args.repository).items():
        manifest = read_manifest(path, KIND, verify=False)
        made = datetime.fromtimestamp((path / MANIFEST_NAME).stat().st_mtime)
        config = manifest.config.get
        print(
            f"{'*' if number == current else ' '} {number:<8} {made:%Y-%m-%d %H:%M} "
            f"{config('target', ''):6} {config('model_size', ''):6} {config('image_size', 0):5} "
            f"{config('precision', ''):9} {next(iter(manifest.parents.values()), '')[:12]}"
        )


def _verify(args: argparse.Namespace) -> None:
    current = current_version(args.repository)
    altered = []
    for number, path in _versions(args.repository).items():
        try:
            read_manifest(path, KIND)
        except ArtifactError as error:
            altered.append(error)
            continue
        print(f"{path}: whole{', current' if number == current else ''}")
    if altered:
        raise altered[0]


def _switch(args: argparse.Namespace) -> None:
    number = roll_back(args.repository, KIND, args.to)
    print(f"{args.repository / str(number)}: current; running servers check it and switch to it")


def _versions(repository: Path) -> dict[int, Path]:
    versions = list_versions(repository)
    if not versions:
        raise ArtifactError.of(
            str(repository),
            got="no version",
            expected=f"numbered versions and the link {CURRENT}",
            fix=f"make one with: {PROG} publish",
        )
    return versions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(_parser(), lambda args: args.run(args), argv)


if __name__ == "__main__":
    sys.exit(main())
