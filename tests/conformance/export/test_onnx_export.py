"""Exported graphs keep the contract and equal torch; deviating graphs are rejected."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from cpcsam.artifacts.manifest import MANIFEST_NAME, publish, read_manifest, sha256_file
from cpcsam.contract import PROMPT_ENCODER, GraphSpec, TensorSpec, calibrating, graphs_of
from cpcsam.errors import ArtifactError, ExportError
from cpcsam.gpu import visible_gpus
from cpcsam.model.fusion import FusedCpcSam, fuse
from cpcsam.model.run_checkpoint import load_merged, save_merged
from export import compare, to_onnx
from export.accuracy import parity_grid
from export.accuracy.parity_grid import compare_on_grid
from export.accuracy.runners import OnnxRunner, TorchRunner
from export.graphs import tracing
from export.graphs.modules import draw_images, draw_prompts, relative_difference, run_graphs
from export.provenance import code_digest
from export.real_images import packaged_images
from tests.support.model_factory import noisy_cpcsam, windowed_cpcsam

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
GRAPHS = graphs_of(True)
ELEMENT_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "int32": onnx.TensorProto.INT32,
    "uint8": onnx.TensorProto.UINT8,
}


@pytest.fixture(scope="module")
def model(exported: Path) -> FusedCpcSam:
    return load_merged(exported.parent / "merged")


def run_exported(directory: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run all graphs in ONNX Runtime, each on the outputs of the graphs before it."""
    known, runner = dict(tensors), OnnxRunner(directory, "fp32")
    actual = {}
    for graph in GRAPHS:
        outputs = runner(graph, known)
        for name, output in zip(graph.output_names, outputs, strict=True):
            known[name] = actual[f"{graph.name}/{name}"] = output
    return actual


