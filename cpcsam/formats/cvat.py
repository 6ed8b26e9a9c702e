"""CVAT for images 1.1: `annotations.xml` with masks, and `labels.json` for the label constructor.

A mask is the row-major run lengths of its box, background first. CVAT takes scores as attributes of
labels that have them, which `labels.json` defines, and ignores them otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import DataError
from cpcsam.formats.fill import fill_polygons
from cpcsam.formats.losses import count_fields, drop_empty
from cpcsam.formats.names import xml_name
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord, number_of

__all__ = ["decode_runs", "encode_runs", "read", "write"]

FILE: Final = "annotations.xml"
ATTRIBUTES: Final = ("score", "stability")
EXTENT: Final = 1_000_000.0


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write `annotations.xml` and `labels.json`, see `records.Format`.

    Raises:
        ContractError: the name of an image or a class has characters that XML cannot hold.
    """
    losses = Losses()
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    labels: dict[str, None] = {}
    number_of_images = 0
    for number, image in enumerate(images):
        number_of_images += 1
        height, width = image.size
        element = ET.SubElement(
            root,
            "image",
            id=str(number),
            name=xml_name(image.file_name),
            width=str(width),
            height=str(height),
        )
        for mask in drop_empty(image.masks, losses):
            labels[xml_name(mask.label)] = None
            _add(element, mask)
        count_fields(image.masks, ("prompt",), losses)
    root.insert(1, _meta(labels, number_of_images))
    ET.indent(root)
    content = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    write_atomic(folder / FILE, content + b"\n")
    spec = [
        {
            "name": label,
            "type": "any",
            "attributes": [
                {"name": name, "input_type": "text", "mutable": False, "values": [""]}
                for name in ATTRIBUTES
            ],
        }
        for label in labels
    ]
    write_atomic(folder / "labels.json", (json.dumps(spec, indent=2) + "\n").encode())
    return losses


def _meta(labels: Iterable[str], count: int) -> ET.Element:
    """Return what readers such as Datumaro need; CVAT itself ignores it."""
    meta = ET.Element("meta")
    task = ET.SubElement(meta, "task")
    ET.SubElement(task, "size").text = str(count)
    ET.SubElement(task, "mode").text = "annotation"
    specs = ET.SubElement(task, "labels")
    for name in labels:
        label = ET.SubElement(specs, "label")
        ET.SubElement(label, "name").text = name
        attributes = ET.SubElement(label, "attributes")
        for attribute in ATTRIBUTES:
            spec = ET.SubElement(attributes, "attribute")
            ET.SubElement(spec, "name").text = attribute
            ET.SubElement(spec, "input_type").text = "text"
    return meta


def _add(element: ET.Element, mask: MaskRecord) -> None:
    height, width = mask.box.size
    shape = ET.SubElement(
        element,
        "mask",
        label=mask.label,
        source="auto",
        occluded="0",
        rle=", ".join(map(str, encode_runs(mask.crop).tolist())),
        left=str(mask.box.left),
        top=str(mask.box.top),
        width=str(width),
        height=str(height),
        z_order="0",
    )
    for name in ATTRIBUTES:
        value = getattr(mask, name)
        if value is not None:
            ET.SubElement(shape, "attribute", name=name).text = repr(float(value))


def encode_runs(crop: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the run lengths of a mask (h, w) bool, row by row, background first."""
    flat = np.concatenate([[False], crop.ravel(), [not crop.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(ends, prepend=0)


def decode_runs(runs: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask (h, w) bool of run lengths that fill it; the inverse of `encode_runs`.

    Raises:
        ValueError: they do not fill it.
    """
    if (
        (runs < 0).any()
        or runs.max(initial=0) > size[0] * size[1]
        or runs.sum() != size[0] * size[1]
    ):
        raise ValueError(f"run lengths that do not fill {size[1]} x {size[0]} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size)


def read(folder: Path) -> Iterator[ListedImage]:
    """List the images of `annotations.xml`, or of all `*.xml` files; see `records.Format`.

    Masks and polygons are read; boxes, points and the like are counted.
    """
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.xml"))
    found = False
    for file in files:
        root = _parse(file)
        if root.tag != "annotations":
            continue
        if root.find("track") is not None:
            raise _damaged(file, "tracks, which are of CVAT for video")
        for place, image in enumerate(root.iter("image")):
            found = True
            shapes = [shape for shape in image if shape.tag in ("mask", "polygon")]
            left_out = Losses(
                f"{shape.tag} shapes"
                for shape in image
                if shape not in shapes and "label" in shape.attrib
            )
            classes = tuple(shape.attrib.get("label", "") for shape in shapes)
            try:
                size = (int(image.attrib["height"]), int(image.attrib["width"]))
                name = image.attrib["name"]
            except (LookupError, ValueError) as error:
                raise _damaged(file, "an image without name or size") from error
            yield ListedImage(name, classes, partial(_decode, file, place), (file,), size, left_out)
    if not found:
        raise _damaged(folder, "no annotations.xml with images")


def _parse(file: Path) -> ET.Element:
    try:
        return _parsed(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise _damaged(file, error.strerror or "no file") from error
    except ET.ParseError as error:
        raise _damaged(file, f"no XML ({error})") from error


@lru_cache(maxsize=1)
def _parsed(file: Path, changed_ns: int) -> ET.Element:
    """Parse a file, once for all its images."""
    return ET.parse(file).getroot()


def _decode(file: Path, place: int, size: tuple[int, int]) -> Iterator[MaskRecord]:
    image = list(_parse(file).iter("image"))[place]
    for shape in image:
        try:
            if shape.tag == "mask":
                mask, origin = _mask(shape, size)
            elif shape.tag == "polygon":
                points = [pair.split(",") for pair in shape.attrib["points"].split(";")]
                ring = np.array(points, np.float64)
                if ring.shape[1] != 2 or not (np.abs(ring) <= EXTENT).all():
                    raise ValueError("a polygon far outside of the image")
                mask, origin = fill_polygons([ring], size), (0, 0)
            else:
                continue
        except (LookupError, ValueError, OverflowError) as error:
            raise _damaged(file, f"a damaged {shape.tag} ({error})") from error
        values: dict[str, Any] = {one.get("name", ""): one.text for one in shape.iter("attribute")}
        yield MaskRecord.of_mask(
            mask,
            origin,
            label=shape.attrib.get("label", ""),
            **{name: _number(values.get(name)) for name in ATTRIBUTES},
        )


def _mask(shape: ET.Element, size: tuple[int, int]) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    top, left, height, width = (
        int(shape.attrib[key]) for key in ("top", "left", "height", "width")
    )
    # Before it is decoded: a few digits may tell of more pixels than memory holds.
    if min(top, left, height, width) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError("beyond the image")
    runs = np.array([int(run) for run in shape.attrib["rle"].split(",")], np.int64)
    return decode_runs(runs, (height, width)), (top, left)


def _number(text: str | None) -> float | None:
    try:
        return number_of(float(text)) if text else None
    except ValueError:
        return None


def _damaged(file: Path, got: str) -> DataError:
    return DataError.of(
        str(file), got=got, expected="annotations in the format CVAT for images 1.1",
        fix="export them again",
    )  # fmt: skip
