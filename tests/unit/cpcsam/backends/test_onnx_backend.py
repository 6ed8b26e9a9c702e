from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cpcsam.backends import onnx_backend
from cpcsam.backends.onnx_backend import OnnxBackend, OnnxGraphs, open_session
from cpcsam.contract import GRAPHS, IMAGE_ENCODER, PROMPT_ENCODER
from cpcsam.errors import ArtifactError, ConfigError, ExportError
from cpcsam.gpu import visible_gpus
from tests.support.tiny_models import publish_tiny_graphs

COORDS = np.array([[[[40.0, 50.0]], [[9.0, 200.0]]]], np.float32)
LABELS = np.ones((1, 2, 1), np.int32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "onnx"
    publish_tiny_graphs(path)
    return path


def encode(backend: OnnxBackend) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 256, 256), dtype=np.uint8)
    return backend.encode(image, np.array([[256, 200]], np.int32))


def test_onnx_backend_outputs_have_the_contracts_shapes(artifact: Path) -> None:
    backend = OnnxBackend(artifact)
    assert backend.image_size == 256
    embeddings = encode(backend)
    assert embeddings.shape == (1, 256, 16, 16) and embeddings.dtype == np.float32
    low_res_masks, iou_predictions = backend.decode(embeddings, COORDS, LABELS)
    assert low_res_masks.shape == (1, 2, 4, 64, 64) and iou_predictions.shape == (1, 2, 4)


def test_onnx_backend_mask_input_changes_the_masks(artifact: Path) -> None:
    backend = OnnxBackend(artifact)
    embeddings = encode(backend)
    mask_input = np.ones((1, 2, 1, 64, 64), np.float32)
    plain, _ = backend.decode(embeddings, COORDS, LABELS)
    refined, _ = backend.decode(embeddings, COORDS, LABELS, mask_input)
    assert refined.shape == plain.shape and not np.allclose(refined, plain)


def test_onnx_backend_altered_artifact_raises_artifact_error(tmp_path: Path) -> None:
    publish_tiny_graphs(tmp_path / "onnx")
    (tmp_path / "onnx" / f"{GRAPHS[-1].name}.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="as its manifest says"):
        OnnxBackend(tmp_path / "onnx")


def test_onnx_graphs_wrong_shape_raises_export_error(artifact: Path) -> None:
    inputs = {
        "image": np.zeros((1, 3, 10, 10), np.uint8),
        "input_size": np.array([[10, 10]], np.int32),
    }
    with pytest.raises(ExportError, match=r"image_encoder of image \(1, 3, 10, 10\)"):
        OnnxGraphs(artifact).run(IMAGE_ENCODER, inputs)


def test_open_session_missing_file_raises_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        open_session(tmp_path / "image_encoder.onnx")


without_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="there is a GPU")


@without_gpu
def test_open_session_cuda_without_a_driver_is_refused_with_the_providers(artifact: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_session(artifact / f"{PROMPT_ENCODER.name}.onnx", provider="cuda")
    message = str(caught.value)
    assert message.startswith("CUDAExecutionProvider: got no driver of NVIDIA (libcuda.so.1: ")
    assert "available providers: " in message and "CPUExecutionProvider, expected" in message
    assert message.endswith("or publish the graphs for the CPU: make repository")


@without_gpu
def test_open_session_cuda_that_onnxruntime_replaces_by_the_cpu_is_refused(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver is found, but the provider's library does not load: ONNX Runtime only logs it."""
    monkeypatch.setattr(onnx_backend, "DRIVER", "libc.so.6")
    try:
        with pytest.raises(ConfigError, match="session in CPUExecutionProvider alone, .*; avail"):
            open_session(artifact / f"{PROMPT_ENCODER.name}.onnx", provider="cuda")
    finally:
        onnx_backend.require_cuda.cache_clear()
