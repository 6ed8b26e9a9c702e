#!/usr/bin/env bash
# pycocotools 2.0.11: COCOeval on annotations whose ids begin at 0.
# Expected: an id is a name; perfect detections score AP 1 whatever the ids are.
# Seen: the annotation with id 0 counts as missed and its detection as false, as COCOeval marks
#   "no match" by 0; with two entities, AP@0.5 falls from 1.00 to 0.25 and recall to 0.5.
# For users: many exporters count from 0. Number annotations from 1 before evaluating.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 pycocotools==2.0.11
"$folder/venv/bin/python" - <<'PROGRAM'
import contextlib
import io
import sys

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOXES = [[10, 10, 20, 20], [50, 50, 20, 20]]


def scores(first_id: int) -> tuple[float, float]:
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "nucleus"}],
        "annotations": [
            {"id": first_id + i, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
            for i, box in enumerate(BOXES)
        ],
    }
    truth.createIndex()
    detections = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in BOXES]
    evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[8])


with contextlib.redirect_stdout(io.StringIO()):
    found = {first: scores(first) for first in (1, 0)}
for first, (precision, recall) in found.items():
    print(f"ids from {first}: AP@0.5 {precision:.2f}, recall {recall:.2f}")
sys.exit(not (found[1] == (1.0, 1.0) and found[0][0] < 0.3 and found[0][1] == 0.5))
PROGRAM
