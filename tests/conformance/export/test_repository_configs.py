from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from cpcsam.contract import ENSEMBLES, GRAPHS, IMAGE_ENCODER, STEPS, GraphSpec, TensorSpec
from export.triton_repository.config import RepositoryConfig, model_configs
from export.triton_repository.publishing import COMMITTED, COMMITTED_MODEL, write_configs

CPU, GPU = COMMITTED / "cpu", COMMITTED / "gpu"
MODELS = [*GRAPHS, *STEPS, *ENSEMBLES]
GRAPH_NAMES = [graph.name for graph in GRAPHS]
DTYPES = {
    DataType.TYPE_FP32: "float32",
    DataType.TYPE_INT32: "int32",
    DataType.TYPE_UINT8: "uint8",
    DataType.TYPE_STRING: "object",
}


def committed(tree: Path, name: str) -> ModelConfig:
    text = (tree / name / "config.pbtxt").read_text()
    return text_format.Parse(text, ModelConfig())


def files(tree: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_committed_trees_equal_generated(tmp_path: Path) -> None:
    write_configs(tmp_path)
    shims = {f"cpu/{spec.name}/1/model.py" for spec in (*GRAPHS, *STEPS)}
    found = files(COMMITTED)
    assert files(tmp_path) == {path: found[path] for path in found.keys() - shims}
    assert shims < found.keys()


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
def test_config_tensors_equal_contract(spec: GraphSpec) -> None:
    config = committed(CPU, spec.name)
    image_size = COMMITTED_MODEL[1]

    def as_tuples(tensors: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(t.name, t.dtype, t.shape(image_size)[1:]) for t in tensors]

    assert [(t.name, DTYPES[t.data_type], tuple(t.dims)) for t in config.input] == as_tuples(
        spec.inputs
    )
    assert [(t.name, DTYPES[t.data_type], tuple(t.dims)) for t in config.output] == as_tuples(
        spec.outputs
    )
    assert config.max_batch_size == spec.max_batch


@pytest.mark.parametrize("name", [spec.name for spec in MODELS])
def test_gpu_config_differs_only_in_graph_backend(name: str) -> None:
    cpu, gpu = committed(CPU, name), committed(GPU, name)
    # Histogram buckets: the wheel's server, for which the cpu tree is, does not know the field.
    assert not cpu.HasField("model_metrics")
    gpu.ClearField("model_metrics")
    if name in GRAPH_NAMES:
        assert (cpu.backend, gpu.backend, gpu.platform) == ("python", "tensorrt", "tensorrt_plan")
        assert gpu.default_model_filename == "model.plan"
        for config in (cpu, gpu):
            for field in ("backend", "platform", "instance_group", "default_model_filename"):
                config.ClearField(field)
    assert cpu == gpu


def test_only_image_encoder_has_batching_delay() -> None:
    delays = {
        name: committed(CPU, name).dynamic_batching.max_queue_delay_microseconds
        for name in GRAPH_NAMES
    }
    assert delays.pop(IMAGE_ENCODER.name) > 0
    assert set(delays.values()) == {0}


@pytest.mark.parametrize("tree", [CPU, GPU])
def test_no_queue_has_timeout(tree: Path) -> None:
    """Triton's batcher stalls for 500 ms and more if one has: core pull request 509."""
    for name in GRAPH_NAMES:
        batching = committed(tree, name).dynamic_batching
        policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
        assert not any(policy.default_timeout_microseconds for policy in policies)


@pytest.mark.parametrize("spec", ENSEMBLES, ids=lambda spec: spec.name)
def test_ensemble_steps_connect_equal_types_and_shapes(spec: GraphSpec) -> None:
    configs = model_configs(RepositoryConfig("vit_b", 1024, "cpu"))
    ensemble = configs[spec.name]
    known = {t.name: (t.data_type, tuple(t.dims)) for t in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = configs[step.model_name]
        assert set(step.input_map) == {t.name for t in model.input}
        for tensor in model.input:
            assert known[step.input_map[tensor.name]] == (tensor.data_type, tuple(tensor.dims))
        for tensor in model.output:
            wire = step.output_map[tensor.name]
            assert wire not in known
            known[wire] = (tensor.data_type, tuple(tensor.dims))
    for tensor in ensemble.output:
        assert known[tensor.name] == (tensor.data_type, tuple(tensor.dims))


@pytest.mark.parametrize("spec", ENSEMBLES, ids=lambda spec: spec.name)
def test_large_ensemble_output_feeds_no_step(spec: GraphSpec) -> None:
    """Triton would drop its step unless the output is requested (see RETURN_EMBEDDINGS)."""
    ensemble = committed(CPU, spec.name)
    read = {wire for step in ensemble.ensemble_scheduling.step for wire in step.input_map.values()}
    written = {
        wire for step in ensemble.ensemble_scheduling.step for wire in step.output_map.values()
    }
    shared = read & written & {tensor.name for tensor in ensemble.output}
    assert shared <= {"input_size", "original_size"}
