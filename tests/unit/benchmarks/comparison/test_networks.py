"""Networks of the comparison against plain forms of their publications' equations; episodes."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.comparison.data import read_problem
from benchmarks.comparison.methods.detection import DetectionBatches, FeaturePyramid
from benchmarks.comparison.methods.few_shot.episodes import EpisodeBatches, shots_of
from benchmarks.comparison.methods.few_shot.hsnet import CentrePivotConv4d, hypercorrelation
from benchmarks.comparison.methods.few_shot.ssp import Prototypes, masked_average, self_support
from benchmarks.comparison.methods.interface import Task
from benchmarks.comparison.methods.swin_unet import PatchExpanding, SwinUnet
from benchmarks.comparison.recipe import Setting
from tests.support.dataset_factory import celebamask
from training.data.augment import PADDING, AugmentConfig
from training.data.datasets.protocol import open_dataset
from training.data.sample import Sample


def noise(seed: int, *size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 4)])
def test_centre_pivot_convolution_equals_the_full_one_with_zeroed_weights(
    kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    layer = CentrePivotConv4d(2, 3, kernel, stride)
    full = torch.zeros(3, 2, *(kernel,) * 4)
    middle = kernel // 2
    full[..., middle, middle] += layer.query.weight
    full[:, :, middle, middle] += layer.support.weight
    x = noise(1, 2, 2, 5, 4, 7, 8)
    padded = F.pad(x, (middle,) * 8)
    assert layer.query.bias is not None and layer.support.bias is not None
    expected = (layer.query.bias + layer.support.bias)[:, None, None, None, None]
    for i, j, u, v in product(range(kernel), repeat=4):
        shown = padded[..., i : i + 5, j : j + 4, u : u + 7 : stride, v : v + 8 : stride]
        expected = expected + torch.einsum("oc,nchwij->nohwij", full[:, :, i, j, u, v], shown)
    assert layer(x).shape == (2, 3, 5, 4, -(-7 // stride), -(-8 // stride))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_hypercorrelation_is_the_cosine_of_every_pair_of_cells_above_zero() -> None:
    query, support = ([noise(seed + k, 2, 6, 3, 2) for k in range(2)] for seed in (0, 5))
    support[0][0, :, 1, 1] = 0
    found = hypercorrelation(query, support)
    assert found.shape == (2, 2, 3, 2, 3, 2)
    for b, layer, h, w, i, j in product(range(2), range(2), range(3), range(2), range(3), range(2)):
        one, other = query[layer][b, :, h, w], support[layer][b, :, i, j]
        cosine = float(one @ other / (one.norm() * other.norm()).clamp(min=1e-9))
        assert float(found[b, layer, h, w, i, j]) == pytest.approx(max(cosine, 0), abs=1e-5)
    assert found[0, 0, ..., 1, 1].max() == 0 < found.min(-1).values.max()


def test_masked_average_pooling_is_the_mean_under_the_mask() -> None:
    features, masks = noise(0, 2, 5, 6, 4), noise(1, 2, 6, 4) > 0.5
    pooled = masked_average(features, masks)
    for image in range(2):
        mean = features[image][:, masks[image]].mean(1)
        torch.testing.assert_close(pooled[image, :, 0, 0], mean, rtol=1e-4, atol=1e-4)
    assert not masked_average(features, torch.zeros(2, 6, 4, dtype=torch.bool)).any()


def plain_self_support(
    cells: Tensor, background: Tensor, foreground: Tensor
) -> tuple[list[Tensor], Tensor, int]:
    """SSP cell by cell; also the number of cells that were likely enough."""

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(one @ other / (one.norm() * other.norm()))

    likely = []
    for cell in cells:
        logits = [10 * cosine(cell, one) for one in (background, foreground)]
        likely.append(1 / (1 + np.exp(logits[0] - logits[1])))
    of_class = np.array(likely)

    def chosen(probability: NDArray[np.float64], least: float) -> list[int]:
        confident = np.flatnonzero(probability > least).tolist()
        return confident or np.argsort(-probability)[:12].tolist()

    front, back = chosen(of_class, 0.7), chosen(1 - of_class, 0.6)
    adaptive = []
    for cell in cells:
        weights = np.exp([2 * cosine(cell, cells[k]) for k in back])
        shares = weights / weights.sum()
        parts = [share * cells[k] for share, k in zip(shares, back, strict=True)]
        adaptive.append(torch.stack(parts).sum(0))
    mean_back = cells[back].mean(0)
    count = int((of_class > 0.7).sum() + (of_class < 0.4).sum())
    backgrounds = [0.3 * mean_back + 0.7 * one for one in adaptive]
    return backgrounds, 0.5 * foreground + 0.5 * cells[front].mean(0), count


@pytest.mark.parametrize("alike", [False, True])
def test_self_support_prototypes_equal_a_plain_loop(alike: bool) -> None:
    features = noise(0, 2, 4, 5, 4)
    background = noise(1, 1, 4, 1, 1)
    # Prototypes that hardly differ leave no cell sure, so that the likeliest twelve are taken.
    foreground = background + 0.01 * noise(2, 1, 4, 1, 1) if alike else noise(2, 1, 4, 1, 1)
    found = self_support(features, Prototypes(background, foreground))
    for image in range(2):
        cells = features[image].flatten(1).T
        backgrounds, prototype, count = plain_self_support(
            cells, background.flatten(), foreground.flatten()
        )
        assert (count == 0) == alike
        torch.testing.assert_close(found.foreground[image].flatten(), prototype.float())
        torch.testing.assert_close(
            found.background[image].flatten(1).T, torch.stack(backgrounds).float()
        )


def test_patches_expand_into_the_pixels_that_their_outputs_name() -> None:
    torch.manual_seed(0)
    layer = PatchExpanding(6, 2, 3)
    x = noise(0, 1, 2, 3, 6)
    found, outputs = layer(x), layer.expand(x)
    assert found.shape == (1, 4, 6, 3)
    for row, column, p, q in product(range(2), range(3), range(2), range(2)):
        part = outputs[0, row, column, (2 * p + q) * 3 :][:3]
        torch.testing.assert_close(found[0, 2 * row + p, 2 * column + q], layer.norm(part))


def test_swin_unet_has_the_published_size() -> None:
    with torch.device("meta"):
        network = SwinUnet(9, 256)
    # 27.17 million of windows of 7 tokens a side.
    parameters = sum(one.numel() for one in network.parameters()) / 1e6
    assert parameters == pytest.approx(27.17, abs=0.02)


def test_the_pyramid_has_five_levels_of_the_last_tokens() -> None:
    torch.manual_seed(0)
    network = FeaturePyramid("vit_t", 64, 8).eval()
    maps = network(noise(0, 1, 3, 64, 64))
    assert [tuple(level.shape) for level in maps.values()] == [
        (1, 8, side, side) for side in (16, 8, 4, 2, 1)
    ]
    tokens = network.encoder(noise(0, 1, 3, 64, 64))
    assert tokens.shape == (1, 192, 4, 4)
    coarsest = network.levels[3]
    assert isinstance(coarsest, nn.Sequential)
    torch.testing.assert_close(maps["3"], coarsest[1:](F.max_pool2d(tokens, 2)))


GREY = {"base-a": 40, "base-b": 80, "target": 240}
PLAIN = AugmentConfig(rotate=False, colour=0, invert=0, grey=0)


def painted(names: tuple[str, ...], index: int) -> Sample:
    """Squares, each of its class's grey, on black."""
    instances = np.zeros((96, 96), np.int32)
    image = np.zeros((96, 96, 3), np.uint8)
    for label, name in enumerate(names, 1):
        place = slice(8 + 40 * (label % 2), 40 + 40 * (label % 2)), slice(8, 88)
        instances[place], image[place] = label, GREY[name]
    return Sample(f"{'+'.join(names)}-{index}", image, instances, names)


