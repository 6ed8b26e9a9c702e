"""Steps in torch equal the service's to the bit, on logits whose sums are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gpu.mask_steps import (
    mask_statistics,
    pack_masks,
    rle_from_packed,
    select_masks,
    unpack_mask,
    upscale_masks,
)
from benchmarks.gpu.stages.postprocess import Decoded, differences, draw_decoded, find_masks
from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.automatic.rle import rle_from_mask
from cpcsam.contract import MaskSelection
from cpcsam.geometry import Box
from cpcsam.transforms import axis_matrices
from cpcsam.transforms import upscale_masks as upscale_on_cpu
from serving.backend.postprocess import postprocess
from serving.backend.postprocess import select_masks as select_on_cpu

IMAGE_SIZE = 256


def exact_logits(prompts: int, seed: int = 0) -> Decoded:
    """Multiples of 1/64 and an image of the frame's size: every product and sum is exact."""
    drawn = draw_decoded(prompts, IMAGE_SIZE, (IMAGE_SIZE, IMAGE_SIZE), seed)
    logits = (np.rint(64 * drawn.low_res_masks) / 64).astype(np.float32)
    return Decoded(logits, drawn.iou_predictions, IMAGE_SIZE, drawn.original_size)


def matrices_of(decoded: Decoded) -> tuple[torch.Tensor, torch.Tensor]:
    side = decoded.low_res_masks.shape[-1]
    rows, columns = axis_matrices(side, IMAGE_SIZE, decoded.input_size, decoded.original_size)
    return torch.from_numpy(rows.copy()), torch.from_numpy(columns.copy())


@pytest.mark.parametrize("selection", MaskSelection)
def test_select_masks_equals_the_service(selection: MaskSelection) -> None:
    decoded = draw_decoded(5, IMAGE_SIZE, (100, 256))
    expected = select_on_cpu(decoded.low_res_masks, decoded.iou_predictions, selection)
    actual = select_masks(
        torch.from_numpy(decoded.low_res_masks),
        torch.from_numpy(decoded.iou_predictions),
        selection,
    )
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.numpy() == theirs).all()


def test_upscale_masks_of_exact_logits_equals_the_service() -> None:
    decoded = exact_logits(3)
    low_res = decoded.low_res_masks[:, 0]
    size = (IMAGE_SIZE, IMAGE_SIZE)
    expected = upscale_on_cpu(low_res, size, size, IMAGE_SIZE)
    actual = upscale_masks(torch.from_numpy(low_res), *matrices_of(decoded))
    assert (actual.numpy() == np.swapaxes(expected, -1, -2)).all()


def test_mask_statistics_equal_pasted_masks() -> None:
    decoded = exact_logits(16)
    low_res = decoded.low_res_masks[:, 0]
    low_res[3] = -10
    logits = upscale_masks(torch.from_numpy(low_res), *matrices_of(decoded))
    statistics = mask_statistics(logits, logits > 0)
    assert statistics.areas[3] == 0
    size = (IMAGE_SIZE, IMAGE_SIZE)
    for index, mask in enumerate(low_res):
        pasted = paste_mask(mask, size, size, IMAGE_SIZE)
        assert int(statistics.areas[index]) == pasted.area
        assert tuple(statistics.bboxes[index].tolist()) == pasted.bbox.xyxy
        assert statistics.stability[index].numpy() == np.float32(pasted.stability)


@pytest.mark.parametrize("height", [8, 13, 1])
def test_packed_masks_equal_numpy_and_unpack_to_themselves(height: int) -> None:
    masks = torch.rand(2, 7, height) < 0.5
    packed = pack_masks(masks).numpy()
    assert (packed == np.packbits(masks.numpy(), axis=-1)).all()
    box = Box(0, 2, height, 6)
    assert (unpack_mask(packed[1], box) == masks[1, 2:6].T.numpy()).all()
    expected = rle_from_mask(np.asfortranarray(masks[1].T.numpy()))
    assert rle_from_packed(packed[1], Box(0, 0, height, 7), (height, 7)) == expected


def test_find_masks_of_exact_logits_equals_the_service_to_the_bit() -> None:
    decoded = exact_logits(16, seed=1)
    found = find_masks(
        torch.from_numpy(decoded.low_res_masks),
        torch.from_numpy(decoded.iou_predictions),
        *matrices_of(decoded),
    )
    expected = postprocess(decoded.request(), IMAGE_SIZE, IMAGE_SIZE**2)
    assert not any(differences(decoded, found.on_cpu(), expected).values())


def test_differences_count_a_changed_pixel() -> None:
    decoded = exact_logits(2)
    found = find_masks(
        torch.from_numpy(decoded.low_res_masks),
        torch.from_numpy(decoded.iou_predictions),
        *matrices_of(decoded),
    )
    expected = postprocess(decoded.request(), IMAGE_SIZE, IMAGE_SIZE**2)
    found.packed[0, 5, 0] ^= 1
    assert differences(decoded, found, expected)["differing_bits"] == 1


def test_find_masks_at_an_odd_size_differs_in_few_pixels() -> None:
    decoded = draw_decoded(8, IMAGE_SIZE, (173, 119))
    found = find_masks(
        torch.from_numpy(decoded.low_res_masks),
        torch.from_numpy(decoded.iou_predictions),
        *matrices_of(decoded),
    )
    expected = postprocess(decoded.request(), IMAGE_SIZE, 173 * 119)
    assert differences(decoded, found, expected)["differing_bits"] <= 2
