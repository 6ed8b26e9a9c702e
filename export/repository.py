"""Command: make the Triton model repository of exported graphs.

python -m export.repository --onnx build/onnx --out build/repository
python -m export.repository --target gpu --engines build/engines --out build/repository-gpu
python -m export.repository --configs model_repository

The last form rewrites the committed trees after a change of the contract.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.artifact import (
    MANIFEST_NAME,
    Manifest,
    publish,
    read_manifest,
    sha256_file,
    write_atomic,
)
from cpcsam.command import ArgumentParser, exit_code_of
from cpcsam.contract import IMAGE_SIZES
from cpcsam.errors import ArtifactError, ConfigError
from export.triton_config import SERVED_GRAPHS, RepositoryConfig, Target, config_text, model_configs

__all__ = ["COMMITTED", "COMMITTED_MODEL", "build_repository", "main", "write_configs"]

PROG: Final = "python -m export.repository"
COMMITTED: Final = Path(__file__).resolve().parents[1] / "model_repository"
COMMITTED_MODEL: Final = ("vit_t", 256)
"""Model size and image_size of the committed trees: those of the shipped base."""

TARGETS: Final[tuple[Target, ...]] = ("cpu", "gpu")
SOURCE_KIND: Final = {"cpu": "onnx", "gpu": "engine"}
SOURCE_SUFFIX: Final = {"cpu": ".onnx", "gpu": ".plan"}
VERSION: Final = "1"
CONFIG_NAME: Final = "config.pbtxt"
SHIM_NAME: Final = "model.py"


def build_repository(
    source: Path, out: Path, *, target: Target = "cpu", threads: int = 0, shims: Path = COMMITTED
) -> None:
    """Make the repository artifact at `out`; one already there is replaced when it is complete.

    Args:
        source: artifact with the graphs: of kind `onnx` for the CPU, `engine` for the GPU.
        out: the repository's directory, an artifact of kind `repository`.
        target: `cpu` or `gpu`.
        threads: of one ONNX Runtime call; 0 is one a core.
        shims: the committed trees, from which the model.py files are copied.

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
    )
    parents = {manifest.kind: digest}
    config = {**manifest.config, "target": target, "threads": threads}
    with publish(out, "repository", parents=parents, config=config) as staging:
        _write_models(staging, repository, shims / target)
        for graph in SERVED_GRAPHS:
            _copy_graph(source, staging / graph.name / VERSION, graph.name, SOURCE_SUFFIX[target])


def write_configs(trees: Path) -> None:
    """Rewrite the committed trees' configurations, and copy to gpu the steps' shims of cpu."""
    for target in TARGETS:
        _write_models(
            trees / target, RepositoryConfig(*COMMITTED_MODEL, target=target), trees / "cpu"
        )


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


def _write_models(tree: Path, repository: RepositoryConfig, shims: Path) -> None:
    """Write each model's config.pbtxt, and its model.py if it has one."""
    for name, config in model_configs(repository).items():
        write_atomic(tree / name / CONFIG_NAME, config_text(config).encode())
        version = tree / name / VERSION
        if config.platform == "ensemble":
            # Triton asks for a version folder; git and object stores drop empty ones.
            write_atomic(version / ".keep", b"")
        if config.backend == "python":
            write_atomic(version / SHIM_NAME, (shims / name / VERSION / SHIM_NAME).read_bytes())


def _copy_graph(source: Path, version: Path, name: str, suffix: str) -> None:
    """Copy a graph as model.onnx or model.plan, and files of its weights under their own name."""
    graph = source / f"{name}{suffix}"
    if not graph.is_file():
        raise ArtifactError.of(
            str(graph), got="no such file", expected=f"the graph {name}", fix="export it again"
        )
    version.mkdir(exist_ok=True)
    shutil.copyfile(graph, version / f"model{suffix}")
    for weights in sorted(source.glob(f"{name}{suffix}?*")):
        shutil.copyfile(weights, version / weights.name)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROG,
        description="Make the Triton model repository of exported graphs.",
        epilog=(__doc__ or "").split("\n", 2)[2],
    )
    parser.add_argument("--onnx", type=Path, metavar="DIR", help="graphs for the CPU")
    parser.add_argument("--engines", type=Path, metavar="DIR", help="TensorRT plans for the GPU")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the repository to write")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--threads", type=int, default=0, help="of one graph on the CPU; default: one a core"
    )
    parser.add_argument(
        "--configs", type=Path, metavar="DIR", help="only rewrite the committed trees there"
    )
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.configs is not None:
        write_configs(args.configs)
        return
    source, option = (args.onnx, "--onnx") if args.target == "cpu" else (args.engines, "--engines")
    if source is None or args.out is None:
        raise ConfigError.of(
            f"--target {args.target}",
            got=f"no {'--out' if source else option}",
            expected=f"{option} and --out",
            fix=f"see {PROG} --help",
        )
    build_repository(source, args.out, target=args.target, threads=args.threads)
    print(args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 after an error, told in one line."""
    args = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
