"""File layout of a version of a Triton model repository."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

from cpcsam.artifacts.manifest import MANIFEST_NAME, Manifest, read_manifest, sha256_file
from cpcsam.clip.onnx_towers import CLIP_KIND, FILES
from cpcsam.clip.preprocess import ClipInfo
from cpcsam.contract import GRAPHS, TensorSpec
from cpcsam.entry_points import CLIP, CLIP_INFO, DECODER
from cpcsam.errors import ArtifactError
from export.triton_repository.config import (
    DECODER_GRAPHS,
    DTYPES,
    RepositoryConfig,
    Target,
    config_text,
    model_configs,
)
from export.triton_repository.execution import latency_buckets, run_in_python

__all__ = ["SOURCE_KIND", "ClipSource", "ModelTree", "config_files", "plan_tree", "write_files"]

SOURCE_KIND: Final[Mapping[Target, str]] = {"cpu": "onnx", "cuda": "onnx", "gpu": "engine"}
SOURCE_SUFFIX: Final[Mapping[Target, str]] = {"cpu": ".onnx", "cuda": ".onnx", "gpu": ".plan"}
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


@dataclass(frozen=True)
class ClipSource:
    """An artifact of kind `clip`.

    Attributes:
        path: its directory.
        manifest: its manifest.
        digest: of the manifest.
        info: facts of the CLIP.
    """

    path: Path
    manifest: Manifest
    digest: str
    info: ClipInfo

    @classmethod
    def read(cls, path: Path) -> ClipSource:
        """Read and verify the artifact.

        Raises:
            ArtifactError: it is missing, altered, of another kind or incomplete.
            ConfigError: it tells no facts.
        """
        manifest = read_manifest(path, CLIP_KIND)
        for name in FILES:
            if name not in manifest.files:
                raise ArtifactError.of(
                    str(path / name),
                    got="no such file",
                    expected=", ".join(FILES),
                    fix="export the towers again",
                )
        info = ClipInfo.of_json(str(manifest.config.get("clip", "")))
        return cls(path, manifest, sha256_file(path / MANIFEST_NAME), info)

    def files(self, version: int) -> Mapping[str, str]:
        """Return names in the artifact by path in a version, weights beside graphs included."""
        others = [name for name in self.manifest.files if name.endswith(".data")]
        return {f"{CLIP.name}/{version}/{name}": name for name in (*FILES, *others)}


def plan_tree(
    source: Path,
    manifest: Manifest,
    repository: RepositoryConfig,
    shims: Path,
    version: int,
    clip: ClipSource | None = None,
) -> ModelTree:
    """Plan the files of a version.

    Args:
        source: artifact with the graphs.
        manifest: manifest of `source`.
        repository: settings of the repository.
        shims: folder with each Python model's NAME/1/model.py.
        version: number of the version, Triton's version of every model.
        clip: the towers of a CLIP, if any.

    Raises:
        ArtifactError: source lacks a graph.
    """
    written = config_files(repository) | _version_files(repository, shims, version)
    names: Mapping[str, str] = _graph_files(source, manifest, repository.target, version)
    copied = {path: source / name for path, name in names.items()}
    digests = {path: manifest.files[name] for path, name in names.items()}
    if clip is not None:
        written |= _clip_files(clip, repository, shims, version)
        names = clip.files(version)
        copied |= {path: clip.path / name for path, name in names.items()}
        digests |= {path: clip.manifest.files[name] for path, name in names.items()}
    digests |= {path: hashlib.sha256(content).hexdigest() for path, content in written.items()}
    return ModelTree(written, copied, digests)


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


def _clip_files(
    clip: ClipSource, repository: RepositoryConfig, shims: Path, version: int
) -> dict[str, bytes]:
    shim = shims / CLIP.name / SHIM_VERSION / SHIM_NAME
    return {
        f"{CLIP.name}/{CONFIG_NAME}": config_text(_clip_config(clip.info, repository)).encode(),
        f"{CLIP.name}/{version}/{SHIM_NAME}": shim.read_bytes(),
    }


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
        if target != "gpu" and graph in DECODER_GRAPHS:
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


def _clip_config(info: ClipInfo, repository: RepositoryConfig) -> ModelConfig:
    """Return the configuration of the model.

    Args:
        info: facts of the CLIP, reported in a parameter.
        repository: settings of the repository; its engines do not matter here.
    """
    config = ModelConfig(
        name=CLIP.name,
        max_batch_size=CLIP.max_batch,
        input=[ModelInput(**_tensor(tensor), optional=True) for tensor in CLIP.inputs],
        output=[ModelOutput(**_tensor(tensor)) for tensor in CLIP.outputs],
    )
    run_in_python(config)
    config.parameters[CLIP_INFO].string_value = info.to_json()
    config.parameters["intra_op_threads"].string_value = str(repository.threads)
    if repository.target == "gpu":
        config.model_metrics.CopyFrom(latency_buckets())
    return config


def _tensor(tensor: TensorSpec) -> dict[str, object]:
    dims = [size if isinstance(size, int) else -1 for size in tensor.dims[1:]]
    return {"name": tensor.name, "data_type": DTYPES[tensor.dtype], "dims": dims}
