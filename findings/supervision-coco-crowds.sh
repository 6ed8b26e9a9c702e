#!/usr/bin/env bash
# supervision 0.31.0, pycocotools 2.0.11: masks with a hole or of two parts, exported to COCO.
# Expected: instances with their exact run lengths and iscrowd=0; only groups are crowds in COCO.
# Seen: the run lengths are exact, but iscrowd=1, which tells evaluators to ignore the entity: a
#   detector that misses a ring-shaped entity and finds the plain one scores a perfect AP.
# For users: set iscrowd=0 on what supervision exports before it is evaluated or trained on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 pycocotools==2.0.11 supervision==0.31.0
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import contextlib
import io
import sys

import numpy as np
import supervision
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from supervision.dataset.formats.coco import detections_to_coco_annotations

masks = np.zeros((3, 64, 64), bool)
masks[0, 2:14, 2:14] = True  # plain
masks[1, 20:40, 20:40], masks[1, 26:34, 26:34] = True, False  # with a hole
masks[2, 44:52, 2:10] = masks[2, 44:52, 20:28] = True  # of two parts
detections = supervision.Detections(
    xyxy=supervision.mask_to_xyxy(masks), mask=masks, class_id=np.zeros(3, int)
)
annotations, _ = detections_to_coco_annotations(detections, image_id=1, annotation_id=1)
crowds = [annotation["iscrowd"] for annotation in annotations]
print("iscrowd of the plain mask, the ring and the two parts:", crowds)


def average_precision(crowd: list[int]) -> float:
    """AP@0.5 of a detector that finds the plain mask only."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{**a, "iscrowd": c} for a, c in zip(annotations, crowd, strict=True)],
    }
    truth.createIndex()
    rle = coco_mask.encode(np.asfortranarray(masks[0].astype(np.uint8)))
    rle["counts"] = rle["counts"].decode()
    found = [{"image_id": 1, "category_id": 1, "segmentation": rle, "score": 0.9}]
    evaluation = COCOeval(truth, truth.loadRes(found), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[1])


with contextlib.redirect_stdout(io.StringIO()):
    as_exported, as_instances = average_precision(crowds), average_precision([0, 0, 0])
print(f"AP@0.5 of a detector that misses both: {as_exported:.2f} as exported, {as_instances:.2f} with iscrowd=0")
sys.exit(not (crowds == [0, 1, 1] and as_exported > 0.99 and as_instances < 0.4))
PROGRAM
