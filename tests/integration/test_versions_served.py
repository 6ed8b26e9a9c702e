"""Versions of a served repository: fixed for a running server, changed by a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from cpcsam.artifacts.versions import list_versions, roll_back
from cpcsam.contract import ENSEMBLES, GRAPHS, STEPS
from export.triton_repository.publishing import build_repository
from serving.triton.launch import TritonServer, launch_triton
from tests.integration.conftest import export_shipped_base
from tests.support.tiny_graphs import publish_tiny_graphs
from tests.support.triton_calls import infer, noise_png, segment_inputs

pytestmark = pytest.mark.triton

MODELS = [spec.name for spec in (*GRAPHS, *STEPS, *ENSEMBLES)]
INPUTS = segment_inputs(noise_png(90, 140), [[[20.0, 30.0]]])


def served(triton: TritonServer) -> tuple[set[str], np.ndarray]:
    """Return the versions of all models, and the outputs of `segment`."""
    with InferenceServerClient(triton.grpc_url) as client:
        versions = {v for name in MODELS for v in client.get_model_metadata(name).versions}
        return versions, infer(client, "segment", INPUTS, ["scores"])["scores"]


def test_server_keeps_its_version_and_a_restart_takes_the_current_one(
    graphs: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    build_repository(graphs, store)
    publish_tiny_graphs(tmp_path / "new", seed=1)
    with launch_triton(store) as triton:
        versions, old = served(triton)
        assert versions == {"1"}
        build_repository(tmp_path / "new", store)
        versions, same = served(triton)
        assert versions == {"1"} and np.array_equal(same, old)
    with launch_triton(store) as triton:
        versions, new = served(triton)
        assert versions == {"2"} and not np.allclose(new, old)
    roll_back(store, "repository")
    with launch_triton(store) as triton:
        versions, again = served(triton)
        assert versions == {"1"} and np.array_equal(again, old)


def test_export_of_an_unchanged_model_rebuilds_nothing(shipped_build: Path) -> None:
    made = [shipped_build / "onnx/manifest.json", shipped_build / "repository/1/manifest.json"]
    before = [file.stat().st_mtime_ns for file in made]
    export_shipped_base(shipped_build)
    assert [file.stat().st_mtime_ns for file in made] == before
    assert [*list_versions(shipped_build / "repository")] == [1]