def few_shot_task() -> Task:
    train = [painted(("base-a",), 0), painted(("base-b",), 1), painted(("base-a", "base-b"), 2)]
    support = [painted(("target", "base-a"), index) for index in (3, 4)]
    return Task(train, support, ("base-a", "target"), 0, 1.1, PLAIN)


def test_episodes_show_no_target_class_and_no_support_image() -> None:
    task = few_shot_task()
    batches = EpisodeBatches(task, 64, 3, seed=0)
    trained = {sample.name for sample in task.train}
    drawn = [batches.draw(np.random.default_rng(index)) for index in range(40)]
    assert {one.name for one in drawn} == {"base-a", "base-b"}
    assert {name for one in drawn for name in (one.query.name, one.support.name)} == trained
    assert all(one.query is not one.support for one in drawn)
    for index in range(12):
        batch = batches[index]
        greys = []
        for images, masks in (
            (batch.query, batch.query_masks),
            (batch.support, batch.support_masks),
        ):
            assert int(images.max()) <= max(PADDING), "a target class is shown"
            pairs = zip(images, masks, strict=True)
            greys.append([int(image[0][mask].median()) for image, mask in pairs])
        assert greys[0] == greys[1] and {*greys[0]} <= {GREY["base-a"], GREY["base-b"]}
    assert torch.equal(batches[5].query, EpisodeBatches(task, 64, 3, seed=0)[5].query)


def test_episodes_of_a_dataset_are_of_its_base_classes(tmp_path: Path) -> None:
    celebamask(tmp_path)
    dataset = open_dataset("celebamask-hq", tmp_path)
    problem = read_problem(
        Setting("faces", "celebamask-hq", shots=4), 0, {"celebamask-hq": tmp_path}
    )
    assert dataset.target & {*problem.task.names}
    batches = EpisodeBatches(problem.task, 64, 1, seed=0)
    names = {batches.draw(np.random.default_rng(index)).name for index in range(30)}
    assert len(names) > 1 and names <= dataset.base


def test_shots_are_of_the_support_set_and_show_their_class_alone() -> None:
    task = few_shot_task()
    shots = shots_of(task, "target", 64, 5, seed=0)
    assert shots.images.shape == (2, 3, 64, 64) and shots.masks.dtype == torch.bool
    for image, mask in zip(shots.images, shots.masks, strict=True):
        inner = -F.max_pool2d(-mask[None].float(), 3, 1, 1)[0] > 0
        assert inner.any() and image[0][inner].unique().tolist() == [GREY["target"]]
    assert len(shots_of(task, "target", 64, 1, seed=0).images) == 1


def test_detection_batches_hold_each_named_entity_with_its_box() -> None:
    batch = DetectionBatches(few_shot_task(), 64, 6, seed=1)[0]
    labels = torch.cat([target["labels"] for target in batch.targets])
    # base-b is no class to be found.
    assert {*labels.tolist()} == {1, 2}
    for image, target in zip(batch.images, batch.targets, strict=True):
        for box, label, mask in zip(
            target["boxes"].int(), target["labels"], target["masks"], strict=True
        ):
            left, top, right, bottom = box.tolist()
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            grey = GREY["base-a"] if label == 1 else GREY["target"]
            assert int(image[0][mask.bool()].median()) == grey
