from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from benchmarks.gpu.attention_forms import (
    COMPILED_FORMS,
    FusedFoldedAttention,
    add_relative_positions,
    use_form,
)


def tiny_encoder(dtype: torch.dtype = torch.float64) -> ImageEncoderViT:
    """Two blocks on a grid of 8 x 8, the first in windows of 3, which pad the grid."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=128,
        embed_dim=40,
        depth=2,
        num_heads=2,
        out_chans=16,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    nn.init.normal_(encoder.pos_embed, std=0.1)
    add_relative_positions(encoder, std=0.5)
    return encoder.to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("form", COMPILED_FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_form_of_encoder_with_padded_windows_equals_official(
    form: str, dtype: torch.dtype, tolerance: float
) -> None:
    encoder = tiny_encoder(dtype)
    images = torch.randn(2, 3, 128, 128, dtype=dtype)
    expected, actual = encoder(images), use_form(encoder, form)(images)
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("form", [form for form in COMPILED_FORMS if form != "official"])
def test_form_equals_official_attention_on_an_oblong_grid(form: str) -> None:
    attention = tiny_encoder().blocks[1].attn
    height, width = 8, 5
    table = torch.randn(2 * width - 1, 20, dtype=torch.float64)
    attention.rel_pos_w = nn.Parameter(table, requires_grad=False)
    x = torch.randn(3, height, width, 40, dtype=torch.float64)
    torch.testing.assert_close(
        COMPILED_FORMS[form](attention, 0)(x), attention(x), rtol=1e-10, atol=1e-12
    )


def test_relative_positions_matter() -> None:
    encoder = tiny_encoder()
    images = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    before = use_form(encoder, "folded")(images)
    encoder.blocks[1].attn.rel_pos_h.zero_()
    assert (use_form(encoder, "folded")(images) - before).abs().max() > 1e-3


def test_use_form_leaves_the_encoder_unchanged_and_shares_weights() -> None:
    encoder = tiny_encoder()
    attention = encoder.blocks[0].attn
    folded = use_form(encoder, "folded")
    assert encoder.blocks[0].attn is attention
    assert isinstance(folded.blocks[0].attn, FusedFoldedAttention)
    assert folded.blocks[0].attn.qkv.weight is attention.qkv.weight
