"""Export of vit_b, vit_l and vit_h by the code that exports vit_t, at every image size."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch

from cpcsam.contract import GRAPHS, IMAGE_ENCODER, IMAGE_SIZES, MODEL_SIZES, graphs_of
from cpcsam.model.build_sam import ENCODERS, build_sam_with
from cpcsam.model.fusion import FusedCpcSam, fuse
from cpcsam.model.sam import CpcSam
from export import check_parity
from export.accuracy.comparison import TOLERANCES
from export.accuracy.parity_grid import compare_on_grid
from export.accuracy.runners import OnnxRunner, TorchRunner
from export.graphs.attention import BlockwiseAttention
from export.graphs.modules import GraphModule, relative_difference
from export.graphs.precisions import trace_graphs
from export.graphs.traceable import make_traceable
from export.graphs.tracing import onnx_from_torch
from tests.support.model_factory import shallow_encoder, windowed_cpcsam

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
WHOLE_MATRIX = 32**4
"""Elements of one head's 1024 × 1024 probabilities at 512 pixels."""


@pytest.mark.parametrize(
    ("model_size", "image_size", "batches"),
    [("vit_b", 256, (1, 3)), ("vit_b", 512, (1,)), ("vit_h", 256, (2,))],
)
def test_export_two_blocks_of_encoder_equals_torch(
    model_size: str, image_size: int, batches: tuple[int, ...], tmp_path: Path
) -> None:
    """A block in padded windows and a global one; make check-parity takes vit_b at 1024 pixels."""
    model = fuse(windowed_cpcsam(image_size, model_size=model_size))
    onnx_from_torch(make_traceable(model), IMAGE_ENCODER, tmp_path / "image_encoder.onnx", {})
    compare_on_grid(
        TorchRunner(model),
        OnnxRunner(tmp_path, "fp32"),
        image_size,
        TOLERANCE,
        batches=batches,
        encoder_only=True,
    )


def test_export_vit_t_two_blocks_at_512_equals_torch(tmp_path: Path) -> None:
    """With mask prompts; full depth and 256 pixels are test_onnx_export's."""
    model = fuse(windowed_cpcsam(512, model_size="vit_t"))
    trace_graphs(model, tmp_path, "fp32")
    compare_on_grid(
        TorchRunner(model),
        OnnxRunner(tmp_path, "fp32"),
        512,
        TOLERANCE,
        batches=(1,),
        prompts=(2,),
        points=(3,),
    )


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize("model_size", MODEL_SIZES)
def test_graph_module_of_every_size_has_contract_shapes(model_size: str, image_size: int) -> None:
    """Without storage, in two blocks: test_official_checkpoints has every size in full depth."""
    with torch.device("meta"), torch.no_grad():
        sam = build_sam_with(shallow_encoder(model_size), image_size)
        model = make_traceable(fuse(CpcSam(sam).to("meta")))
        sizes = {"B": 2, "P": 3, "N": 4, "N+1": 5}
        for graph in GRAPHS:

            def shape(tensor) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
                fixed = tensor.shape(image_size)
                return tuple(
                    sizes.get(str(dim), size) for dim, size in zip(tensor.dims, fixed, strict=True)
                )

            inputs = [
                torch.zeros(shape(tensor), dtype=getattr(torch, tensor.dtype))
                for tensor in graph.inputs
            ]
            outputs = GraphModule(model, graph)(*inputs)
            assert [tuple(output.shape) for output in outputs] == [*map(shape, graph.outputs)]


def test_blockwise_attention_bounds_largest_tensor(tmp_path: Path) -> None:
    """In a single chunk of queries, the largest tensor holds all probabilities."""
    model = fuse(windowed_cpcsam(512, model_size="vit_t"))
    heads = 6
    largest = {}
    for queries in (256, 1024):
        file = tmp_path / f"{queries}.onnx"
        onnx_from_torch(
            make_traceable(model, partial(BlockwiseAttention, queries=queries)),
            IMAGE_ENCODER,
            file,
            {},
        )
        inferred = onnx.shape_inference.infer_shapes(onnx.load(file), data_prop=True)
        largest[queries] = max(_elements(value) for value in inferred.graph.value_info)
    assert largest[1024] == heads * WHOLE_MATRIX
    assert largest[256] <= heads * WHOLE_MATRIX // 4


def _elements(value: onnx.ValueInfoProto) -> int:
    """Count the elements of an image; an unknown dimension counts as 1."""
    count = 1
    for dim in value.type.tensor_type.shape.dim:
        count *= dim.dim_value or 1
    return count


def test_blockwise_attention_in_chunks_keeps_outputs(tmp_path: Path) -> None:
    model = fuse(windowed_cpcsam(model_size="vit_t"))
    image = torch.randint(0, 256, (1, 3, 256, 256)).byte()
    inputs = {"image": image, "input_size": torch.tensor([[256, 150]], dtype=torch.int32)}
    [expected] = TorchRunner(model)(IMAGE_ENCODER, inputs)
    for queries in (48, 160):
        onnx_from_torch(
            make_traceable(model, partial(BlockwiseAttention, queries=queries)),
            IMAGE_ENCODER,
            tmp_path / "image_encoder.onnx",
            {},
        )
        [actual] = OnnxRunner(tmp_path, "fp32")(IMAGE_ENCODER, inputs)
        assert relative_difference(actual, expected) <= TOLERANCE


def test_check_parity_command_reports_outputs_and_fails_beyond_tolerance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`make check-parity` takes vit_b at 1024 pixels; here two blocks on fewer shapes."""
    monkeypatch.setitem(ENCODERS, "vit_t", shallow_encoder("vit_t"))
    graphs = tmp_path / "graphs"

    def trace_once(model: FusedCpcSam, folder: Path, precision: str) -> None:
        if not graphs.exists():
            graphs.mkdir()
            trace_graphs(model, graphs, precision)
        shutil.copytree(graphs, folder, dirs_exist_ok=True)

    monkeypatch.setattr(check_parity, "trace_graphs", trace_once)
    for name in ("BATCHES", "PROMPTS"):
        monkeypatch.setattr(check_parity, name, (2,))
    assert check_parity.main(["--model-size", "vit_t", "--image-size", "256"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(len(graph.outputs) for graph in graphs_of(True))
    assert all(line.endswith(("over 1 shapes", "over 3 shapes")) for line in lines)
    monkeypatch.setitem(TOLERANCES, "fp32", replace(TOLERANCES["fp32"], grid=1e-9))
    assert check_parity.main(["--model-size", "vit_t", "--image-size", "256"]) == 2
    assert "image_encoder, image_embeddings (2, 256, 16, 16)" in capsys.readouterr().err
