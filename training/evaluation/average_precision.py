"""Average precision of segmented entities at IoU 0.5, by pycocotools' COCOeval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.geometry import Box

__all__ = ["AveragePrecision"]

IOU: Final = 0.5
CATEGORY: Final = {"id": 1}
EVERY_AREA: Final = [0.0, 1e10]


class AveragePrecision:
    """Average precision of one class, accumulated over images."""

    def __init__(self) -> None:
        self._images: list[dict[str, int]] = []
        self._true: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    @property
    def found(self) -> int:
        """Number of masks so far."""
        return len(self._found)

    def update(self, masks: Sequence[InstanceMask], truth: NDArray[np.int32]) -> None:
        """Add an image.

        Args:
            masks: found masks of the class.
            truth: (H, W) labels of the class's entities, 0 elsewhere.
        """
        height, width = truth.shape
        whole, image = Box(0, 0, height, width), len(self._images)
        self._images.append({"id": image, "height": height, "width": width})
        for label in np.unique(truth[truth > 0]):
            self._true.append(_annotation(image, len(self._true), truth == label))
        for mask in masks:
            entry = _annotation(image, len(self._found), mask.in_region(whole))
            self._found.append({**entry, "score": mask.score})

    def compute(self) -> float:
        """Return the area under precision over recall, read at COCO's 101 points of recall.

        Returns:
            From 0 to 1; without entities, 1 if nothing was found either, else 0.
        """
        if not self._true:
            return float(not self._found)
        with contextlib.redirect_stdout(io.StringIO()):  # COCOeval prints its progress
            evaluation = COCOeval(self._coco(self._true), self._coco(self._found), "segm")
            evaluation.params.iouThrs = np.array([IOU])
            # COCO's limit of 100 detections an image would cut off crowded images.
            evaluation.params.maxDets = [max(1, self.found)]
            evaluation.params.areaRng = [EVERY_AREA]
            evaluation.params.areaRngLbl = ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        return float(evaluation.eval["precision"].mean())

    def _coco(self, annotations: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": self._images,
            "categories": [CATEGORY],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco


def _annotation(image: int, index: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "id": index + 1,  # COCOeval takes 0 for "unmatched"
        "image_id": image,
        "category_id": CATEGORY["id"],
        # pycocotools takes column-major arrays alone.
        "segmentation": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))),
        "area": float(mask.sum()),
        "bbox": [0, 0, 1, 1],
        "iscrowd": 0,
    }
