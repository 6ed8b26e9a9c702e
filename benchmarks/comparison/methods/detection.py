"""Detector: ViTDet (Li et al. 2022), a plain ViT with a simple feature pyramid under Mask R-CNN.

Its entities are detections. The encoder is the compact base's, untrained: SAM's image encoder is
ViTDet's backbone. Region proposals, box and mask heads are torchvision's Mask R-CNN.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, masks_to_boxes

from benchmarks.budget import Budget
from benchmarks.comparison.methods.fitting import (
    TaskBatches,
    fit_network,
    trained_parameters,
)
from benchmarks.comparison.methods.interface import Fitted, Task
from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask, bbox_from_mask
from cpcsam.automatic.predictor import merge_instances
from cpcsam.automatic.tiling import is_cut, tile_boxes
from cpcsam.contract import PIXEL_MEAN, PIXEL_STD
from cpcsam.geometry import Box
from cpcsam.model.build_sam import ENCODERS, build_sam_with
from cpcsam.transforms import to_frame
from training.bilevel.config import OptimizerConfig
from training.data.augment import window_with_entities
from training.data.sample import Sample
from training.loop.distributed import training_device
from training.loop.precision import Precision, is_mixed

__all__ = ["DetectionBatch", "DetectionBatches", "DetectionMethod", "FeaturePyramid", "detector"]

LEVELS: Final = ("0", "1", "2", "3")
"""Of strides 4, 8, 16 and 32; `pool` follows with 64."""
PUBLISHED_SIZE: Final = 1024
"""Side in pixels at which ViTDet's anchors and assignment of levels are defined."""
SMALLEST_ANCHOR: Final = 32
CANONICAL_BOX: Final = 224
HIDDEN: Final = 1024
"""Units of the box head."""
MIN_AREA: Final = 16
"""Entities of fewer shown pixels are not trained on."""


