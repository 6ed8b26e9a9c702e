"""fp16 and int8 exports of the shipped base: element types, mask fidelity and serving."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from cpcsam.artifacts.manifest import MANIFEST_NAME, read_manifest, sha256_file
from cpcsam.backends.onnx_backend import open_session
from cpcsam.contract import GRAPHS, IMAGE_ENCODER, MASK_DECODER, GraphSpec
from cpcsam.errors import ExportError
from cpcsam.images.options import Intensity
from cpcsam.model.fusion import FusedCpcSam
from cpcsam.model.run_checkpoint import load_merged
from export import to_onnx
from export.accuracy import parity_grid as grid
from export.accuracy.comparison import TOLERANCES
from export.graphs import precisions
from export.graphs.precisions import trace_graphs
from export.real_images import packaged_images, read_scenes
from export.triton_repository.publishing import build_repository
from serving.backend.onnx_model import load_graph
from serving.backend.step import Settings

pytestmark = pytest.mark.slow

IOU_MEAN, IOU_MIN = 0.998, 0.99
SHORT_GRID = {"BATCHES": {256: (2,)}, "PROMPTS": (3,), "POINTS": (2,)}
"""The whole grid is test_onnx_export's."""
WEIGHTED = ("MatMul", "Gemm", "Conv", "ConvTranspose")
COORDINATES = ("/MatMul",)
"""Points times the random frequencies of their encoding: the one product of float32 tensors."""


@pytest.fixture(scope="module")
def merged(shipped_build: Path) -> Path:
    """The merged shipped base; its graphs in float32 are in the sibling folder `onnx`."""
    return shipped_build / "merged"


def copy_graphs(source: Path, folder: Path) -> None:
    for file in source.glob("*.onnx"):
        shutil.copy(file, folder)


def export(merged: Path, out: Path) -> Path:
    """Export to the precision that `out` is named by, from the float32 graphs that there are."""
    precision = out.name

    def trace(model: FusedCpcSam, folder: Path, precision: str, properties: Any) -> None:
        if precision == "fp32":
            copy_graphs(merged.parent / "onnx", folder)
        else:
            trace_graphs(model, folder, precision, properties)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precisions, "trace_graphs", trace)
        for name, values in SHORT_GRID.items():
            patch.setattr(grid, name, values)
        to_onnx.export_graphs(
            load_merged(merged),
            out,
            parents={"merged": sha256_file(merged / MANIFEST_NAME)},
            config=read_manifest(merged).config,
            precision=precision,
            images=packaged_images()[:4],
        )
    return out


