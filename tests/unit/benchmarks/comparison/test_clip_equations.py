"""The systems on CLIP: equations of their publications, each against plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.budget import Budget
from benchmarks.comparison.methods.clip.lseg import SpatialRegularisation
from benchmarks.comparison.methods.clip.scorers import fuse, grounding_loss
from benchmarks.comparison.methods.clip.towers import pool_by_masks
from benchmarks.comparison.methods.clip.zs3net import BANDWIDTHS, mean_discrepancy, share_of


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_features_pooled_by_masks_equal_a_loop() -> None:
    features = noise(5, 4, 4)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 1:5, 2:7] = True
    masks[1, 7, 0] = True
    for mask, pooled in zip(masks, pool_by_masks(features, masks), strict=True):
        total, count = torch.zeros(5), 0
        for row, column in itertools.product(range(8), range(8)):
            if mask[row, column]:
                total += features[:, row // 2, column // 2]
                count += 1
        assert torch.allclose(pooled, total / count, atol=1e-6)


def test_spatial_regularisation_knows_no_order_of_classes() -> None:
    block, logits, order = SpatialRegularisation(), noise(2, 3, 5, 6), [2, 0, 1]
    assert torch.allclose(block(logits[:, order]), block(logits)[:, order], atol=1e-6)
    kernel = block.kernel
    one = F.conv2d(logits[:1, 1:2], kernel.weight, kernel.bias, padding=1)[0, 0]
    assert torch.allclose(block(logits)[0, 1], one + logits[0].max(0).values, atol=1e-6)


def test_grounding_loss_equals_the_equations() -> None:
    logits, owner = noise(5, 4), torch.tensor([0, 0, 1, 1, 2])
    captions = [torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([], dtype=torch.int64)]
    pairs = np.zeros((2, 2))
    for image, caption in itertools.product(range(2), range(2)):
        for word in captions[caption].tolist():
            of_word = logits[owner == image, word].tolist()
            weights = [math.exp(one) / sum(map(math.exp, of_word)) for one in of_word]
            grounded = sum(w * s for w, s in zip(weights, of_word, strict=True))
            pairs[image, caption] += grounded / len(captions[caption])
    each = np.exp(pairs)
    by_image = -np.log(np.diag(each) / each.sum(1)).mean()
    by_caption = -np.log(np.diag(each) / each.sum(0)).mean()
    assert float(grounding_loss(logits, owner, captions)) == pytest.approx(by_image + by_caption)
    assert float(grounding_loss(logits, owner, [captions[2]] * 3)) == 0


def test_fused_probabilities_are_geometric_means() -> None:
    query, crop = noise(4, 4).softmax(1), noise(8, 4)[4:].softmax(1)
    seen = torch.tensor([True, False, True])
    fused = fuse(query, crop, seen)
    for row in range(4):
        mean = float(crop[row, 0] + crop[row, 2]) / 2
        expected = [
            float(query[row, 0]) ** (2 / 3) * mean ** (1 / 3),
            float(query[row, 1]) ** (1 / 3) * float(crop[row, 1]) ** (2 / 3),
            float(query[row, 2]) ** (2 / 3) * mean ** (1 / 3),
            float(query[row, 3]) ** (2 / 3) * float(crop[row, 3]) ** (1 / 3),
        ]
        assert fused[row].tolist() == pytest.approx(expected, rel=1e-5)


def test_mean_discrepancy_equals_sums_over_pairs() -> None:
    generated, real = noise(3, 6), noise(7, 6)[3:]

    def kernel(first: torch.Tensor, second: torch.Tensor) -> float:
        pairs = itertools.product(first.double(), second.double())
        squares = [float((a - b).square().sum()) for a, b in pairs]
        sums = [sum(math.exp(-one / (2 * width)) for width in BANDWIDTHS) for one in squares]
        return sum(sums) / len(sums)

    squared = kernel(generated, generated) + kernel(real, real) - 2 * kernel(generated, real)
    assert float(mean_discrepancy(generated, real)) == pytest.approx(math.sqrt(squared), rel=1e-4)
    assert float(mean_discrepancy(real, real)) < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_stages_of_zs3net_share_the_budget(steps: int) -> None:
    shares = [share_of(Budget(2, steps), stage) for stage in range(3)]
    assert sum(share.steps or 0 for share in shares if share) == steps
    assert shares[0] is not None and shares[0].minutes == 1
