"""Read the folders of all formats by the tools that they are for, in an environment of their own.

Usage: read_formats.py FOLDER OUT.npz: FOLDER/FORMAT holds what `cpcsam.formats` wrote of one image.
The masks go to OUT.npz, stacked by reader, and what else was read to stdout, as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)


def shapely_geometries(folder: Path) -> tuple[list[Any], Any]:
    import shapely

    (file,) = folder.rglob("*.geojson")
    content = json.loads(file.read_text())
    height, width = content["image"]["size"]
    y, x = np.mgrid[:height, :width] + 0.5
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in content["features"]]
    masks = [shapely.contains_xy(shape, x, y) for shape in shapes]
    return masks, {
        "valid": [shape.is_valid for shape in shapes],
        "areas": [shape.area for shape in shapes],
        "holes": [
            sum(len(part.interiors) for part in getattr(shape, "geoms", [shape]))
            for shape in shapes
        ],
    }


def label_studio_brush(folder: Path) -> tuple[list[Any], Any]:
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    (task,) = json.loads((folder / "tasks.json").read_text())
    (prediction,) = task["predictions"]
    masks = []
    for region in prediction["result"]:
        size = region["original_height"], region["original_width"], 4
        rgba = decode_rle(region["value"]["rle"]).reshape(size)
        assert (rgba == rgba[:, :, :1]).all()
        masks.append(rgba[:, :, 3] > 0)
    config = LabelInterface((folder / "labeling_config.xml").read_text())
    return masks, {
        "valid": config.validate_prediction(prediction),
        "labels": [region["value"]["brushlabels"][0] for region in prediction["result"]],
        "image": task["data"]["image"],
    }


def cvat_sdk_masks(folder: Path) -> tuple[list[Any], Any]:
    from cvat_sdk.masks import decode_mask, encode_mask

    masks, encoded = [], []
    for image in ET.parse(folder / "annotations.xml").getroot().iter("image"):
        height, width = int(image.attrib["height"]), int(image.attrib["width"])
        for shape in image.iter("mask"):
            left, top, w, h = (int(shape.attrib[k]) for k in ("left", "top", "width", "height"))
            # As CVAT's own importer joins them.
            points = [int(run) for run in shape.attrib["rle"].split(",")]
            points += [left, top, left + w - 1, top + h - 1]
            masks.append(decode_mask(points, image_width=width, image_height=height))
            encoded.append(encode_mask(masks[-1]) == points)
    return masks, {"encoded": encoded}


def datumaro_cvat(folder: Path) -> tuple[list[Any], Any]:
    from datumaro.components.dataset import Dataset

    dataset = Dataset.import_from(str(folder), "cvat")
    names = [label.name for label in dataset.categories()[next(iter(dataset.categories()))].items]
    (item,) = dataset
    return [one.image for one in item.annotations], {
        "labels": [names[one.label] for one in item.annotations],
        "scores": [one.attributes.get("score") for one in item.annotations],
    }


def supervision_yolo(folder: Path) -> tuple[list[Any], Any]:
    import supervision

    dataset = supervision.DetectionDataset.from_yolo(
        str(folder / "images/deep"),
        str(folder / "labels/deep"),
        str(folder / "data.yaml"),
        force_masks=True,
    )
    ((_, _, detections),) = dataset
    return list(detections.mask), {"labels": [dataset.classes[k] for k in detections.class_id]}


def ome_zarr_labels(folder: Path) -> tuple[list[Any], Any]:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    (root,) = folder.rglob("*.zarr")
    nodes = list(Reader(parse_url(str(root)))())
    masks, properties, axes = [], [], []
    for node in nodes[2:]:  # behind the image and the group of labels
        labels = np.asarray(node.data[0])
        axes.append([axis["name"] for axis in node.metadata["axes"]])
        for number, about in node.metadata.get("properties", {}).items():
            masks.append(labels == number)
            properties.append(about)
    image = np.asarray(nodes[0].data[0])
    return masks, {"properties": properties, "axes": axes, "image": image.tolist()}


READERS = {
    "shapely": (shapely_geometries, "geojson"),
    "label-studio-sdk": (label_studio_brush, "label-studio"),
    "cvat-sdk": (cvat_sdk_masks, "cvat"),
    "datumaro": (datumaro_cvat, "cvat"),
    "supervision": (supervision_yolo, "yolo-seg"),
    "ome-zarr": (ome_zarr_labels, "ome-zarr"),
}


def main(folder: Path, out: Path) -> None:
    arrays, told = {}, {}
    for reader, (read, form) in READERS.items():
        masks, told[reader] = read(folder / form)
        arrays[reader] = np.array(masks, bool)
    np.savez_compressed(out, **arrays)
    print(json.dumps(told, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
