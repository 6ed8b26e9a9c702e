"""Command: publish versions of the Triton model repository, list, verify and roll back.

python -m export.repository publish --onnx build/onnx --out build/repository
python -m export.repository publish --engines build/engines --out build/repository-gpu
python -m export.repository list build/repository
python -m export.repository verify build/repository
python -m export.repository rollback build/repository
python -m export.repository rollback build/repository --to 3
python -m export.repository configs model_repository

Each version is a whole repository of its own, so that all its models change together. A server
keeps the version that was current when it started. The last form rewrites the committed trees
after a change of the contract.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import MANIFEST_NAME, Manifest, publish, read_manifest, sha256_file
from cpcsam.artifacts.versions import (
    CURRENT,
    current_version,
    list_versions,
    roll_back,
    switch_to,
    writing,
)
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.contract import IMAGE_SIZES
from cpcsam.errors import ArtifactError
from export.triton_repository.config import RepositoryConfig, Target
from export.triton_repository.layout import SOURCE_KIND, model_files, plan_tree, write_files

__all__ = ["COMMITTED", "COMMITTED_MODEL", "build_repository", "main", "write_configs"]

PROG: Final = "python -m export.repository"
KIND: Final = "repository"
COMMITTED: Final = Path(__file__).resolve().parents[1] / "model_repository"
COMMITTED_MODEL: Final = ("vit_t", 256)
"""Model size and image_size of the committed trees: those of the shipped base."""


def build_repository(
    source: Path, out: Path, *, target: Target = "cpu", threads: int = 0, shims: Path = COMMITTED
) -> Path:
    """Publish graphs as the current version, unless a version is just that already.

    Args:
        source: artifact with the graphs: of kind `onnx` for the CPU, `engine` for the GPU.
        out: the folder of versions, each an artifact of kind `repository`.
        target: `cpu` or `gpu`.
        threads: of one ONNX Runtime call; 0 is one a core.
        shims: the committed trees, from which the model.py files are copied.

    Returns:
        The version's folder.

    Raises:
        ArtifactError: source is not such an artifact, was altered, or lacks a graph.
    """
    manifest = read_manifest(source, SOURCE_KIND[target])
    digest = sha256_file(source / MANIFEST_NAME)
    repository = RepositoryConfig(
        model_size=str(manifest.config.get("model_size")),
        image_size=_image_size(source, manifest),
        target=target,
        threads=threads,
        model_digest=digest,
        trained_model=str(manifest.config.get("trained_model", "")),
    )
    parents = {manifest.kind: digest}
    config = {**manifest.config, "target": target, "threads": threads}
    with writing(out):
        versions = list_versions(out)
        for number in reversed(versions):
            tree = plan_tree(source, manifest, repository, shims / target, number)
            if _holds(versions[number], tree.digests):
                switch_to(out, number)
                return versions[number]
        number = max(versions, default=0) + 1
        tree = plan_tree(source, manifest, repository, shims / target, number)
        with publish(out / str(number), KIND, parents=parents, config=config) as staging:
            tree.write(staging)
        switch_to(out, number)
    return out / str(number)


def write_configs(trees: Path) -> None:
    """Rewrite the committed trees' configurations, and copy to gpu the steps' shims of cpu."""
    for target in SOURCE_KIND:
        repository = RepositoryConfig(*COMMITTED_MODEL, target=target)
        write_files(trees / target, model_files(repository, trees / "cpu", version=1))


def _holds(version: Path, digests: Mapping[str, str]) -> bool:
    """Whether a version has just these files, unaltered."""
    try:
        if read_manifest(version, KIND, verify=False).files != digests:
            return False
        read_manifest(version, KIND)
    except ArtifactError:
        return False
    return True


def _image_size(source: Path, manifest: Manifest) -> int:
    image_size = manifest.config.get("image_size")
    if image_size not in IMAGE_SIZES:
        raise ArtifactError.of(
            f"{source}, config.image_size",
            got=image_size,
            expected=f"one of {IMAGE_SIZES}",
            fix="export the graphs again",
        )
    return int(image_size)


def _parser() -> ArgumentParser:
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    action = actions.add_parser("publish", help="add a version and make it the current one")
    graphs = action.add_mutually_exclusive_group(required=True)
    graphs.add_argument("--onnx", type=Path, metavar="DIR", help="graphs for the CPU")
    graphs.add_argument("--engines", type=Path, metavar="DIR", help="TensorRT plans for the GPU")
    action.add_argument("--out", type=Path, metavar="DIR", required=True, help="the repository")
    action.add_argument(
        "--threads", type=int, default=0, help="of one graph on the CPU; default: one a core"
    )
    action.set_defaults(run=_publish)

    for name, run, purpose in (
        ("list", _list, "list the versions; * marks the current one"),
        ("verify", _verify, "compare every version with its digests"),
        ("rollback", _rollback, "make an earlier version the current one"),
    ):
        action = actions.add_parser(name, help=purpose)
        action.add_argument("repository", type=Path, metavar="DIR")
        action.set_defaults(run=run)
    action.add_argument("--to", type=int, metavar="VERSION", help="default: the one before")

    action = actions.add_parser("configs", help="rewrite the committed trees")
    action.add_argument("trees", type=Path, metavar="DIR")
    action.set_defaults(run=lambda args: write_configs(args.trees))
    return parser


def _publish(args: argparse.Namespace) -> None:
    target: Target = "cpu" if args.onnx else "gpu"
    before = list_versions(args.out)
    version = build_repository(
        args.onnx or args.engines, args.out, target=target, threads=args.threads
    )
    unchanged = int(version.name) in before
    print(f"{version}: current{', unchanged' if unchanged else ''}")


def _list(args: argparse.Namespace) -> None:
    current = current_version(args.repository)
    print(
        f"  {'version':8} {'made':16} {'target':6} {'model':6} {'size':>5} {'precision':9} graphs"
    )
    for number, path in _versions(args.repository).items():
        manifest = read_manifest(path, KIND, verify=False)
        made = datetime.fromtimestamp((path / MANIFEST_NAME).stat().st_mtime)
        told = manifest.config.get
        print(
            f"{'*' if number == current else ' '} {number:<8} {made:%Y-%m-%d %H:%M} "
            f"{told('target', ''):6} {told('model_size', ''):6} {told('image_size', 0):5} "
            f"{told('precision', ''):9} {next(iter(manifest.parents.values()), '')[:12]}"
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


def _rollback(args: argparse.Namespace) -> None:
    number = roll_back(args.repository, KIND, args.to)
    print(f"{args.repository / str(number)}: current; a server serves it when started again")


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
    """Run the command; 0 when done, 2 after an error, told in one line."""
    args = _parser().parse_args(argv)
    return exit_code_of(lambda: args.run(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
