"""Real tritonserver with a small repository and with the shipped base, once a session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from export import merge, to_onnx
from export import repository as versions
from export.accuracy import parity_grid
from export.real_images import packaged_images
from export.triton_repository.publishing import build_repository
from serving.gateway.inference import replica
from serving.triton.launch import TritonServer, launch_triton
from tests.support.paths import ROOT, shared_folder
from tests.support.tiny_models import publish_tiny_graphs


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
def triton(repository: Path) -> Iterator[TritonServer]:
    """A ready server over `repository`."""
    with launch_triton(repository) as server:
        yield server


def export_shipped_base(build: Path) -> None:
    """Run the commands of `make export` on the shipped base, compared on little.

    test_onnx_export compares at all shapes, and every export of `.ci/run` on all images too.
    """
    graphs = ["--merged", build / "merged", "--out", build / "onnx"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity_grid, "BATCHES", {256: (2,)})
        patch.setattr(parity_grid, "PROMPTS", (3,))
        patch.setattr(parity_grid, "POINTS", (2,))
        for command, words in (
            (merge, ["--base", ROOT / "weights/vit_t", "--out", build / "merged"]),
            (to_onnx, [*graphs, "--images", packaged_images()[0]]),
            (versions, ["publish", "--onnx", build / "onnx", "--out", build / "repository"]),
        ):
            assert command.main([*map(str, words)]) == 0


@pytest.fixture(scope="session")
def shipped_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `merged`, `onnx` and `repository` of the shipped base."""
    return shared_folder(tmp_path_factory, "shipped", export_shipped_base)


@pytest.fixture(scope="session")
def shipped(shipped_build: Path) -> Iterator[TritonServer]:
    """A ready server with the shipped base, exported as in the README."""
    with launch_triton(shipped_build / "repository") as server:
        yield server


@pytest.fixture
def without_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let earlier calls stand for probes, so that Triton's counters are those of the requests."""
    monkeypatch.setattr(replica, "FRESH_PERIODS", 10_000)
    time.sleep(0.5)  # for one that runs
