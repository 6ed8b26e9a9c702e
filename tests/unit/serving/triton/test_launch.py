"""Start of Triton: sizes of its memory pools, and causes of a failure in its log."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import publish
from cpcsam.contract import (
    EMBED_DIM,
    ENCODER_MAX_BATCH,
    IMAGE_SIZES,
    LOW_RES_FACTOR,
    MAX_IMAGES_TIMES_PROMPTS,
    NUM_MASKS,
    grid_size,
)
from cpcsam.errors import ArtifactError
from serving import repository
from serving.triton.launch import temporary_log
from serving.triton.memory_pools import (
    DEFAULT_CUDA_BYTES,
    DEFAULT_PINNED_BYTES,
    memory_pool_options,
    memory_pools,
)
from serving.triton.startup_log import failure_cause
from serving.triton.supervisor import supervised_triton

FLOAT = 4

MODEL = (
    "E1122 16:53:14.903985 167 model_lifecycle.cc:642] \"failed to load 'image_encoder' version 1: "
    'Internal: TritonModelException: model.onnx: got \\"text\\", expected an ONNX graph\\n\\nAt:\\n'
    '  python_backend.py(40): initialize\\n"\n'
)
ENSEMBLE = (
    'E1122 16:53:17.220901 167 model_repository_manager.cc:703] "Invalid argument: ensemble '
    "'encode' depends on 'image_encoder' which has no loaded version.\"\n"
)
CONFIG = (
    "[libprotobuf ERROR text_format.cc:337] Error parsing text-format inference.ModelConfig: "
    '166:15: Message type "inference.ModelConfig" has no field named "model_metrics".\n'
    'E1122 16:43:39.849070 98 model_repository_manager.cc:1460] "Poll failed for model directory '
    "'decode': failed to read text proto from decode/config.pbtxt\"\n"
    "error: creating server: Internal - failed to load all models\n"
)
PORT = (
    'E1122 16:52:17.395839 153 main.cc:245] "failed to start GRPC service: Unavailable - Socket '
    "'127.0.0.1:18001' already in use \"\n"
)
LIBRARY = (
    "tritonserver: error while loading shared libraries: libz.so.1: cannot open shared object "
    "file: No such file or directory\n"
)


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_pools_hold_two_batches_of_what_passes_between_steps(image_size: int) -> None:
    grid = grid_size(image_size)
    embedding = EMBED_DIM * grid**2 * FLOAT
    mask = (LOW_RES_FACTOR * grid) ** 2 * FLOAT
    masks = MAX_IMAGES_TIMES_PROMPTS * NUM_MASKS * mask
    encoded = ENCODER_MAX_BATCH * embedding
    dense = MAX_IMAGES_TIMES_PROMPTS * embedding
    images = ENCODER_MAX_BATCH * 3 * image_size**2
    cuda, pinned = memory_pools(image_size)
    assert max(2 * (encoded + dense + 2 * masks), DEFAULT_CUDA_BYTES) <= cuda
    assert max(2 * (images + encoded + 2 * masks), DEFAULT_PINNED_BYTES) <= pinned
    # Prompts, scores and the copies of embeddings that decoders take add little to it.
    assert cuda <= 1.1 * max(2 * (encoded + dense + 2 * masks), DEFAULT_CUDA_BYTES)


def test_defaults_of_triton_do_not_hold_a_batch_of_large_images() -> None:
    assert memory_pools(1024)[0] > 10 * DEFAULT_CUDA_BYTES
    assert memory_pools(256) == (DEFAULT_CUDA_BYTES, DEFAULT_PINNED_BYTES)


def test_options_name_each_gpu_and_without_one_nothing_is_pinned() -> None:
    cuda, pinned = memory_pools(1024)
    assert memory_pool_options(1024, 2) == [
        f"--pinned-memory-pool-byte-size={pinned}",
        f"--cuda-memory-pool-byte-size=0:{cuda}",
        f"--cuda-memory-pool-byte-size=1:{cuda}",
    ]
    without = ["--pinned-memory-pool-byte-size=0", "--allow-gpu-metrics=false"]
    assert memory_pool_options(1024, 0) == without
    assert memory_pool_options(1024, 1, engines=False) == without[:1], "GPUs are still measured"


def test_command_prints_the_options_of_a_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"target": "cpu", "image_size": 1024}
    with publish(tmp_path / "1", "repository", config=config):
        pass
    assert repository.main([str(tmp_path / "1"), "--memory-pools"]) == 0
    assert capsys.readouterr().out.split() == memory_pool_options(1024, 0)


def test_failure_cause_of_a_failed_model_omits_traceback_and_consequences() -> None:
    expected = 'model image_encoder: model.onnx: got "text", expected an ONNX graph'
    assert failure_cause(MODEL + ENSEMBLE + MODEL) == expected


def test_failure_cause_of_two_failed_models_names_both() -> None:
    cause = failure_cause(MODEL + MODEL.replace("image_encoder", "mask_decoder"))
    assert cause.count("expected an ONNX graph") == 2
    assert "; model mask_decoder: " in cause


def test_failure_cause_of_a_rejected_configuration_names_its_line() -> None:
    cause = failure_cause(CONFIG)
    assert cause.startswith("model decode: failed to read text proto")
    assert '166:15: Message type "inference.ModelConfig" has no field' in cause


def test_failure_cause_of_a_busy_port_names_it() -> None:
    assert failure_cause(PORT) == "GRPC port: 127.0.0.1:18001 is in use"


def test_failure_cause_of_a_missing_library_names_it() -> None:
    assert failure_cause(LIBRARY).startswith("missing library: libz.so.1")


def test_temporary_log_stays_only_if_something_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ArtifactError, match="no manifest"), supervised_triton(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    with temporary_log() as log:
        log.write_text("failed")
    assert log.exists()


def test_failure_cause_otherwise_is_the_last_line() -> None:
    assert failure_cause("error: creating server: no such folder\nbye\n") == (
        "creating server: no such folder"
    )
    assert failure_cause("first\nlast\n\n") == "last"
    assert failure_cause("") == "it wrote nothing"
