"""Small datasets in COCO JSON, to be spoilt by tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.dataset_factory import coco_json, picture, polygon, save

Content = dict[str, Any]


def content(count: int = 3, start: int = 1) -> Content:
    """A list of images 1.png, 2.png, ... with an entity each of the class cell."""
    images = [(key, f"{key}.png") for key in range(start, start + count)]
    rows = [
        {"image_id": key, "category_id": 1, "segmentation": polygon(4, 4, 9, 9)}
        for key, _ in images
    ]
    return coco_json(images, rows, ["cell"])


def write(
    root: Path,
    lists: Mapping[str, Content],
    folder: str = "images",
    files: Sequence[str] | None = None,
) -> Path:
    """Write lists, and their images or `files` into a folder; returns the root."""
    for name, one in lists.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
        listed = [row["file_name"] for row in one["images"]] if files is None else files
        for index, image in enumerate(listed):
            save(root / folder / image, picture(index))
    return root
