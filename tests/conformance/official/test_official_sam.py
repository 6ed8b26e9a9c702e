"""With an untrained CaPL the batched model computes what official SAM computes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cpcsam.contract import PointLabel
from cpcsam.model.capl import FULL_CAPL, CaPL, CaplConfig
from cpcsam.model.sam import CpcSam
from tests.support.model_factory import noisy_sam

TOLERANCE = 1e-5
SIZES = [(256, 256), (256, 150), (97, 256)]


@dataclass(frozen=True)
class Prompt:
    """One prompt: any of points (n, 2) with labels (n,), a box (4,) and a mask (1, 64, 64)."""

    points: Tensor | None = None
    labels: Tensor | None = None
    box: Tensor | None = None
    mask: Tensor | None = None


def make_prompt(kind: str, generator: torch.Generator, input_size: tuple[int, int]) -> Prompt:
    height, width = input_size

    def coords(count: int) -> Tensor:
        return torch.rand(count, 2, generator=generator) * torch.tensor([width, height])

    points = labels = box = mask = None
    if "point" in kind:
        count = int(torch.randint(1, 4, (), generator=generator))
        points = coords(count)
        labels = torch.randint(0, 2, (count,), generator=generator).int()
    if "box" in kind:
        first, second = coords(2)
        box = torch.cat([torch.minimum(first, second), torch.maximum(first, second)])
    if "mask" in kind:
        mask = 4 * torch.randn(1, 64, 64, generator=generator)
    return Prompt(points, labels, box, mask)


def official(model: CpcSam, image: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, all four low_res_masks and their IoU of one prompt, by segment-anything."""
    sam = model.sam
    embeddings = sam.image_encoder(sam.preprocess(image.float())[None])
    points = None if prompt.points is None else (prompt.points[None], prompt.labels[None])
    sparse, dense = sam.prompt_encoder(
        points=points,
        boxes=None if prompt.box is None else prompt.box[None],
        masks=None if prompt.mask is None else prompt.mask[None],
    )
    masks, iou = sam.mask_decoder.predict_masks(
        embeddings, sam.prompt_encoder.get_dense_pe(), sparse, dense
    )
    return embeddings[0], masks[0], iou[0]


def padded(prompts: list[list[Prompt]], slots: int, generator: torch.Generator):
    """Prompts as contract tensors, with garbage in the empty slots."""
    batch, count = len(prompts), len(prompts[0])
    coords = 200 * torch.rand(batch, count, slots, 2, generator=generator)
    labels = torch.full((batch, count, slots), int(PointLabel.EMPTY), dtype=torch.int32)
    for b, row in enumerate(prompts):
        for p, prompt in enumerate(row):
            filled = 0
            if prompt.points is not None:
                filled = len(prompt.points)
                coords[b, p, :filled] = prompt.points
                labels[b, p, :filled] = prompt.labels
            if prompt.box is not None:
                coords[b, p, filled : filled + 2] = prompt.box.reshape(2, 2)
                labels[b, p, filled] = PointLabel.BOX_TOP_LEFT
                labels[b, p, filled + 1] = PointLabel.BOX_BOTTOM_RIGHT
    return coords, labels


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("capl", [None, FULL_CAPL, replace(FULL_CAPL, image_conditioned=False)])
@pytest.mark.parametrize("slots", [5, 9])
@pytest.mark.parametrize(
    "kinds",
    [["point"], ["box", "point"], ["point+box", "box", "point"]],
    ids="/".join,
)
@torch.no_grad()
def test_sparse_prompts_equal_official(
    kinds: list[str], slots: int, capl: CaplConfig | None
) -> None:
    model = noisy_sam()
    model.capl = None if capl is None else CaPL(capl).eval()
    generator = torch.Generator().manual_seed(7)
    images, prompts = [], []
    for height, width in SIZES:
        images.append(torch.randint(0, 256, (3, height, width), generator=generator).byte())
        prompts.append([make_prompt(kind, generator, (height, width)) for kind in kinds])
    padding = torch.randint(0, 256, (len(SIZES), 3, 256, 256), generator=generator).byte()
    for canvas, image in zip(padding, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    coords, labels = padded(prompts, slots, generator)

    embeddings = model.encode_image(padding, torch.tensor(SIZES, dtype=torch.int32))
    sparse, token_mask = model.encode_prompts(embeddings, coords, labels)
    masks, iou = model.decode_masks(embeddings, sparse, token_mask)

    for b, image in enumerate(images):
        for p in range(len(kinds)):
            expected = official(model, image, prompts[b][p])
            for ours, theirs in zip((embeddings[b], masks[b, p], iou[b, p]), expected, strict=True):
                assert relative_difference(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("kinds", [["mask"], ["point+mask", "box+mask", "mask"]], ids="/".join)
@torch.no_grad()
def test_mask_prompts_equal_official(kinds: list[str]) -> None:
    model = noisy_sam()
    model.capl = CaPL(FULL_CAPL).eval()
    generator = torch.Generator().manual_seed(8)
    images = torch.randint(0, 256, (2, 3, 256, 256), generator=generator).byte()
    prompts = [[make_prompt(kind, generator, (256, 256)) for kind in kinds] for _ in images]
    coords, labels = padded(prompts, 6, generator)
    mask_input = torch.stack([torch.stack([prompt.mask for prompt in row]) for row in prompts])

    embeddings = model.encode_image(images, torch.full((2, 2), 256, dtype=torch.int32))
    sparse, token_mask = model.encode_prompts(embeddings, coords, labels)
    masks, iou = model.decode_masks(embeddings, sparse, token_mask, model.encode_masks(mask_input))

    for b, image in enumerate(images):
        for p in range(len(kinds)):
            _, expected_masks, expected_iou = official(model, image, prompts[b][p])
            assert relative_difference(masks[b, p], expected_masks) <= TOLERANCE
            assert relative_difference(iou[b, p], expected_iou) <= TOLERANCE


@torch.no_grad()
def test_trained_capl_changes_the_masks() -> None:
    """The comparison above can fail: a CaPL away from the identity is not official SAM."""
    from tests.support.model_factory import noisy_cpcsam

    plain, calibrated = noisy_sam(), noisy_cpcsam()
    image = torch.randint(0, 256, (1, 3, 256, 256)).byte()
    size = torch.tensor([[256, 256]], dtype=torch.int32)
    coords, labels = torch.full((1, 1, 1, 2), 100.0), torch.ones((1, 1, 1), dtype=torch.int32)
    embeddings = plain.encode_image(image, size)
    outputs = [
        model.decode_masks(embeddings, *model.encode_prompts(embeddings, coords, labels))[0]
        for model in (plain, calibrated)
    ]
    assert relative_difference(*outputs) > 0.01
