"""Configuration of the automatic mask generator and of the search for classes."""

from __future__ import annotations

from dataclasses import dataclass

from cpcsam.checks import require_range
from cpcsam.contract import STABILITY_OFFSET

__all__ = ["ClassSearchConfig", "MaskGeneratorConfig"]


@dataclass(frozen=True)
class ClassSearchConfig:
    """Parameters of the search for the entities of a vocabulary's classes.

    Attributes:
        overlap: of neighbouring tiles, as a fraction of their side, 0 to below 1.
        threshold: least probability of a class at a place that is prompted, 0 to 1.
        min_similarity: least mean probability of the class under a mask, 0 to 1.
        min_iou: least predicted IoU of a mask, 0 to 1.
        min_area: least pixels of a mask in the original image.
        boxes: prompt components with boxes as well as with clicks.
        rounds: of clicks on what the masks leave uncovered; 0 to click peaks alone.
    """

    overlap: float = 0.5
    threshold: float = 0.4
    min_similarity: float = 0.4
    min_iou: float = 0.4
    min_area: int = 20
    boxes: bool = False
    rounds: int = 2

    def __post_init__(self) -> None:
        """Raise ConfigError for values out of range."""
        for name in ("threshold", "min_similarity", "min_iou"):
            require_range(name, getattr(self, name), 0, 1)
        require_range("overlap", self.overlap, 0, 1, below=True)


@dataclass(frozen=True)
class MaskGeneratorConfig:
    """Parameters of the automatic mask generator, with SAM's names and defaults.

    Attributes:
        points_per_side: clicks along each side of the grid.
        pred_iou_thresh: masks with a predicted IoU up to this are dropped, 0 to 1.
        stability_score_thresh: masks with a lower stability are dropped, 0 to 1.
        stability_score_offset: by which the threshold of the logits moves for the stability.
        box_nms_thresh: IoU of two boxes above which NMS drops the mask with the lower score.
        crop_n_layers: layers of crops, as well as the whole image; layer i has (2^i)^2 crops.
        crop_overlap_ratio: of crops, as a fraction of the image's shorter side; it halves from
            layer to layer.
        crop_n_points_downscale_factor: layer i has points_per_side / factor^i clicks a side.
        crop_nms_thresh: IoU of boxes above which NMS between crops drops the larger crop's mask.
        min_mask_region_area: least pixels of a mask; smaller masks are dropped whole.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = STABILITY_OFFSET
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    crop_nms_thresh: float = 0.7
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for values out of range."""
        thresholds = (
            "pred_iou_thresh",
            "stability_score_thresh",
            "box_nms_thresh",
            "crop_nms_thresh",
        )
        for name in thresholds:
            require_range(name, getattr(self, name), 0, 1)
        require_range("points_per_side", self.points_per_side, 1)
        require_range("crop_n_layers", self.crop_n_layers, 0, 8)
        require_range("crop_n_points_downscale_factor", self.crop_n_points_downscale_factor, 1)
        require_range("crop_overlap_ratio", self.crop_overlap_ratio, 0, 1, below=True)
        require_range("stability_score_offset", self.stability_score_offset, 0, above=True)
