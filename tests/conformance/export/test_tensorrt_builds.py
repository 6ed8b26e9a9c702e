"""TensorRT-RTX builds graphs to the contract ahead of time; errors name the node."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from cpcsam.artifacts.manifest import MANIFEST_NAME, publish, read_manifest, sha256_file
from cpcsam.contract import GRAPHS, IMAGE_ENCODER, GraphSpec, TensorSpec
from cpcsam.errors import ExportError, ServingError
from cpcsam.gpu import Gpu
from export.build_engine import build_engines
from export.check_tensorrt import main
from export.engines.builder import AHEAD_OF_TIME, plan_from_onnx
from export.engines.importing import require_tensorrt_rtx
from export.triton_repository.publishing import build_repository
from serving.triton.check_repository import check_machine, open_repository
from tests.support.tiny_models import publish_tiny_graphs

pytestmark = pytest.mark.slow

SIZE = 256
GPU = Gpu("NVIDIA L4", "8.9")
ROWS = GraphSpec("rows", (TensorSpec("x", "float32", ("B", 4)),), (), 4)
HEADS = GraphSpec(
    "heads", tuple(TensorSpec(name, "float32", ("B", 4, 64, 32)) for name in "qkv"), (), 4
)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of kind `onnx` of small graphs; make check-tensorrt builds those of vit_b."""
    folder = tmp_path_factory.mktemp("graphs")
    publish_tiny_graphs(folder / "small", SIZE)
    config = {**read_manifest(folder / "small").config, "precision": "fp32"}
    with publish(folder / "onnx", "onnx", config=config) as staging:
        for graph in GRAPHS:
            shutil.copy(folder / f"small/{graph.name}.onnx", staging)
    return folder / "onnx"


def test_build_engines_every_graph_can_be_published(graphs: Path, tmp_path: Path) -> None:
    out, trt = tmp_path / "engines", require_tensorrt_rtx()
    assert build_engines(graphs, out, trt=trt, gpu=GPU, options=AHEAD_OF_TIME)
    assert all((out / f"{graph.name}.plan").stat().st_size > 1_000_000 for graph in GRAPHS)

    manifest = read_manifest(out, "plans")
    assert manifest.parents["onnx"] == sha256_file(graphs / MANIFEST_NAME)
    assert manifest.config.items() >= read_manifest(graphs).config.items()
    engine = manifest.config["engine"]
    assert (engine["tensorrt"], engine["compute_capability"]) == ("1.7.1", "8.9")
    assert engine["profiles"]["mask_decoder"][1]["token_mask"]["largest"] == [4, 16, 17]
    assert manifest.metrics["build_seconds"].keys() == {graph.name for graph in GRAPHS}

    assert not build_engines(graphs, out, trt=trt, gpu=GPU, options=AHEAD_OF_TIME)
    checked = tmp_path / "checked"  # export.check_engines does this, but needs a GPU
    with publish(checked, "engine", parents=manifest.parents, config=manifest.config) as staging:
        skipped = shutil.ignore_patterns(MANIFEST_NAME)
        shutil.copytree(out, staging, dirs_exist_ok=True, ignore=skipped)
    build_repository(checked, tmp_path / "store", target="gpu")
    version, published = open_repository(tmp_path / "store")
    check_machine(version, published, tensorrt="1.7.1", gpus=[GPU])
    with pytest.raises(ServingError, match=r"engines of TensorRT 1\.7\.1, expected .* 10\.13\.3"):
        check_machine(version, published, tensorrt="10.13.3", gpus=[GPU])


def tiny(path: Path, graph: GraphSpec, nodes: list[onnx.NodeProto], opset: int = 18) -> Path:
    """Save a graph with the inputs of a specification and the output y."""

    def value(tensor: TensorSpec) -> onnx.ValueInfoProto:
        dims = [None if size < 0 else size for size in tensor.shape(SIZE)]
        return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, dims)

    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    body = helper.make_graph(nodes, graph.name, [*map(value, graph.inputs)], [y])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(model, path / "graph.onnx")
    return path / "graph.onnx"


def test_plan_from_onnx_shows_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tiny(tmp_path, ROWS, [helper.make_node("Relu", ["x"], ["y"])])
    assert plan_from_onnx(require_tensorrt_rtx(), file, ROWS, SIZE, AHEAD_OF_TIME)
    assert "rows: Building engine: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("before", [None, b"of another TensorRT"])
def test_plan_from_onnx_keeps_timing_cache(tmp_path: Path, before: bytes | None) -> None:
    cache = tmp_path / "cache"
    if before is not None:
        cache.write_bytes(before)
    file = tiny(tmp_path, ROWS, [helper.make_node("Relu", ["x"], ["y"])])
    options = replace(AHEAD_OF_TIME, timing_cache=cache)
    with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
        assert plan_from_onnx(require_tensorrt_rtx(), file, ROWS, SIZE, options)
    assert cache.read_bytes() not in (before, b"")


def refuse(tmp_path: Path, graph: GraphSpec, nodes: list[onnx.NodeProto], opset: int = 18) -> str:
    """Return the error of a graph that TensorRT cannot build."""
    file = tiny(tmp_path, graph, nodes, opset)
    with pytest.raises(ExportError) as caught:
        plan_from_onnx(require_tensorrt_rtx(), file, graph, SIZE, AHEAD_OF_TIME)
    return str(caught.value)


def test_plan_from_onnx_unparsable_node_is_named(tmp_path: Path) -> None:
    half = helper.make_node("Cast", ["x"], ["half"], "/block/Cast", to=TensorProto.FLOAT16)
    message = refuse(
        tmp_path, ROWS, [half, helper.make_node("Add", ["x", "half"], ["y"], "/b/Add")]
    )
    assert message.startswith("graph.onnx, node /b/Add (Add): got ")
    assert "types Float and Half" in message


def test_plan_from_onnx_invalid_shape_names_node(tmp_path: Path) -> None:
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[-1, 3])
    nodes = [shape, helper.make_node("Reshape", ["x", "shape"], ["y"], "/block/Reshape")]
    message = refuse(tmp_path, ROWS, nodes)
    assert message.startswith("graph.onnx, node /block/Reshape: got ")


def test_plan_from_onnx_unnamed_failure_finds_node_by_bisection(tmp_path: Path) -> None:
    """Attention of opset 23 in float32 parses, and TensorRT's message names no node."""
    nodes = [
        helper.make_node("Relu", ["q"], ["r"], "/block/Relu"),
        helper.make_node("Attention", ["r", "k", "v"], ["a"], "/block/Attention"),
        helper.make_node("Sigmoid", ["a"], ["s"], "/block/Sigmoid"),
        helper.make_node("Add", ["s", "r"], ["y"], "/block/Add"),
    ]
    message = refuse(tmp_path, HEADS, nodes, opset=23)
    assert message.startswith("graph.onnx, node /block/Attention_Attention")
    assert "not supported by a dedicated kernel" in message


def test_check_tensorrt_command_without_export_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--onnx", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "no manifest.json" in errors and errors.count("\n") == 1


def test_plan_from_onnx_unfit_profiles_raises(graphs: Path) -> None:
    file = graphs / f"{IMAGE_ENCODER.name}.onnx"
    with pytest.raises(ExportError, match=r"image_encoder\.onnx, node "):
        plan_from_onnx(require_tensorrt_rtx(), file, IMAGE_ENCODER, 512, AHEAD_OF_TIME)
