#!/usr/bin/env bash
# supervision 0.31.2: YOLO polygons through the centres of pixels, read as masks.
# Expected: a square of 4 x 4 pixels has 16 pixels wherever it lies in the image.
# Seen: coordinates are rounded half to even, so that sides come closer or go apart by a pixel: areas
#   of 9, 15 or 25 pixels for the same polygon, by its place.
# For users: a coordinate below the centre of a pixel, such as 0.49 from its corner, gives the pixel,
#   whether a reader rounds coordinates or cuts them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 supervision==0.31.2
"$folder/venv/bin/python" -W ignore - "$folder" <<'PROGRAM'
import sys
from pathlib import Path

import supervision
from PIL import Image

SIDE = 64
root = Path(sys.argv[1])
for name in ("images", "labels"):
    (root / name).mkdir()
Image.new("RGB", (SIDE, SIDE)).save(root / "images/a.png")
(root / "data.yaml").write_text("names: [square]\n")


def areas(within: float) -> set[int]:
    """Areas of squares of 4 x 4 pixels at 16 places, written at a place within their pixels."""
    rows = []
    for left in range(8, 12):
        for top in range(8, 12):
            corners = [(left, top), (left + 3, top), (left + 3, top + 3), (left, top + 3)]
            numbers = [str((value + within) / SIDE) for corner in corners for value in corner]
            rows.append(" ".join(["0", *numbers]))
    (root / "labels/a.txt").write_text("\n".join(rows))
    dataset = supervision.DetectionDataset.from_yolo(
        str(root / "images"), str(root / "labels"), str(root / "data.yaml"), force_masks=True
    )
    ((_, _, detections),) = dataset
    return {int(mask.sum()) for mask in detections.mask}


centres, before = areas(0.5), areas(0.49)
print("areas of 4 x 4 pixels, written by centres:", sorted(centres))
print("written at 0.49 from the pixels' corners:", sorted(before))
if centres == {16} or before != {16}:
    sys.exit("this has changed")
PROGRAM
