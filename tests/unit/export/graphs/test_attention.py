from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling.image_encoder import (
    Attention,
    window_partition,
    window_unpartition,
)

from export.graphs.attention import BlockwiseAttention, FoldedAttention, MakeAttention
from export.graphs.modules import relative_difference
from tests.support.model_factory import fill_with_noise

FORM_TOLERANCE = 1e-5
FORMS: dict[str, MakeAttention] = {
    "a row": partial(BlockwiseAttention, queries=1),
    "two rows and one": partial(BlockwiseAttention, queries=16),
    "all rows": partial(BlockwiseAttention, queries=10_000),
    "folded": FoldedAttention,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("height", "width"), [(14, 14), (7, 7), (9, 16), (5, 20)])
@torch.no_grad()
def test_window_attention_equals_partition_attention_and_unpartition(
    form: str, height: int, width: int
) -> None:
    """Whole windows, and grids that are padded at the bottom, at the right, or at both."""
    attn = noisy_attention(7)
    x = torch.randn(3, height, width, 24)
    windows, padded = window_partition(x, 7)
    expected = window_unpartition(attn(windows), 7, padded, (height, width))
    assert relative_difference(FORMS[form](attn, 7)(x), expected) <= FORM_TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_window_attention_without_windows_equals_attention(form: str) -> None:
    attn = noisy_attention(7)
    x = torch.randn(3, 7, 7, 24)
    assert relative_difference(FORMS[form](attn, 0)(x), attn(x)) <= FORM_TOLERANCE


@torch.no_grad()
def test_window_attention_projects_no_padded_token() -> None:
    """A grid of 9 x 9 takes 4 windows of 7 x 7, so 196 tokens with and 81 without the padded."""
    rows = []
    attn = noisy_attention(7)
    for layer in (attn.qkv, attn.proj):
        layer.register_forward_pre_hook(
            lambda layer, inputs: rows.append(inputs[0][..., 0].numel())
        )
    BlockwiseAttention(attn, 7)(torch.randn(1, 9, 9, 24))
    assert rows == [81, 81]


def noisy_attention(side: int) -> Attention:
    torch.manual_seed(0)
    attn = Attention(24, num_heads=3, use_rel_pos=True, input_size=(side, side)).eval()
    fill_with_noise(attn, seed=1)
    return attn
