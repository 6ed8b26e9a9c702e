"""Tracing with shape-only kernels gives the graphs of tracing with values."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import export.graphs.tracing
from cpcsam.contract import GRAPHS
from cpcsam.model.fusion import fuse
from export.graphs.precisions import trace_graphs
from export.graphs.tracing import shape_only_kernels
from tests.support.model_factory import windowed_cpcsam


def test_shape_only_kernels_in_block_gives_shapes_without_values() -> None:
    left, right, bias = torch.ones(5, 3), torch.ones(3, 7), torch.ones(7)
    several = torch.ones(2, 5, 3), torch.ones(2, 3, 7)
    with shape_only_kernels():
        assert (left @ right).shape == torch.addmm(bias, left, right).shape == (5, 7)
        assert torch.bmm(*several).shape == (2, 5, 7)
        assert not torch.equal(left @ right, torch.full((5, 7), 3.0))
    assert torch.equal(left @ right, torch.full((5, 7), 3.0))
    assert torch.equal(torch.addmm(bias, left, right), torch.full((5, 7), 4.0))
    assert torch.equal(torch.bmm(*several), torch.full((2, 5, 7), 3.0))


def test_shape_only_kernels_convolve_float16_to_its_shape() -> None:
    image, weight = torch.ones(2, 3, 8, 9).half(), torch.ones(4, 3, 3, 2).half()
    options = {"stride": (2, 3), "padding": (1, 0)}
    expected = F.conv2d(image.float(), weight.float(), **options).half()
    with shape_only_kernels():
        found = F.conv2d(image, weight, torch.ones(4).half(), **options)
    assert (found.shape, found.dtype) == (expected.shape, torch.float16)
    assert not torch.equal(found, expected)
    assert torch.equal(F.conv2d(image, weight, **options), expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_trace_graphs_with_shape_only_kernels_writes_equal_files(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On small images: a processor without float16 arithmetic computes the values for long."""
    model = fuse(windowed_cpcsam(64, model_size="vit_t")).requires_grad_(False)
    for folder in ("shapes", "values"):
        (tmp_path / folder).mkdir()
    trace_graphs(model, tmp_path / "shapes", precision)
    monkeypatch.setattr(export.graphs.tracing, "shape_only_kernels", nullcontext)
    trace_graphs(model, tmp_path / "values", precision)
    for graph in GRAPHS:
        files = [tmp_path / folder / f"{graph.name}.onnx" for folder in ("shapes", "values")]
        assert files[0].read_bytes() == files[1].read_bytes()