@pytest.fixture(scope="module")
def fp16(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(merged, tmp_path_factory.mktemp("fp16") / "fp16")


@pytest.fixture(scope="module")
def int8(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(merged, tmp_path_factory.mktemp("int8") / "int8")


@pytest.fixture(params=["fp16", "int8"])
def reduced(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def element_types(file: Path) -> tuple[onnx.GraphProto, dict[str, int]]:
    """Load a graph with the element type of every tensor in it."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return graph, types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_export_reduced_precision_masks_within_tolerance(reduced: Path) -> None:
    report = json.loads((reduced / "comparison.json").read_text())
    assert report["precision"] == reduced.name and report["verdict"] == "Within tolerance."
    engines = report["masks"]
    assert len(engines) == 2
    for engine, summary in engines.items():
        assert summary["masks"] >= 50
        assert summary["iou_mean"] >= IOU_MEAN and summary["iou_min"] >= IOU_MIN, engine
        assert summary["boundary_mean_max"] <= 0.256
    [full, of_precision] = (report["masks"][engine] for engine in engines)
    assert full["iou_min"] > of_precision["iou_min"] < 1
    assert (reduced / "comparison.html").stat().st_size > 50_000
    assert not (reduced / "fp32").exists()


@pytest.mark.parametrize("spec", GRAPHS, ids=lambda graph: graph.name)
def test_fp16_graph_is_strongly_typed(fp16: Path, spec: GraphSpec) -> None:
    graph, types = element_types(fp16 / f"{spec.name}.onnx")
    products = norms = 0
    for node in graph.node:
        if node.op_type in WEIGHTED and node.name not in COORDINATES:
            products += 1
            assert {types[name] for name in node.input} == {TensorProto.FLOAT16}, node.name
        if node.op_type in ("LayerNormalization", "ReduceMean", "Sqrt"):
            norms += 1
            assert {types[name] for name in node.input if types[name] != TensorProto.INT64} == {
                TensorProto.FLOAT
            }, node.name
    assert norms > 0 or "decoder" not in spec.name
    assert products > 0 or spec.name == "prompt_encoder"
    full = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
    assert sum(np.prod(tensor.dims) for tensor in full) < 10_000
    half = sum(len(tensor.raw_data) for tensor in graph.initializer) / 2
    assert half > 3_000_000 or "prompt" in spec.name


@pytest.mark.parametrize("name", ["image_encoder", "mask_decoder", "mask_decoder_with_mask"])
def test_fp16_attention_has_nothing_between_its_products_that_hinders_fusion(
    fp16: Path, name: str
) -> None:
    graph, types = element_types(fp16 / f"{name}.onnx")
    made_by = {output: node for node in graph.node for output in node.output}
    used_by = {source: node for node in graph.node for source in node.input}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    for node in softmaxes:
        assert types[node.output[0]] == TensorProto.FLOAT16
        assert used_by[node.output[0]].op_type == "MatMul", "the product with the values"
        before = made_by[node.input[0]]
        if before.op_type == "Add":  # the mask of empty prompt slots
            [before] = [made_by[source] for source in before.input if is_product(source, made_by)]
        assert before.op_type == "MatMul", "the product of queries and keys"
    assert len(softmaxes) == 7, "a block of the encoder each, and all of the decoder's"


def is_product(tensor: str, made_by: dict[str, onnx.NodeProto]) -> bool:
    return tensor in made_by and made_by[tensor].op_type == "MatMul"


LAYERS = ("attn/qkv", "attn/proj", "mlp/lin1", "mlp/lin2")
DEPTH = 7


def quantized_layers(encoder: onnx.ModelProto) -> set[tuple[int, str]]:
    """Block and name of every linear layer in int8."""
    names = [node.name for node in encoder.graph.node if node.op_type == "MatMulInteger"]
    found = (re.search(r"blocks\.(\d+)/(\w+/\w+)/MatMul/", name) for name in names)
    return {(int(layer[1]), layer[2]) for layer in found if layer}


def layers_from(first: int) -> set[tuple[int, str]]:
    return {(block, layer) for block in range(first, DEPTH) for layer in LAYERS}


def test_int8_quantizes_weights_of_the_encoder_alone(int8: Path) -> None:
    for spec in GRAPHS:
        graph = onnx.load(int8 / f"{spec.name}.onnx").graph
        integer = [node for node in graph.node if node.op_type == "MatMulInteger"]
        assert bool(integer) == (spec is IMAGE_ENCODER)
        for node in integer:
            [weight] = [tensor for tensor in graph.initializer if tensor.name == node.input[1]]
            assert weight.data_type == TensorProto.INT8
            values = onnx.numpy_helper.to_array(weight)
            assert -64 <= values.min() and values.max() <= 64, "exact on CPUs without VNNI"
            name = weight.name.replace("/weight", "/columns")
            [columns] = [tensor for tensor in graph.initializer if tensor.name == name]
            assert list(columns.dims) == [weight.dims[1]], "a scale for every output channel"


def test_int8_quantizes_as_many_blocks_as_are_within_tolerance(int8: Path) -> None:
    encoder = onnx.load(int8 / "image_encoder.onnx")
    [first] = [int(p.value) for p in encoder.metadata_props if p.key == precisions.INT8_FROM]
    assert first == 0, "all blocks of the shipped base are within tolerance"
    assert quantized_layers(encoder) == layers_from(first)


def test_int8_out_of_tolerance_quantizes_fewer_blocks(merged: Path, tmp_path: Path) -> None:
    seen = []

    def accepts(folder: Path, first: int) -> bool:
        assert quantized_layers(onnx.load(folder / "image_encoder.onnx")) == layers_from(first)
        seen.append(first)
        return False

    def trace(model: FusedCpcSam, folder: Path, precision: str, properties: Any) -> None:
        copy_graphs(merged.parent / "onnx", folder)

    model, scenes = load_merged(merged), read_scenes(packaged_images()[:1], 256, Intensity())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precisions, "trace_graphs", trace)
        precisions.write_graphs(model, tmp_path, "int8", {}, scenes, accepts)
    assert seen == [0, 2, 4]
    assert (tmp_path / "image_encoder.onnx").is_file(), "the last is left for the gate to refuse"


def test_int8_embedding_does_not_depend_on_its_company(int8: Path) -> None:
    session = open_session(int8 / "image_encoder.onnx", 1)
    scenes = read_scenes(packaged_images(), 256, Intensity())
    feeds = {
        "image": np.concatenate([scene.image.numpy() for scene in scenes]),
        "input_size": np.concatenate([scene.input_size.numpy() for scene in scenes]),
    }
    [together] = session.run(["image_embeddings"], feeds)
    for index in range(len(scenes)):
        alone = {name: array[index : index + 1] for name, array in feeds.items()}
        [embedding] = session.run(["image_embeddings"], alone)
        # What is left is the rounding of float32 products, whose order depends on the batch.
        assert abs(together[index] - embedding[0]).max() < 1e-5


@pytest.mark.parametrize("spec", (IMAGE_ENCODER, MASK_DECODER), ids=lambda graph: graph.name)
def test_reduced_graph_in_backend_keeps_contract(reduced: Path, spec: GraphSpec) -> None:
    """The CPU repository takes any precision; its steps exchange the contract's tensors."""
    version = build_repository(reduced, reduced.parent / f"{reduced.name}-repository")
    folder = version / ("image_encoder" if spec is IMAGE_ENCODER else "decoder") / version.name
    file = folder / ("model.onnx" if spec is IMAGE_ENCODER else f"{spec.name}.onnx")
    settings = Settings(spec.name, folder, {"image_size": "256", "intra_op_threads": "1"})
    run = load_graph(settings, spec, file)
    tensors = {t.name: np.ones([2, *map(abs, t.shape(256)[1:])], t.dtype) for t in spec.inputs}
    answer = run(tensors)
    for tensor in spec.outputs:
        assert answer[tensor.name].dtype == tensor.dtype
        assert np.isfinite(answer[tensor.name]).all()


def test_export_graphs_beyond_tolerance_writes_only_rejected_page(
    merged: Path, int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_again(model: FusedCpcSam, folder: Path, *_: object) -> dict[str, Path]:
        folders = {"fp32": folder / "fp32", "int8": folder}
        folders["fp32"].mkdir()
        copy_graphs(merged.parent / "onnx", folders["fp32"])
        copy_graphs(int8, folder)
        return folders

    monkeypatch.setattr(to_onnx, "write_graphs", write_again)
    strict = replace(TOLERANCES["int8"], iou_mean=0.9999)
    monkeypatch.setitem(TOLERANCES, "int8", strict)
    for name, values in SHORT_GRID.items():  # this test is about masks
        monkeypatch.setattr(grid, name, values)
    out = tmp_path / "onnx"
    with pytest.raises(
        ExportError, match=r"int8, mean mask IoU over \d+ masks of real images: got 0\.99"
    ):
        to_onnx.export_graphs(
            load_merged(merged), out, precision="int8", images=packaged_images()[:1]
        )
    assert {path.name for path in tmp_path.iterdir()} == {"onnx-rejected.html"}
    assert "data:image/png" in (tmp_path / "onnx-rejected.html").read_text()