def draw(batch: int, prompts: int, points: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return draw_images(256, batch, generator) | draw_prompts(256, batch, prompts, points, generator)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_exported_graph_equals_contract(exported: Path, graph: GraphSpec) -> None:
    proto = onnx.load(exported / f"{graph.name}.onnx")

    def declared(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
        tensor = value.type.tensor_type
        dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        return value.name, tensor.elem_type, dims

    def specified(tensor: TensorSpec) -> tuple[str, int, list[int | str]]:
        fixed = {"S": 256, "G": 16, "4G": 64}
        dims = [fixed.get(str(dim), dim) for dim in tensor.dims]
        return tensor.name, ELEMENT_TYPES[tensor.dtype], dims

    assert [declared(value) for value in proto.graph.input] == [*map(specified, graph.inputs)]
    assert [declared(value) for value in proto.graph.output] == [*map(specified, graph.outputs)]
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties["model_size"] == "vit_t"
    assert properties["image_size"] == "256"
    assert properties["precision"] == "fp32"


def test_exported_graphs_hold_only_their_own_weights(exported: Path) -> None:
    megabytes = {
        graph.name: (exported / f"{graph.name}.onnx").stat().st_size / 1e6 for graph in GRAPHS
    }
    assert megabytes["image_encoder"] < 18
    assert megabytes["mask_decoder"] < 19
    assert megabytes["prompt_encoder"] < 1.5


def test_export_artifact_reports_whole_parity_grid(exported: Path) -> None:
    manifest = read_manifest(exported, "onnx")
    assert {*manifest.files} == {f"{graph.name}.onnx" for graph in GRAPHS} | {
        "comparison.json",
        "comparison.html",
    }
    assert manifest.config["precision"] == "fp32"
    assert manifest.config["capl"]["rank"] == 8 and manifest.config["calibrates"]
    assert manifest.parents["merged"] == sha256_file(exported.parent / "merged" / MANIFEST_NAME)
    report = json.loads((exported / "comparison.json").read_text())
    [(engine, worst)] = report["grid"].items()
    assert "onnxruntime" in engine and "fp32" in engine
    for graph in GRAPHS[1:]:
        for output in graph.output_names:
            rows = {
                (row["batch"], row["prompts"], row["points"]): row["relative_difference"]
                for row in report["grid_rows"][engine]
                if (row["graph"], row["output"]) == (graph.name, output)
            }
            assert {*rows} == {*itertools.product((1, 2, 3), (1, 3, 8), (1, 2, 7))}
            assert max(rows.values()) == worst[f"{graph.name}/{output}"] <= TOLERANCE
    assert report["grid"] == manifest.metrics["grid"]


@pytest.mark.parametrize("shape", [(3, 5, 11), (1, 64, 2), (4, 1, 1)], ids=str)
def test_exported_graphs_beyond_grid_equal_torch(
    exported: Path, model: FusedCpcSam, shape: tuple[int, int, int]
) -> None:
    tensors = draw(*shape, seed=11)
    expected = run_graphs(model, tensors)
    for name, actual in run_exported(exported, tensors).items():
        assert relative_difference(actual, expected[name]) <= TOLERANCE, name


def test_exported_graphs_batched_images_equal_single_images(exported: Path) -> None:
    tensors = draw(3, 4, 5, seed=12)
    together = run_exported(exported, tensors)
    for index in range(3):
        alone = run_exported(exported, {n: t[index : index + 1] for n, t in tensors.items()})
        for name, actual in alone.items():
            assert relative_difference(together[name][index], actual[0]) <= TOLERANCE, name


def test_exported_graphs_extra_padding_keeps_masks(exported: Path) -> None:
    tensors = draw(2, 3, 4, seed=13)
    padded = dict(tensors)
    shape = (2, 3, 12)
    padded["point_coords"] = torch.cat(
        [tensors["point_coords"], torch.full((*shape, 2), torch.nan)], dim=2
    )
    padded["point_labels"] = torch.cat(
        [tensors["point_labels"], torch.full(shape, -1, dtype=torch.int32)], dim=2
    )
    expected, actual = run_exported(exported, tensors), run_exported(exported, padded)
    for graph in ("mask_decoder", "mask_decoder_with_mask"):
        for output in ("low_res_masks", "iou_predictions"):
            name = f"{graph}/{output}"
            assert relative_difference(actual[name], expected[name]) <= TOLERANCE, name


def test_read_manifest_altered_graph_raises(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "onnx")
    file = copy / "mask_decoder.onnx"
    file.write_bytes(file.read_bytes().replace(b"low_res_masks", b"low_res_maskz"))
    with pytest.raises(ArtifactError, match=r"mask_decoder\.onnx: got sha256 .*altered"):
        read_manifest(copy, "onnx")


@pytest.mark.parametrize("graph_name", ["image_encoder", "mask_decoder_with_mask"])
def test_compare_on_grid_altered_weight_raises(
    exported: Path, model: FusedCpcSam, graph_name: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(exported, tmp_path / "onnx")
    file = copy / f"{graph_name}.onnx"
    proto = onnx.load(file)
    weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values.flat[:100] += 0.05
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, file)
    with pytest.raises(ExportError, match=rf"{graph_name}, \w+ \(1, .*relative difference"):
        compare_on_grid(TorchRunner(model), OnnxRunner(copy, "fp32"), 256, TOLERANCE)


class FrozenFactor(nn.Module):
    """Head whose values depend on a size frozen by tracing."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(tokens) * len(tokens)


class FrozenShape(nn.Module):
    """Task module with a shape frozen by tracing."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task
        self.points, self.sparse = task.points, task.sparse
        self.calibrate_dense = task.calibrate_dense

    def forward(self, tokens: Tensor, at_points: Tensor) -> Tensor:
        calibrated = self.task(tokens, at_points)
        return calibrated.reshape(*map(int, calibrated.shape))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("factor", r"^mask_decoder, iou_predictions \(1, 1, 4\) at B=1 P=1 N=1: got a"),
        ("shape", r"^prompt_encoder of image_embeddings .*failure of ONNX Runtime"),
    ],
)
def test_export_graphs_broken_graph_raises_and_publishes_nothing(
    broken: str, message: str, tmp_path: Path
) -> None:
    fused = fuse(windowed_cpcsam(model_size="vit_t"))
    if broken == "factor":
        decoder = fused.sam.mask_decoder
        decoder.iou_prediction_head = FrozenFactor(decoder.iou_prediction_head)
    else:
        fused.capl.task = FrozenShape(fused.capl.task)
    with pytest.raises(ExportError, match=message):
        to_onnx.export_graphs(fused, tmp_path / "onnx")
    assert not any(tmp_path.iterdir())


