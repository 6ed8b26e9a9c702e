"""Stage `postprocess`: the service's steps after the decoder on the GPU, against those on the CPU.

`cpu_ms` is the whole `postprocess` of the service on one core, from logits to run lengths.
`device_ms` are all steps on the GPU, `copy_ms` brings packed bits and figures to the CPU, and
`rle_ms` encodes them there. Logits are discs with noise. Upsampling sums in another order than
numpy, so that a logit next to the threshold may fall on its other side: `differing_bits` counts
such pixels of all masks, and all other steps are compared by whole results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.mask_steps import (
    MaskStatistics,
    mask_statistics,
    pack_masks,
    rle_from_packed,
    select_masks,
    unpack_mask,
    upscale_masks,
)
from benchmarks.gpu.stage import StageContext
from cpcsam.automatic.instance_mask import paste_crop
from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.contract import (
    INPUT_SIZE,
    IOU_PREDICTIONS,
    LOW_RES_FACTOR,
    LOW_RES_MASKS,
    MASK_THRESHOLD,
    POINT_LABELS,
    MaskSelection,
    grid_size,
)
from cpcsam.entry_points import (
    AREAS,
    BBOXES,
    MASK_SELECTION,
    MASKS_RLE,
    ORIGINAL_SIZE,
    SCORES,
    STABILITY,
)
from cpcsam.geometry import Box
from cpcsam.transforms import axis_matrices, input_size_of
from serving.backend.postprocess import postprocess
from serving.backend.step import Request, Tensors

__all__ = ["Decoded", "Found", "differences", "draw_decoded", "find_masks", "measure"]

CASES: Final = ((1, (1024, 1024)), (16, (1024, 1024)), (64, (1024, 1024)), (16, (1536, 2048)))
QUICK_CASES: Final = ((1, (256, 256)), (4, (150, 200)))
OUTPUTS: Final = (MASKS_RLE.name, BBOXES.name, AREAS.name, STABILITY.name, SCORES.name)
SELECTION: Final = MaskSelection.BEST
LARGEST_RADIUS: Final = 0.25

Record = dict[str, Any]


@dataclass(frozen=True)
class Decoded:
    """Outputs of a decoder for P prompts of one image.

    Attributes:
        low_res_masks: (P, 4, 4G, 4G) float32 logits.
        iou_predictions: (P, 4) float32.
        image_size: side of the encoder's frame.
        original_size: (H, W).
    """

    low_res_masks: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]
    image_size: int
    original_size: tuple[int, int]

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) in the encoder's frame."""
        return input_size_of(self.original_size, self.image_size)

    def request(self) -> Request:
        """Return the request of the service's `postprocess`."""
        prompts = len(self.iou_predictions)
        tensors = {
            LOW_RES_MASKS.name: self.low_res_masks[None],
            IOU_PREDICTIONS.name: self.iou_predictions[None],
            INPUT_SIZE.name: np.array([self.input_size], np.int32),
            ORIGINAL_SIZE.name: np.array([self.original_size], np.int32),
            POINT_LABELS.name: np.ones((1, prompts, 1), np.int32),
            MASK_SELECTION.name: np.array([[SELECTION]], np.int32),
        }
        return Request(tensors, frozenset(OUTPUTS))


def draw_decoded(
    prompts: int, image_size: int, original_size: tuple[int, int], seed: int = 0
) -> Decoded:
    """Draw logits of noisy discs, an eighth of them empty, and random predictions of their IoU."""
    rng = np.random.default_rng(seed)
    side = LOW_RES_FACTOR * grid_size(image_size)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    centre_x, centre_y = rng.random((2, prompts, 4, 1, 1), np.float32)
    radius = LARGEST_RADIUS * (0.1 + rng.random((prompts, 4, 1, 1), np.float32))
    distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2) / radius**2
    logits = 8 * (1 - distance).clip(-2) + rng.normal(0, 0.5, distance.shape)
    logits[rng.random((prompts, 4)) < 1 / 8] = -10
    return Decoded(
        logits.astype(np.float32), rng.random((prompts, 4), np.float32), image_size, original_size
    )


@dataclass(frozen=True)
class Found:
    """Masks of M prompts, on the device: packed bits, figures and scores."""

    packed: Tensor
    statistics: MaskStatistics
    scores: Tensor

    def on_cpu(self) -> Found:
        """Copy to the CPU."""
        figures = (column.cpu() for column in vars(self.statistics).values())
        return Found(self.packed.cpu(), MaskStatistics(*figures), self.scores.cpu())

    def boxes(self) -> list[Box]:
        """Return the boxes; the masks are on the CPU."""
        bboxes = self.statistics.bboxes.tolist()
        return [Box(top, left, bottom, right) for left, top, right, bottom in bboxes]

    def rle(self, size: tuple[int, int]) -> list[bytes]:
        """Encode the masks; they are on the CPU."""
        pairs = zip(self.packed.numpy(), self.boxes(), strict=True)
        return [rle_from_packed(packed, bbox, size) for packed, bbox in pairs]


