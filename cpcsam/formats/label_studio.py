"""Label Studio: `tasks.json` with predictions as brush masks, and `labeling_config.xml`.

Images are named for local storage: its root is the common folder of the images. Exports as JSON are
read, with brush masks and polygons.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import DataError
from cpcsam.formats import UNNAMED
from cpcsam.formats.brush_runs import decode_brush, encode_brush
from cpcsam.formats.fill import fill_polygons
from cpcsam.formats.losses import count_fields, drop_empty
from cpcsam.formats.names import xml_name
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord, number_of

__all__ = ["brush_result", "read", "write"]

FILE: Final = "tasks.json"
LOCAL: Final = "/data/local-files/?d="
READ: Final = ("brushlabels", "polygonlabels")
EXTENT: Final = 10_000.0
"""Percent of the image's side, beyond which no coordinate lies."""


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write `tasks.json` and `labeling_config.xml`, see `records.Format`.

    Raises:
        ContractError: the name of a class has characters that XML cannot hold.
    """
    losses = Losses()
    tasks = []
    labels: dict[str, None] = {}
    for image in images:
        kept = drop_empty(image.masks, losses)
        labels |= dict.fromkeys(xml_name(mask.label) for mask in kept)
        prediction: dict[str, Any] = {
            "model_version": image.model,
            "result": [
                brush_result(mask, image.size, f"{number}")
                for number, mask in enumerate(kept, start=1)
            ],
        }
        scores = [mask.score for mask in kept if mask.score is not None]
        if scores:
            prediction["score"] = sum(scores) / len(scores)
        # A name that is no UTF-8 is a name nevertheless.
        address = LOCAL + quote(image.file_name.encode(errors="surrogateescape"))
        data = {"image": address, "file_name": image.file_name}
        tasks.append({"data": data, "predictions": [prediction]})
        count_fields(image.masks, ("stability", "prompt"), losses)
    write_atomic(folder / FILE, (json.dumps(tasks) + "\n").encode())
    rows = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    config = (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <BrushLabels name="brush" toName="image">\n{rows}  </BrushLabels>\n</View>\n'
    )
    write_atomic(folder / "labeling_config.xml", config.encode())
    return losses


def brush_result(mask: MaskRecord, size: tuple[int, int], identity: str) -> dict[str, Any]:
    """Return a region of a prediction.

    Args:
        mask: not empty.
        size: (H, W) of the image.
        identity: distinct within the task.
    """
    region: dict[str, Any] = {
        "id": identity,
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": encode_brush(mask.array(size)),
            "brushlabels": [mask.label],
        },
    }
    if mask.score is not None:
        region["score"] = mask.score
    return region


def read(folder: Path) -> Iterator[ListedImage]:
    """List the images of all `*.json` files that hold tasks, see `records.Format`.

    Of a task, the first annotation that was not cancelled counts; of one without annotations, the
    first prediction.
    """
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.json"))
    found = False
    for file in files:
        tasks = _tasks(file, file.stat().st_mtime_ns)
        for place, task in enumerate(tasks):
            results = _results(task)
            regions = [one for one in results if one.get("type") in READ]
            name = _file_name(task["data"])
            if name is None:
                raise _damaged(file, f"task {place} without an image")
            found = True
            classes = tuple(_class(region) for region in regions)
            left_out = Losses(str(one.get("type")) for one in results if one not in regions)
            yield ListedImage(
                name,
                classes,
                partial(_decode, file, place),
                (file,),
                _size(file, regions),
                left_out,
                is_annotated=bool(_chosen(task)),
            )
    if not found:
        raise _damaged(folder, "no JSON file with tasks")


@lru_cache(maxsize=4)
def _tasks(file: Path, changed_ns: int) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, f"no JSON ({error})") from error
    if not isinstance(content, list):
        return []
    return [
        task for task in content if isinstance(task, dict) and isinstance(task.get("data"), dict)
    ]


def _chosen(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the annotation or prediction of a task that counts; none of one that was skipped."""
    annotations = _objects(task, "annotations")
    drawn = [one for one in annotations if not one.get("was_cancelled")]
    return (drawn if annotations else _objects(task, "predictions"))[:1]


def _results(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    results = [one for each in _chosen(task) for one in _objects(each, "result")]
    return [one for one in results if isinstance(one.get("value"), dict)]


def _objects(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = record.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _file_name(data: Mapping[str, Any]) -> str | None:
    """Return the path of a task's image as far as its address tells it."""
    if isinstance(data.get("file_name"), str):
        return str(data["file_name"])
    address = data.get("image") or next((value for value in data.values() if value), None)
    if not isinstance(address, str):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:  # a host that is none
        return None
    # Names in URLs are quoted, those of S3 and the like are not. They may be bytes of any kind.
    is_url = parts.scheme in ("", "http", "https")
    path = unquote(parts.path, errors="surrogateescape") if is_url else parts.path
    name = path.lstrip("/")
    return parse_qs(parts.query, errors="surrogateescape").get("d", [name])[0]


def _class(region: Mapping[str, Any]) -> str:
    names = region["value"].get(region["type"])
    return str(names[0]) if isinstance(names, list) and names else UNNAMED


def _size(file: Path, regions: list[dict[str, Any]]) -> tuple[int, int] | None:
    if not regions:
        return None
    try:
        return int(regions[0]["original_height"]), int(regions[0]["original_width"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(file, "a region without original_width and original_height") from error


def _decode(file: Path, place: int, size: tuple[int, int]) -> Iterator[MaskRecord]:
    for region in _results(_tasks(file, file.stat().st_mtime_ns)[place]):
        if region.get("type") not in READ:
            continue
        try:
            mask = _mask(region["value"], size)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(file, f"region {region.get('id')} of task {place}: {error}") from error
        yield MaskRecord.of_mask(mask, label=_class(region), score=number_of(region.get("score")))


def _mask(value: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    if "rle" in value:
        return decode_brush(value["rle"], size)
    ring = np.array(value["points"], np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2 or not (np.abs(ring) <= EXTENT).all():
        raise ValueError("a polygon far outside of the image")
    return fill_polygons([ring * (size[1] / 100, size[0] / 100)], size)


def _damaged(file: Path, got: str) -> DataError:
    return DataError.of(
        str(file),
        got=got,
        expected="tasks of Label Studio, exported as JSON",
        fix="export them again",
    )
