"""Conversion of results to COCO datasets, as pycocotools and annotation tools read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cpcsam.client.prompts import XYXY, Prompt
from cpcsam.client.results import SegmentResult
from cpcsam.formats import UNNAMED

__all__ = ["coco_annotations", "coco_dataset", "merge_coco"]

Dataset = dict[str, Any]


def coco_annotations(result: SegmentResult) -> list[dict[str, Any]]:
    """Convert masks to COCO annotations, ready for JSON.

    Each has `id` (from 1), `image_id` (1), `category_id` (1 for the first label, and so on),
    `segmentation` (`size` and `counts`), `bbox` (XYWH, as COCO has it), `area`, `iscrowd` (0),
    `score`, `stability`, `prompt_index` (from 0) and `prompt` (`point_coords`, `point_labels`,
    `box`); and `calibrated_prompt` likewise, if the model calibrates prompts.

    Raises:
        ContractError: the masks have no pixels.
    """
    categories = {name: number for number, name in enumerate(_labels(result), start=1)}
    calibrated = {
        index: {"calibrated_prompt": _prompt_entry(prompt)}
        for index, prompt in enumerate(result.calibrated_prompts)
        if prompt is not None
    }
    return [
        {
            "id": number,
            "image_id": 1,
            "category_id": categories[mask.label or UNNAMED],
            "segmentation": mask.rle,
            "bbox": _xywh(mask.box),
            "area": mask.area,
            "iscrowd": 0,
            "score": mask.score,
            "stability": mask.stability,
            "prompt_index": index,
            "prompt": _prompt_entry(prompt),
            **calibrated.get(index, {}),
        }
        for number, (index, prompt, mask) in enumerate(result.each(), start=1)
    ]


def coco_dataset(file_name: str, result: SegmentResult) -> Dataset:
    """Build the COCO dataset of a single image and its result.

    Args:
        file_name: of the image, as in the dataset's `images`.
        result: of a request for it.

    Raises:
        ContractError: the masks have no pixels.
    """
    height, width = result.original_size
    return {
        "info": {"model": result.model_name, "version": result.model_version},
        "images": [{"id": 1, "file_name": file_name, "height": height, "width": width}],
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(_labels(result), start=1)
        ],
        "annotations": coco_annotations(result),
    }


def merge_coco(datasets: Iterable[Mapping[str, Any]]) -> Dataset:
    """Merge COCO datasets: images and annotations get new ids, categories are matched by name."""
    merged: Dataset = {"info": {}, "images": [], "categories": [], "annotations": []}
    numbers: dict[str, int] = {}
    for dataset in datasets:
        images, categories = {}, {}
        for image in dataset["images"]:
            images[image["id"]] = len(merged["images"]) + 1
            merged["images"].append({**image, "id": images[image["id"]]})
        for category in dataset["categories"]:
            number = numbers.setdefault(category["name"], len(numbers) + 1)
            categories[category["id"]] = number
        for annotation in dataset["annotations"]:
            merged["annotations"].append(
                {
                    **annotation,
                    "id": len(merged["annotations"]) + 1,
                    "image_id": images[annotation["image_id"]],
                    "category_id": categories[annotation["category_id"]],
                }
            )
    merged["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
    return merged


def _prompt_entry(prompt: Prompt) -> dict[str, Any]:
    return {
        "point_coords": [list(point) for point in prompt.point_coords],
        "point_labels": list(prompt.point_labels),
        "box": None if prompt.box is None else list(prompt.box),
    }


def _labels(result: SegmentResult) -> list[str]:
    """Return the category names in order of first appearance."""
    return list(dict.fromkeys(mask.label or UNNAMED for _, _, mask in result.each()))


def _xywh(box: XYXY) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