def test_onnx_from_torch_large_weights_are_external(
    model: FusedCpcSam, exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracing, "INLINE_BYTES", 100_000)
    file = tmp_path / "prompt_encoder.onnx"
    graph = calibrating(PROMPT_ENCODER)
    tracing.onnx_from_torch(model, graph, file, {})
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f"{file.name}.data"}
    assert file.stat().st_size < 100_000
    inputs = {
        name: draw(1, 2, 3, seed=1).get(name, torch.ones(1, 256, 16, 16))
        for name in graph.input_names
    }
    outputs = [OnnxRunner(directory, "fp32")(graph, inputs) for directory in (tmp_path, exported)]
    assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))


def test_export_and_compare_commands_report_or_fail_in_one_line(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The export itself compared on the whole grid.
    monkeypatch.setattr(parity_grid, "BATCHES", {256: (1,)})
    monkeypatch.setattr(parity_grid, "PROMPTS", (2,))

    def run(main, *args: object) -> tuple[int, str, list[str]]:  # type: ignore[no-untyped-def]
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if "python -m" in line]

    merged = exported.parent / "merged"
    report, image = tmp_path / "report", packaged_images()[0]
    words = ["--merged", merged, "--onnx", exported, "--images", image, "--out", report]
    code, out, _ = run(compare.main, *words)
    assert code == 0
    assert all(f"{graph.name}/{name}" in out for graph in GRAPHS for name in graph.output_names)
    assert {path.name for path in report.iterdir()} == {"comparison.json", "comparison.html"}

    code, out, errors = run(to_onnx.main, "--merged", tmp_path / "no", "--out", tmp_path / "x")
    assert (code, out, len(errors)) == (2, "", 1)
    assert "expected an artifact of kind merged" in errors[0]
    assert not (tmp_path / "x").exists()

    save_merged(fuse(noisy_cpcsam(seed=1)), tmp_path / "other", parents={})
    code, out, errors = run(compare.main, "--merged", tmp_path / "other", "--onnx", exported)
    assert (code, out, len(errors)) == (2, "", 1)
    assert "give the one that was exported" in errors[0]


@pytest.mark.skipif(bool(visible_gpus()), reason="there is a GPU")
def test_export_command_for_cuda_without_a_gpu_says_that_nothing_was_compared_on_one(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, out = exported.parent / "merged", tmp_path / "onnx"
    parents = {"merged": sha256_file(merged / MANIFEST_NAME), "code": code_digest()}
    config = {**read_manifest(merged).config, "precision": "fp16"}
    with publish(out, "onnx", parents=parents, config=config):
        pass
    words = ["--merged", str(merged), "--out", str(out), "--provider", "cuda", "--precision"]
    assert to_onnx.main([*words, "fp16"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{out}: no GPU here, so the graphs are not compared in the CUDA provider",
        f"{out}: unchanged",
    ]
    assert to_onnx.main([*words, "int8"]) == 2
    assert "--precision: got int8 with --provider cuda" in capsys.readouterr().err
    code = compare.main(["--merged", str(merged), "--onnx", str(exported), "--provider", "cuda"])
    assert code == 2 and "available providers" in capsys.readouterr().err
