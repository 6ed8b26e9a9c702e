"""File layout of a version of a Triton model repository."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import Manifest
from cpcsam.contract import GRAPHS
from cpcsam.entry_points import DECODER
from cpcsam.errors import ArtifactError
from export.triton_repository.config import (
    DECODER_GRAPHS,
    RepositoryConfig,
    Target,
    config_text,
    model_configs,
)

__all__ = ["SOURCE_KIND", "ModelTree", "config_files", "plan_tree", "write_files"]

SOURCE_KIND: Final[Mapping[Target, str]] = {"cpu": "onnx", "gpu": "engine"}
SOURCE_SUFFIX: Final[Mapping[Target, str]] = {"cpu": ".onnx", "gpu": ".plan"}
CONFIG_NAME: Final = "config.pbtxt"
SHIM_NAME: Final = "model.py"
SHIM_VERSION: Final = "1"
"""Version folder of the committed shims."""


@dataclass(frozen=True)
class ModelTree:
    """Files of a version before it is written.

    Attributes:
        written: content of the configurations and shims, by path.
        copied: source file of each graph and its weights, by path.
        digests: SHA-256 of all files, by path.
    """

    written: Mapping[str, bytes]
    copied: Mapping[str, Path]
    digests: Mapping[str, str]

    def write(self, tree: Path) -> None:
        """Write or copy all files below a folder."""
        write_files(tree, self.written)
        for path, file in self.copied.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, tree / path)


def plan_tree(
    source: Path, manifest: Manifest, repository: RepositoryConfig, shims: Path, version: int
) -> ModelTree:
    """Plan the files of a version.

    Args:
        source: artifact with the graphs.
        manifest: manifest of `source`.
        repository: settings of the repository.
        shims: folder with each Python model's NAME/1/model.py.
        version: number of the version, Triton's version of every model.

    Raises:
        ArtifactError: source lacks a graph.
    """
    written = config_files(repository) | _version_files(repository, shims, version)
    names = _graph_files(source, manifest, repository.target, version)
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in written.items()}
    return ModelTree(
        written=written,
        copied={path: source / name for path, name in names.items()},
        digests=digests | {path: manifest.files[name] for path, name in names.items()},
    )


def config_files(repository: RepositoryConfig) -> dict[str, bytes]:
    """Return each model's config.pbtxt by path."""
    return {
        f"{name}/{CONFIG_NAME}": config_text(config).encode()
        for name, config in model_configs(repository).items()
    }


def _version_files(repository: RepositoryConfig, shims: Path, version: int) -> dict[str, bytes]:
    """Return the model.py of Python models, and what keeps an ensemble's folder, by path."""
    files = {}
    for name, config in model_configs(repository).items():
        if config.platform == "ensemble":
            # Triton requires a version folder; git and object stores drop empty ones.
            files[f"{name}/{version}/.keep"] = b""
        if config.backend == "python":
            shim = shims / name / SHIM_VERSION / SHIM_NAME
            files[f"{name}/{version}/{SHIM_NAME}"] = shim.read_bytes()
    return files


def write_files(tree: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder."""
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)


def _graph_files(source: Path, manifest: Manifest, target: Target, version: int) -> dict[str, str]:
    """Return names in the source by path: graphs where a model finds them, weights unchanged."""
    suffix = SOURCE_SUFFIX[target]
    names = {}
    for graph in GRAPHS:
        name = f"{graph.name}{suffix}"
        if name not in manifest.files:
            raise ArtifactError.of(
                str(source / name),
                got="no such file",
                expected=f"the graph {graph.name}",
                fix="export it again",
            )
        if target == "cpu" and graph in DECODER_GRAPHS:
            folder, file = f"{DECODER.name}/{version}", name
        else:
            folder, file = f"{graph.name}/{version}", f"model{suffix}"
        names[f"{folder}/{file}"] = name
        # A graph refers to its external weights by name, so those files keep theirs.
        names |= {
            f"{folder}/{other}": other
            for other in manifest.files
            if other.startswith(name) and other != name
        }
    return names
