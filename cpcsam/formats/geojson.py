"""GeoJSON in QuPath's convention: `NAME.geojson`, a feature a mask, in pixels with y downwards.

Geometries are valid by OGC's rules, and their pixels are exactly those of the masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.drawing import color_of
from cpcsam.errors import DataError
from cpcsam.formats import UNNAMED
from cpcsam.formats.fill import fill_polygons
from cpcsam.formats.losses import drop_empty
from cpcsam.formats.parts import Corners, parts_of
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord, number_of

__all__ = ["read", "write"]

EXTENT: Final = 1_000_000.0
"""Pixels from the image's corner beyond which no coordinate lies."""
AREAS: Final = ("Polygon", "MultiPolygon")


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write `NAME.geojson`, see `records.Format`; it holds everything but masks without a pixel."""
    losses = Losses()
    colors: dict[str, list[int]] = {}
    for image in images:
        features = []
        for mask in drop_empty(image.masks, losses):
            color = colors.setdefault(mask.label, list(color_of(len(colors))))
            features.append(_feature(mask, color))
        collection = {
            "type": "FeatureCollection",
            "image": {"file_name": image.file_name, "size": list(image.size)},
            "features": features,
        }
        write_atomic(folder / f"{image.name}.geojson", (json.dumps(collection) + "\n").encode())
    return losses


def _feature(mask: MaskRecord, color: list[int]) -> dict[str, Any]:
    left, top = mask.box.left, mask.box.top

    def closed(ring: Corners) -> list[list[int]]:
        return [[x + left, y + top] for x, y in (*ring, ring[0])]

    polygons = [
        [closed(part.shell), *(closed(hole.ring) for hole in part.holes)]
        for part in parts_of(mask.crop)
    ]
    one = len(polygons) == 1
    measurements = {"score": mask.score, "stability": mask.stability}
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if one else "MultiPolygon",
            "coordinates": polygons[0] if one else polygons,
        },
        "properties": {
            "objectType": "annotation",
            "classification": {"name": mask.label, "color": color},
            "measurements": {
                key: value for key, value in measurements.items() if value is not None
            },
            "prompt_index": mask.prompt_index,
            "prompt": mask.prompt,
        },
    }


def read(folder: Path) -> Iterator[ListedImage]:
    """List the images of `*.geojson` files, with features, or a list of them as QuPath writes.

    An image without a `file_name` is named as its file. See `records.Format`.
    """
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.geojson"))
    if not files:
        raise DataError.of(
            str(folder), got="no *.geojson", expected="features of images", fix="correct the path"
        )
    for file in files:
        features, image = _load(file)
        areas = [one for one in features if _geometry(one).get("type") in AREAS]
        left_out = Losses(
            {"points and lines": len(features) - len(areas)} if len(features) > len(areas) else {}
        )
        classes = tuple(_class(feature) for feature in areas)
        name = image.get("file_name")
        root = folder.parent if folder.is_file() else folder
        yield ListedImage(
            name
            if isinstance(name, str) and name
            else file.relative_to(root).with_suffix("").as_posix(),
            classes,
            partial(_decode, file),
            (file,),
            _size(file, image.get("size")),
            left_out,
        )


def _load(file: Path) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, f"no JSON ({error})") from error
    features = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(features, list) or not all(isinstance(one, dict) for one in features):
        raise _damaged(file, "no features")
    image = content.get("image", {}) if isinstance(content, dict) else {}
    return features, image if isinstance(image, dict) else {}


def _size(file: Path, size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    if not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
        raise _damaged(file, f"the size {size!r:.40}")
    return size[0], size[1]


def _geometry(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    geometry = feature.get("geometry")
    return geometry if isinstance(geometry, dict) else {}


def _properties(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _class(feature: Mapping[str, Any]) -> str:
    """Return the class as QuPath shows it, which lists the names of one that has several parts."""
    given = _properties(feature).get("classification")
    if isinstance(given, dict):
        given = given.get("name") or given.get("names")
    names = given if isinstance(given, list) else [given]
    return ": ".join(name for name in names if isinstance(name, str) and name) or UNNAMED


def _decode(file: Path, size: tuple[int, int]) -> Iterator[MaskRecord]:
    for feature in _load(file)[0]:
        geometry = _geometry(feature)
        if geometry.get("type") not in AREAS:
            continue
        try:
            coordinates = geometry["coordinates"]
            polygons = [coordinates] if geometry["type"] == "Polygon" else coordinates
            rings = [np.array(ring, np.float64)[:, :2] for polygon in polygons for ring in polygon]
            if not all((np.abs(ring) <= EXTENT).all() and ring.shape[1] == 2 for ring in rings):
                raise ValueError("coordinates far outside of the image")
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(file, f"a damaged geometry ({error})") from error
        measurements = _properties(feature).get("measurements")
        numbers = measurements if isinstance(measurements, dict) else {}
        yield MaskRecord.of_mask(
            fill_polygons(rings, size),
            label=_class(feature),
            score=number_of(numbers.get("score")),
            stability=number_of(numbers.get("stability")),
            prompt_index=_properties(feature).get("prompt_index"),
            prompt=_properties(feature).get("prompt"),
        )


def _damaged(file: Path, got: str) -> DataError:
    return DataError.of(
        str(file), got=got, expected="a FeatureCollection in pixels", fix="export it again"
    )
