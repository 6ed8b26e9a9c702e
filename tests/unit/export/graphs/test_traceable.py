"""Traceable, smoothed and fp16 forms of a model compute what the model does."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from cpcsam.errors import ExportError
from cpcsam.model.fusion import fuse
from export.graphs.fp16 import to_fp16
from export.graphs.modules import draw_images, draw_prompts, relative_difference, run_graphs
from export.graphs.smooth_quant import smooth_encoder
from export.graphs.traceable import BlockwiseAttention, make_traceable
from export.real_images import Scene
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, windowed_cpcsam

TOLERANCE = 1e-5


def tensors(image_size: int = 256) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return draw_images(image_size, 2, generator) | draw_prompts(image_size, 2, 3, 4, generator)


@pytest.mark.parametrize("queries", [1, 16, 48, 112, 10_000])
@torch.no_grad()
def test_blockwise_attention_equals_attention(queries: int) -> None:
    """Chunks of a single row, of several, with a smaller last chunk, and of all rows."""
    torch.manual_seed(0)
    attn = Attention(24, num_heads=3, use_rel_pos=True, input_size=(14, 14)).eval()
    fill_with_noise(attn, seed=1)
    x = torch.randn(3, 14, 14, 24)
    assert relative_difference(BlockwiseAttention(attn, queries)(x), attn(x)) <= TOLERANCE


def test_make_traceable_shares_weights_and_keeps_model() -> None:
    model = fuse(noisy_cpcsam())
    expected = run_graphs(model, tensors())
    form = make_traceable(model, queries=64)
    for name, actual in run_graphs(form, tensors()).items():
        assert relative_difference(actual, expected[name]) <= TOLERANCE, name
    assert {p.data_ptr() for p in form.parameters()} <= {p.data_ptr() for p in model.parameters()}
    assert isinstance(model.sam.image_encoder.blocks[0].attn, Attention)


@pytest.mark.parametrize("make", [noisy_cpcsam, windowed_cpcsam])
def test_to_fp16_is_close_and_keeps_contract(make) -> None:  # type: ignore[no-untyped-def]
    model = fuse(make())
    expected = run_graphs(model, tensors())
    for name, actual in run_graphs(to_fp16(make_traceable(model)), tensors()).items():
        assert actual.dtype == torch.float32
        assert relative_difference(actual, expected[name]) <= 2e-2, name
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_to_fp16_too_large_weight_raises() -> None:
    model = fuse(noisy_cpcsam())
    model.sam.mask_decoder.iou_token.weight.data[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"iou_token\.weight: got a weight of 1e\+05.*fp32"):
        to_fp16(make_traceable(model))


@pytest.mark.parametrize("make", [noisy_cpcsam, windowed_cpcsam])
@torch.no_grad()
def test_smooth_encoder_changes_weights_and_keeps_outputs(make) -> None:  # type: ignore[no-untyped-def]
    form = make_traceable(fuse(make()))
    for block in form.sam.image_encoder.blocks:
        block.norm1.weight.mul_(torch.linspace(0.5, 2, len(block.norm1.weight)))
        block.norm2.bias.add_(torch.linspace(-1, 1, len(block.norm2.bias)))
    drawn = tensors()
    scene = Scene(
        "noise",
        drawn["image"][0].permute(1, 2, 0).numpy(),
        drawn["image"][:1],
        drawn["input_size"][:1],
    )
    smooth = smooth_encoder(form, [scene])
    image = drawn["image"], drawn["input_size"]
    assert relative_difference(smooth.encode_image(*image), form.encode_image(*image)) <= TOLERANCE
    before, after = (model.sam.image_encoder.blocks[0] for model in (form, smooth))
    assert not torch.equal(after.attn.qkv.weight, before.attn.qkv.weight)

    ranges = [block.norm1.weight.abs() for block in (before, after)]
    unevenness = [float(weights.max() / weights.min()) for weights in ranges]
    assert unevenness[1] < 0.8 * unevenness[0]
    assert after.norm2.bias.abs().max() < 0.8 * before.norm2.bias.abs().max()
