"""Real tritonserver with a small repository and with the shipped base, once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cpcsam.artifacts.manifest import publish
from cpcsam.contract import CALIBRATES
from cpcsam.model.fusion import FusedCpcSam, fuse
from export.graphs.precisions import trace_graphs
from export.triton_repository.publishing import build_repository
from serving.gateway.inference import replica
from serving.triton.launch import TritonServer, launch_triton
from tests.support.artifact_factory import export_shipped_base
from tests.support.model_factory import noisy_cpcsam
from tests.support.paths import shared_folder
from tests.support.tiny_clip import write_tiny_clip
from tests.support.tiny_models import publish_tiny_graphs

if TYPE_CHECKING:
    from cpcsam.clip.towers import ClipTowers


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of kind `onnx`."""
    path = tmp_path_factory.mktemp("export") / "onnx"
    publish_tiny_graphs(path)
    return path


@pytest.fixture(scope="session")
def repository(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of a repository made from `graphs`."""
    return build_repository(graphs, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Configuration and weights of a small random CLIP."""
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def towers(clip_weights: tuple[str, Path]) -> ClipTowers:
    """The towers of `triton`, in torch."""
    from cpcsam.clip.towers import ClipTowers

    return ClipTowers.load(*clip_weights)


@pytest.fixture(scope="session")
def triton(
    graphs: Path,
    towers: ClipTowers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonServer]:
    """A ready server over `graphs` and `towers`."""
    from export.text_encoder import export_towers

    folder = tmp_path_factory.mktemp("served")
    export_towers(towers, folder / "clip")
    with launch_triton(build_repository(graphs, folder / "out", clip=folder / "clip")) as server:
        yield server


@pytest.fixture(scope="session")
def shipped_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `merged`, `onnx` and `repository` of the shipped base."""
    return shared_folder(tmp_path_factory, "shipped", export_shipped_base)


@pytest.fixture(scope="session")
def shipped(shipped_build: Path) -> Iterator[TritonServer]:
    """A ready server with the shipped base, exported as in the README."""
    with launch_triton(shipped_build / "repository") as server:
        yield server


@pytest.fixture(scope="session")
def calibrating_model() -> FusedCpcSam:
    """A model whose CaPL is far from the identity and moves clicks by several pixels."""
    return fuse(noisy_cpcsam())


@pytest.fixture(scope="session")
def calibrating(calibrating_model: FusedCpcSam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of `calibrating_model`."""
    onnx = tmp_path_factory.mktemp("calibrating") / "onnx"
    config = {"model_size": "vit_t", "image_size": 256, CALIBRATES: True}
    with publish(onnx, "onnx", config=config) as staging:
        trace_graphs(calibrating_model, staging, "fp32")
    return onnx


@pytest.fixture(scope="session")
def calibrating_triton(
    calibrating: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A ready server with `calibrating_model`."""
    store = tmp_path_factory.mktemp("calibration") / "store"
    with launch_triton(build_repository(calibrating, store)) as server:
        yield server


@pytest.fixture(scope="module")
def rare_probes() -> Iterator[None]:
    """Let the gateways of a file probe rarely a Triton that no test of it kills or stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "PERIOD_S", 30.0)
        yield


@pytest.fixture
def without_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let earlier calls stand for probes, so that Triton's counters are those of the requests.

    One may run: `wait_until_counted` before the counters are read.
    """
    monkeypatch.setattr(replica, "FRESH_PERIODS", 10_000)