def find_masks(low_res_masks: Tensor, iou: Tensor, rows: Tensor, columns: Tensor) -> Found:
    """Run all steps on the device of the tensors.

    Args:
        low_res_masks: (P, 4, 4G, 4G) float32 logits.
        iou: (P, 4), predicted.
        rows: (H, 4G), of `axis_matrices`.
        columns: (W, 4G), likewise.
    """
    selected, scores = select_masks(low_res_masks, iou, SELECTION)
    logits = upscale_masks(selected[:, 0], rows, columns)
    masks = logits > MASK_THRESHOLD
    return Found(pack_masks(masks), mask_statistics(logits, masks), scores[:, 0])


def differences(decoded: Decoded, found: Found, expected: Tensors) -> Record:
    """Count what differs from the service's answer: pixels, and results of whole masks.

    Args:
        decoded: what both answered.
        found: on the CPU.
        expected: of `postprocess`.
    """
    selected, _ = select_masks(
        torch.from_numpy(decoded.low_res_masks),
        torch.from_numpy(decoded.iou_predictions),
        SELECTION,
    )
    size, whole = decoded.original_size, Box(0, 0, *decoded.original_size)
    bits = 0
    for mask, packed in zip(selected[:, 0].numpy(), found.packed.numpy(), strict=True):
        pasted = paste_mask(mask, decoded.input_size, size, decoded.image_size)
        reference = paste_crop(pasted.mask, pasted.bbox, whole)
        bits += int((unpack_mask(packed, whole) != reference).sum())
    statistics = found.statistics
    rle = np.array(found.rle(size), object)
    return {
        "differing_bits": bits,
        "differing_areas": _differing(statistics.areas, expected[AREAS.name]),
        "differing_boxes": _differing(statistics.bboxes, expected[BBOXES.name]),
        "differing_stability": _differing(statistics.stability, expected[STABILITY.name]),
        "differing_scores": _differing(found.scores, expected[SCORES.name]),
        "differing_rle": int((rle != expected[MASKS_RLE.name].ravel()).sum()),
    }


def _differing(actual: Tensor, expected: NDArray[Any]) -> int:
    """Count masks whose figures differ; expected is (1, P, 1, ...)."""
    unequal = actual.numpy().reshape(len(actual), -1) != expected.reshape(len(actual), -1)
    return int(unequal.any(1).sum())


def measure(context: StageContext) -> Iterator[Record]:
    """Measure each number of prompts and size of the image."""
    image_size = 256 if context.quick else 1024
    for prompts, size in QUICK_CASES if context.quick else CASES:
        decoded = draw_decoded(prompts, image_size, size)
        record = {
            "case": f"{prompts} prompts, {size[0]} x {size[1]}",
            "prompts": prompts,
            "megapixels": size[0] * size[1] / 1e6,
        }
        yield attempt(record, partial(_figures, context, decoded))


def _figures(context: StageContext, decoded: Decoded) -> Record:
    # Products rounded to TF32 would move the masks' edges.
    torch.set_float32_matmul_precision("highest")
    device = context.device
    low_res, iou = (
        torch.from_numpy(array).to(device)
        for array in (decoded.low_res_masks, decoded.iou_predictions)
    )
    side = low_res.shape[-1]
    matrices = axis_matrices(side, decoded.image_size, decoded.input_size, decoded.original_size)
    rows, columns = (torch.from_numpy(matrix.copy()).to(device) for matrix in matrices)
    selected = select_masks(low_res, iou, SELECTION)[0][:, 0]
    logits = upscale_masks(selected, rows, columns)
    masks = logits > MASK_THRESHOLD
    found = find_masks(low_res, iou, rows, columns)
    copied, request = found.on_cpu(), decoded.request()
    max_pixels = decoded.original_size[0] * decoded.original_size[1]
    expected = postprocess(request, decoded.image_size, max_pixels)
    steps = {
        "select_ms": lambda: select_masks(low_res, iou, SELECTION),
        "upscale_ms": lambda: upscale_masks(selected, rows, columns),
        "statistics_ms": lambda: mask_statistics(logits, masks),
        "pack_ms": lambda: pack_masks(masks),
        "device_ms": lambda: find_masks(low_res, iou, rows, columns),
        "copy_ms": found.on_cpu,
    }
    on_cpu = replace(context, device=torch.device("cpu"))
    figures: Record = {name: 1000 * context.seconds(step) for name, step in steps.items()}
    figures["rle_ms"] = 1000 * on_cpu.seconds(
        lambda: copied.rle(decoded.original_size), warmup=1, repeats=3
    )
    figures["cpu_ms"] = 1000 * on_cpu.seconds(
        lambda: postprocess(request, decoded.image_size, max_pixels), warmup=1, repeats=3
    )
    return {**figures, **differences(decoded, copied, expected)}
