"""COCO JSON: `coco.json` with compressed run lengths, ids from 1, and scores.

COCO's evaluators count an annotation with id 0 as missed, so ids begin at 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco_mask

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ContractError, DataError
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord, number_of

__all__ = ["FILE", "masks_of", "read", "write"]

EXTENT: Final = 1_000_000.0
"""Pixels from the image's corner beyond which no coordinate lies."""

FILE: Final = "coco.json"


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write `coco.json`, see `records.Format`; it holds everything."""
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    models: dict[str, None] = {}
    for number, image in enumerate(images, start=1):
        height, width = image.size
        rows.append({"id": number, "file_name": image.file_name, "height": height, "width": width})
        models[image.model] = None
        for mask in image.masks:
            category = categories.setdefault(mask.label, len(categories) + 1)
            row = _annotation(mask, image.size)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    **row,
                }
            )
    dataset = {
        "info": {"models": [model for model in models if model]},
        "images": rows,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": annotations,
    }
    write_atomic(folder / FILE, (json.dumps(dataset) + "\n").encode())
    return Losses()


def read(folder: Path) -> Iterator[ListedImage]:
    """List the images of `coco.json` or another list, see `records.Format`.

    Args:
        folder: that of `coco.json`, or the path of a list.
    """
    path = folder if folder.is_file() else folder / FILE
    try:
        dataset = json.loads(path.read_bytes())
        names = {row["id"]: str(row["name"]) for row in dataset["categories"]}
        rows: dict[Any, list[Mapping[str, Any]]] = {row["id"]: [] for row in dataset["images"]}
        for row in dataset["annotations"]:
            rows[row["image_id"]].append(row)
        for image in dataset["images"]:
            mine = rows[image["id"]]
            classes = tuple(names[row["category_id"]] for row in mine)
            size = (int(image["height"]), int(image["width"]))
            decode = partial(masks_of, path, mine, classes)
            yield ListedImage(_text(image["file_name"]), classes, decode, (path,), size)
    except OSError as error:
        raise _damaged(path, error.strerror or "no file") from error
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def masks_of(
    path: Path, rows: Iterable[Mapping[str, Any]], classes: Iterable[str], size: tuple[int, int]
) -> list[MaskRecord]:
    """Decode annotations of an image.

    Args:
        path: of the list, for errors.
        rows: annotations.
        classes: of each.
        size: (H, W) of the image.

    Raises:
        DataError: an annotation's outline is neither run lengths of this size nor polygons.
    """
    masks = []
    for row, label in zip(rows, classes, strict=True):
        try:
            array = coco_mask.decode(_runs(row["segmentation"], size)).astype(bool)
        except (ValueError, LookupError, TypeError, OverflowError, ContractError) as error:
            raise _damaged(path, f"annotation {row.get('id')} that is no mask") from error
        if array.shape != size:
            raise _damaged(path, f"annotation {row.get('id')} of size {array.shape}")
        masks.append(
            MaskRecord.of_mask(
                array,
                label=label,
                score=number_of(row.get("score")),
                stability=number_of(row.get("stability")),
                prompt_index=row.get("prompt_index"),
                prompt=row.get("prompt"),
            )
        )
    return masks


def _annotation(mask: MaskRecord, size: tuple[int, int]) -> dict[str, Any]:
    left, top, right, bottom = mask.box.xyxy
    row: dict[str, Any] = {
        "segmentation": {"size": list(size), "counts": mask.rle(size).decode()},
        "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
        "area": int(np.count_nonzero(mask.crop)),
        "iscrowd": 0,
    }
    for field in ("score", "stability", "prompt_index", "prompt"):
        value = getattr(mask, field)
        if value is not None:
            row[field] = value
    return row


def _runs(segmentation: Any, size: tuple[int, int]) -> Any:
    if isinstance(segmentation, list):
        rings = [np.array(ring, np.float64) for ring in segmentation]
        usable = [ring.ndim == 1 and ring.size and (np.abs(ring) <= EXTENT).all() for ring in rings]
        # pycocotools takes four numbers for a box, and fewer for nothing that it knows.
        if not usable or not all(usable) or rings[0].size <= 4:
            raise ValueError("polygons that are no numbers, or lie far outside of the image")
        return coco_mask.merge(coco_mask.frPyObjects([ring.tolist() for ring in rings], *size))
    # pycocotools reads what too few runs do not cover from whatever the memory held before.
    counts = segmentation["counts"]
    if isinstance(counts, list):
        are_lengths = all(run >= 0 and float(run).is_integer() for run in counts)
        if not are_lengths or sum(counts) != size[0] * size[1]:
            raise ValueError("run lengths that do not fill the image")
        return coco_mask.frPyObjects(segmentation, *size)
    if not isinstance(counts, str):
        raise TypeError("run lengths that are neither numbers nor a text")
    from cpcsam.automatic.rle import runs_from_rle

    height, width = (int(side) for side in segmentation["size"])
    runs_from_rle(counts.encode(), (height, width))
    return {"size": segmentation["size"], "counts": counts.encode()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name that is no text")
    return value


def _damaged(path: Path, got: str) -> DataError:
    return DataError.of(
        str(path), got=got, expected="a COCO dataset of instances", fix="write it again"
    )