class FeaturePyramid(nn.Module):
    """A plain ViT and a simple feature pyramid, whose levels are all made of the last tokens.

    Args:
        encoder: a key of `ENCODERS`.
        image_size: side S in pixels.
        width: channels C of every level.
    """

    def __init__(self, encoder: str, image_size: int, width: int) -> None:
        super().__init__()
        size = ENCODERS[encoder]
        self.encoder = build_sam_with(size, image_size).image_encoder
        # SAM's neck makes one map of 256 channels; the pyramid reads the tokens.
        self.encoder.neck = nn.Identity()
        self.encoder.apply(_initialise)
        nn.init.trunc_normal_(self.encoder.pos_embed, std=0.02)
        self.out_channels = width
        tokens = size.embed_dim

        def up(before: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(before, before // 2, 2, 2)

        resampled: list[tuple[int, list[nn.Module]]] = [
            (tokens // 4, [up(tokens), LayerNorm2d(tokens // 2), nn.GELU(), up(tokens // 2)]),
            (tokens // 2, [up(tokens)]),
            (tokens, []),
            (tokens, [nn.MaxPool2d(2)]),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *layers,
                nn.Conv2d(channels, width, 1, bias=False),
                LayerNorm2d(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                LayerNorm2d(width),
            )
            for channels, layers in resampled
        )

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        """(B, 3, S, S) to maps (B, C, S / stride, S / stride) by level."""
        tokens = self.encoder(image)
        maps = [level(tokens) for level in self.levels]
        pooled = F.max_pool2d(maps[-1], 1, 2)
        return OrderedDict(zip((*LEVELS, "pool"), (*maps, pooled), strict=True))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class DetectionBatch:
    """Windows and their entities, as torchvision's detectors take them.

    Attributes:
        images: (B, 3, S, S) uint8.
        targets: `boxes` (n, 4) XYXY, `labels` (n,) from 1, `masks` (n, S, S) of each window.
    """

    images: Tensor
    targets: list[dict[str, Tensor]]

    def to(self, device: torch.device) -> DetectionBatch:
        """The same batch on a device."""
        targets = [{key: one.to(device) for key, one in row.items()} for row in self.targets]
        return DetectionBatch(self.images.to(device), targets)


class DetectionBatches(TaskBatches[DetectionBatch]):
    """Random windows of training and support images."""

    def batch(self, rng: np.random.Generator) -> DetectionBatch:
        """Draw windows."""
        rows = [self._window(sample, rng) for sample in self.annotated(rng)]
        return DetectionBatch(torch.stack([image for image, _ in rows]), [row for _, row in rows])

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        names = self.task.names
        window, found = window_with_entities(
            sample, self.image_size, self.task.scale, self.task.augment, MIN_AREA, rng
        )
        labels = [label for label in found.tolist() if sample.class_of(label) in names]
        masks = window.instances == torch.tensor(labels, dtype=torch.int32)[:, None, None]
        boxes = masks_to_boxes(masks) + torch.tensor([0.0, 0, 1, 1])
        numbers = torch.tensor(
            [1 + names.index(sample.class_of(label)) for label in labels], dtype=torch.int64
        )
        return window.image, {"boxes": boxes, "labels": numbers, "masks": masks.byte()}


def detector(classes: int, image_size: int, encoder: str, width: int) -> MaskRCNN:
    """An untrained ViTDet; anchors and levels keep their share of the image's side.

    Args:
        classes: number of classes without the background.
        image_size: S in pixels.
        encoder: a key of `ENCODERS`.
        width: channels of the pyramid and of the heads' convolutions.
    """
    share = image_size / PUBLISHED_SIZE
    sizes = tuple((round(SMALLEST_ANCHOR * share * 2**level),) for level in range(len(LEVELS) + 1))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    pooled = partial(
        MultiScaleRoIAlign,
        list(LEVELS),
        sampling_ratio=2,
        canonical_scale=round(CANONICAL_BOX * share),
    )
    return MaskRCNN(
        FeaturePyramid(encoder, image_size, width),
        min_size=image_size,
        max_size=image_size,
        image_mean=[value / 255 for value in PIXEL_MEAN],
        image_std=[value / 255 for value in PIXEL_STD],
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(width, anchors.num_anchors_per_location()[0], conv_depth=2),
        rpn_pre_nms_top_n_train=512,
        rpn_pre_nms_top_n_test=512,
        rpn_post_nms_top_n_train=256,
        rpn_post_nms_top_n_test=256,
        box_roi_pool=pooled(output_size=7),
        box_head=FastRCNNConvFCHead((width, 7, 7), [width] * 4, [HIDDEN], LayerNorm2d),
        box_predictor=FastRCNNPredictor(HIDDEN, classes + 1),
        box_batch_size_per_image=64,
        mask_roi_pool=pooled(output_size=14),
        mask_head=MaskRCNNHeads(width, [width] * 4, 1, LayerNorm2d),
        mask_predictor=MaskRCNNPredictor(width, width, classes + 1),
    )


@dataclass(frozen=True)
class DetectionMethod:
    """ViTDet, trained from scratch.

    Attributes:
        label: for tables.
        encoder: a key of `ENCODERS`; its architecture alone is used.
        width: channels of the pyramid and of the heads' convolutions; 256 in the publication.
        image_size: side S in pixels that windows and tiles are shown at.
        images: windows a step.
        min_score: least probability of a detection's class.
        optimizer: configuration of AdamW; `lr_capl` and `lr_points` are unused.
        precision: of training.
        workers: processes that prepare batches.
    """

    label: str
    encoder: str = "vit_t"
    width: int = 128
    image_size: int = 256
    images: int = 2
    min_score: float = 0.5
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-4))
    precision: Precision = "auto"
    workers: int = 0

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Train on the training and the support images."""
        device = training_device()
        torch.manual_seed(seed)
        mixed = is_mixed(self.precision, device)
        network = detector(len(task.names), self.image_size, self.encoder, self.width).to(device)

        def loss_of(batch: DetectionBatch) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                losses = network(list(batch.images / 255), batch.targets)
            return torch.stack([loss.float() for loss in losses.values()]).sum()

        batches = DetectionBatches(task, self.image_size, self.images, seed)
        spent = fit_network(network, loss_of, batches, budget, self.optimizer, device, self.workers)
        network.roi_heads.score_thresh = self.min_score

        def segment(sample: Sample) -> list[InstanceMask]:
            config = ClassSearchConfig()
            tiles = tile_boxes(sample.size, task.tile, config.overlap)
            found = [mask for tile in tiles for mask in _detections(network, sample, tile, device)]
            return merge_instances(found, tiles, config)

        return Fitted(segment, spent, trained_parameters(network))


@torch.no_grad()
def _detections(
    network: MaskRCNN, sample: Sample, tile: Box, device: torch.device
) -> list[InstanceMask]:
    """The entities of a tile that the detector is sure enough of."""
    image_size: int = network.transform.max_size
    frame, (height, width) = to_frame(tile.crop(sample.image), image_size)
    (found,) = network([torch.from_numpy(frame).to(device) / 255])
    masks = found["masks"][:, :, :height, :width].float()
    instances = []
    for mask, label, score in zip(masks, found["labels"], found["scores"], strict=True):
        shown = F.interpolate(mask[None], tile.size, mode="bilinear")[0, 0].cpu().numpy() > 0.5
        if not shown.any():
            continue
        bbox = bbox_from_mask(shown).translate(tile.top, tile.left)
        instances.append(
            InstanceMask.from_mask(
                shown,
                tile,
                score=float(score),
                tile=tile,
                is_cut=is_cut(bbox, tile, sample.size),
                class_index=int(label) - 1,
                point=((bbox.left + bbox.right) / 2, (bbox.top + bbox.bottom) / 2),
            )
        )
    return instances
