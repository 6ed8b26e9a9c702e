from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from cpcsam.contract import GRAPHS, IMAGE_ENCODER, GraphSpec, TensorSpec
from cpcsam.entry_points import (
    CLIP,
    ENSEMBLES,
    STEP_TIMES,
    STEPS,
    form_of,
    is_timed,
    times_output,
)
from export.triton_repository.config import RepositoryConfig, Target, model_configs
from export.triton_repository.publishing import COMMITTED, COMMITTED_MODEL, write_configs

CPU, GPU = COMMITTED / "cpu", COMMITTED / "gpu"
TREES = {"cpu": CPU, "gpu": GPU}
TARGETS = get_args(Target)
SPECS = {spec.name: spec for spec in (*GRAPHS, *STEPS, *ENSEMBLES)}
MODELS = [
    (target, SPECS[folder.name])
    for target, tree in TREES.items()
    for folder in sorted(tree.iterdir())
]
GRAPH_NAMES = [graph.name for graph in GRAPHS]
DTYPES = {
    DataType.TYPE_FP32: "float32",
    DataType.TYPE_FP64: "float64",
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
    python = [name for name, spec in SPECS.items() if spec in STEPS or spec is IMAGE_ENCODER]
    shims = {f"python/{name}/1/model.py" for name in (*python, CLIP.name)}
    found = files(COMMITTED)
    assert files(tmp_path) == {path: found[path] for path in found.keys() - shims}
    assert shims < found.keys()


def test_trees_have_every_entry_point_and_the_gpu_every_engine() -> None:
    names = {target: {spec.name for kind, spec in MODELS if kind == target} for target in TREES}
    assert {spec.name for spec in ENSEMBLES} <= names["cpu"] & names["gpu"]
    assert set(GRAPH_NAMES) <= names["gpu"]
    assert "decoder" in names["cpu"] - names["gpu"]


def model_id(value: object) -> str:
    return value.name if isinstance(value, GraphSpec) else str(value)


@pytest.mark.parametrize(("target", "spec"), MODELS, ids=model_id)
def test_config_tensors_equal_contract(target: str, spec: GraphSpec) -> None:
    config = committed(TREES[target], spec.name)
    image_size = COMMITTED_MODEL[1]

    def as_tuples(tensors: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(t.name, t.dtype, t.shape(image_size)[1:]) for t in tensors]

    assert [(t.name, DTYPES[t.data_type], tuple(t.dims)) for t in config.input] == as_tuples(
        spec.inputs
    )
    times = as_tuples(times_outputs(config, target))
    assert [(t.name, DTYPES[t.data_type], tuple(t.dims)) for t in config.output] == [
        *as_tuples(spec.outputs),
        *times,
    ]
    assert {t.name for t in config.input if t.optional} == spec.optional
    if target == "gpu" or spec in ENSEMBLES:
        assert config.max_batch_size == spec.max_batch


def times_outputs(config: ModelConfig, target: str) -> tuple[TensorSpec, ...]:
    """Times of a step, or of the steps of an ensemble, that its configuration has besides."""
    steps = [step.model_name for step in config.ensemble_scheduling.step]
    if not steps:
        return (STEP_TIMES,) if is_timed(SPECS[config.name], target) else ()
    return tuple(times_output(step) for step in steps if is_timed(SPECS[step], target))


def test_entry_points_tell_the_times_of_their_python_steps() -> None:
    times = {
        (target, name): [t.name for t in times_outputs(committed(tree, name), target)]
        for target, tree in TREES.items()
        for name in ("segment", "decode")
    }
    assert times == {
        ("cpu", "segment"): ["preprocess_times", "image_encoder_times", "decoder_times"],
        ("cpu", "decode"): ["decoder_times"],
        ("gpu", "segment"): ["preprocess_times", "postprocess_times", "embedding_store_times"],
        ("gpu", "decode"): ["embedding_store_times", "postprocess_times"],
    }


def test_cpu_joins_no_requests() -> None:
    assert committed(CPU, "image_encoder").max_batch_size == 1
    decoder = committed(CPU, "decoder")
    assert decoder.max_batch_size > 1 and decoder.HasField("dynamic_batching")
    assert all(tensor.allow_ragged_batch for tensor in decoder.input)
    # A second instance would not have what the first one stores.
    assert [group.count for group in decoder.instance_group] == [1]
    assert [group.count for group in committed(GPU, "embedding_store").instance_group] == [1]


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_gpu_serves_graphs_as_engines(name: str) -> None:
    gpu = committed(GPU, name)
    assert (gpu.backend, gpu.platform) == ("tensorrt", "tensorrt_plan")
    assert gpu.default_model_filename == "model.plan"


def test_histogram_buckets_are_for_the_gpu_alone() -> None:
    """The wheel's server, for which the cpu tree is, does not know the field."""
    for target, spec in MODELS:
        has_buckets = committed(TREES[target], spec.name).HasField("model_metrics")
        assert has_buckets == (target == "gpu")


def test_only_image_encoder_has_batching_delay() -> None:
    delays = {
        name: committed(GPU, name).dynamic_batching.max_queue_delay_microseconds
        for name in GRAPH_NAMES
    }
    assert delays.pop(IMAGE_ENCODER.name) > 0
    assert set(delays.values()) == {0}


@pytest.mark.parametrize("tree", [CPU, GPU])
def test_no_queue_has_timeout(tree: Path) -> None:
    """Triton's batcher stalls for 500 ms and more if one has: core pull request 509."""
    for folder in tree.iterdir():
        batching = committed(tree, folder.name).dynamic_batching
        policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
        assert not any(policy.default_timeout_microseconds for policy in policies)


@pytest.mark.parametrize("calibrates", [None, False, True])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("spec", ENSEMBLES, ids=lambda spec: spec.name)
def test_ensemble_steps_connect_equal_types_and_shapes(
    spec: GraphSpec, target: Target, calibrates: bool | None
) -> None:
    configs = model_configs(RepositoryConfig("vit_b", 1024, target, calibrates=calibrates))
    ensemble = configs[spec.name]
    known = {t.name: (t.data_type, tuple(t.dims)) for t in ensemble.input}
    read = set()
    for step in ensemble.ensemble_scheduling.step:
        model = configs[step.model_name]
        optional = {tensor.name for tensor in model.input if tensor.optional}
        assert {t.name for t in model.input} - optional <= set(step.input_map)
        for tensor in model.input:
            if tensor.name in step.input_map:
                wire = step.input_map[tensor.name]
                assert known[wire] == (tensor.data_type, tuple(tensor.dims))
                read.add(wire)
        for tensor in model.output:
            if tensor.name in step.output_map:
                wire = step.output_map[tensor.name]
                assert wire not in known
                known[wire] = (tensor.data_type, tuple(tensor.dims))
    for tensor in ensemble.output:
        assert known[tensor.name] == (tensor.data_type, tuple(tensor.dims))
    assert {tensor.name for tensor in ensemble.input} <= read


@pytest.mark.parametrize("target", TARGETS)
def test_configs_of_calibrating_model_have_the_tensors_of_its_form(target: Target) -> None:
    plain, calibrating = (
        model_configs(RepositoryConfig("vit_b", 1024, target, calibrates=calibrates))
        for calibrates in (False, True)
    )
    assert plain.keys() == calibrating.keys()
    for name, config in calibrating.items():
        form = form_of(SPECS[name], calibrates=True)
        assert tuple(tensor.name for tensor in config.input) == form.input_names
        times = tuple(tensor.name for tensor in times_outputs(config, target))
        assert tuple(tensor.name for tensor in config.output) == (*form.output_names, *times)
        assert {tensor.name for tensor in config.input if tensor.optional} == form.optional
    decode = calibrating["decode"]
    assert decode.input[-1].name == "calibrate" and decode.input[-1].optional
    reported = (configs["image_encoder"].parameters for configs in (plain, calibrating))
    assert [parameters["calibrates"].string_value for parameters in reported] == ["0", "1"]
    silent = model_configs(RepositoryConfig("vit_b", 1024, target))["image_encoder"]
    assert "calibrates" not in silent.parameters


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
@pytest.mark.parametrize("spec", ENSEMBLES, ids=lambda spec: spec.name)
def test_large_ensemble_output_feeds_no_step(spec: GraphSpec, tree: Path) -> None:
    """Triton would drop its step unless the output is requested (see EMBEDDING_STORE)."""
    ensemble = committed(tree, spec.name)
    read = {wire for step in ensemble.ensemble_scheduling.step for wire in step.input_map.values()}
    written = {
        wire for step in ensemble.ensemble_scheduling.step for wire in step.output_map.values()
    }
    shared = read & written & {tensor.name for tensor in ensemble.output}
    assert shared <= {"input_size", "original_size"}
