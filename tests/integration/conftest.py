"""The real tritonserver over a small repository, once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from export.repository import build_repository
from serving.triton import TritonServer, launch_triton
from tests.integration.tiny_graphs import publish_tiny_graphs


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
