"""OME-Zarr 0.4: `NAME.zarr` with the image and the masks as label images.

Where masks overlap, those of a lower score go to a further label image: `masks`, `masks-2` and so
on, so that no pixel is hidden. Classes and scores are the properties of the labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.drawing import color_of
from cpcsam.errors import ContractError, DataError, extra, placed
from cpcsam.formats import UNNAMED
from cpcsam.formats.labels import split_labels
from cpcsam.formats.losses import count_fields, drop_empty
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord

with extra("client"):
    from cpcsam.images.reading import decode_image
with extra("ome-zarr"):
    import zarr

__all__ = ["read", "write"]

VERSION: Final = "0.4"
CHUNK: Final = 1024
FIELDS: Final = ("score", "stability", "prompt_index")


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write `NAME.zarr`, see `records.Format`.

    Raises:
        ContractError: an image file cannot be read.
    """
    losses = Losses()
    for image in images:
        root = folder / f"{image.name}.zarr"
        _make_group(root, _image_metadata(image))
        if image.path is None:
            losses["images that are not at hand; labels stand alone"] += 1
        else:
            with placed(f"{image.path}: "):
                pixels = decode_image(image.path.read_bytes(), options=image.options)
            if pixels.shape[:2] != image.size:
                raise ContractError.of(
                    str(image.path),
                    got="{1} x {0} pixels".format(*pixels.shape[:2]),
                    expected="{1} x {0}, as it was segmented".format(*image.size),
                    fix="give the page that was segmented",
                )
            _make_array(root / "0", np.ascontiguousarray(np.moveaxis(pixels, 2, 0)))
        layers = _layers(drop_empty(image.masks, losses))
        names = ["masks", *(f"masks-{number}" for number in range(2, len(layers) + 1))]
        _make_group(root / "labels", {"labels": names})
        number = 0
        for name, masks in zip(names, layers, strict=True):
            numbers = range(number + 1, number + len(masks) + 1)
            number += len(masks)
            _make_group(root / "labels" / name, _label_metadata(name, masks, numbers))
            kind = np.uint16 if number <= np.iinfo(np.uint16).max else np.uint32
            labels: NDArray[Any] = np.zeros(image.size, kind)
            for label, mask in zip(numbers, masks, strict=True):
                mask.box.crop(labels)[mask.crop] = label
            _make_array(root / "labels" / name / "0", labels)
        count_fields(image.masks, ("prompt",), losses)
    return losses


def _layers(masks: Sequence[MaskRecord]) -> list[list[MaskRecord]]:
    """Divide masks into layers without overlaps, the highest scores first; at least one layer."""
    layers: list[list[MaskRecord]] = [[]]
    for mask in sorted(masks, key=lambda mask: -(mask.score or 0.0)):
        free = (layer for layer in layers if not any(_overlap(mask, other) for other in layer))
        layer = next(free, None)
        if layer is None:
            layers.append([mask])
        else:
            layer.append(mask)
    return layers


def _overlap(one: MaskRecord, other: MaskRecord) -> bool:
    shared = one.box.intersection(other.box)
    if shared is None:
        return False
    crops = (
        shared.translate(-mask.box.top, -mask.box.left).crop(mask.crop) for mask in (one, other)
    )
    return bool(np.logical_and(*crops).any())


def _image_metadata(image: ImageRecord) -> dict[str, Any]:
    source = {"cpcsam": {"file_name": image.file_name, "size": list(image.size)}}
    if image.path is None:
        return source
    colors = ("FF0000", "00FF00", "0000FF")
    channels = [
        {"color": color, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
        for color in colors
    ]
    axes = [{"name": "c", "type": "channel"}, *_axes()]
    multiscales = [_multiscale(image.name, axes)]
    return {"multiscales": multiscales, "omero": {"channels": channels}, **source}


def _label_metadata(name: str, masks: Sequence[MaskRecord], numbers: range) -> dict[str, Any]:
    classes = list(dict.fromkeys(mask.label for mask in masks))
    properties = [
        {
            "label-value": number,
            "class": mask.label,
            **{field: getattr(mask, field) for field in FIELDS if getattr(mask, field) is not None},
        }
        for number, mask in zip(numbers, masks, strict=True)
    ]
    only = len(classes) < 2
    colors = [
        {
            "label-value": number,
            # One class alone: a colour an entity.
            "rgba": [*color_of(number if only else classes.index(mask.label)), 255],
        }
        for number, mask in zip(numbers, masks, strict=True)
    ]
    return {
        "multiscales": [_multiscale(name, _axes())],
        "image-label": {
            "version": VERSION,
            "colors": colors,
            "properties": properties,
            "source": {"image": "../../"},
        },
    }


def _axes() -> list[dict[str, str]]:
    return [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]


def _multiscale(name: str, axes: list[dict[str, str]]) -> dict[str, Any]:
    scale = [{"type": "scale", "scale": [1.0] * len(axes)}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    return {"version": VERSION, "name": name, "axes": axes, "datasets": datasets}


def _format_of_version() -> dict[str, Any]:
    """Return the option that makes zarr 3 write version 2, as OME-Zarr 0.4 has it."""
    return {} if zarr.__version__.startswith("2.") else {"zarr_format": 2}


def _make_group(path: Path, attributes: dict[str, Any]) -> None:
    zarr.open_group(str(path), mode="a", **_format_of_version()).attrs.update(attributes)


def _make_array(path: Path, values: NDArray[Any]) -> None:
    chunks = (*[1] * (values.ndim - 2), *(min(side, CHUNK) for side in values.shape[-2:]))
    array = zarr.open_array(
        str(path),
        mode="w",
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        dimension_separator="/",
        **_format_of_version(),
    )
    array[...] = values


def read(folder: Path) -> Iterator[ListedImage]:
    """List the images of all `*.zarr` below a folder, or of one; see `records.Format`.

    Label images are read at full size, every value an entity.
    """
    roots = [folder] if folder.suffix == ".zarr" else sorted(folder.rglob("*.zarr"))
    if not roots:
        raise DataError.of(
            str(folder), got="no *.zarr", expected="images with labels", fix="correct the path"
        )
    for root in roots:
        try:
            attributes = _attributes(root)
            labels = _attributes(root / "labels")["labels"]
            paths = [root / "labels" / str(name) for name in labels]
            height, width = _array(paths[0]).shape
            masks = [mask for path in paths for mask in _masks_of(path, (height, width))]
        except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise DataError.of(
                str(root), got=f"{type(error).__name__}: {error}",
                expected="OME-Zarr with two-dimensional labels", fix="write it again",
            ) from error  # fmt: skip
        source = attributes.get("cpcsam")
        name = source.get("file_name") if isinstance(source, dict) else None
        yield ListedImage(
            str(name or root.relative_to(folder if roots != [folder] else folder.parent)
                .with_suffix("").as_posix()),
            tuple(mask.label for mask in masks),
            partial(_checked, root, tuple(masks), (height, width)),
            (root / ".zattrs",),
            (height, width),
        )  # fmt: skip


def _attributes(path: Path) -> dict[str, Any]:
    return dict(zarr.open_group(str(path), mode="r").attrs)


def _array(path: Path) -> Any:
    """Open a label image at full size."""
    (multiscale, *_) = _attributes(path)["multiscales"]
    return zarr.open_array(str(path / str(multiscale["datasets"][0]["path"])), mode="r")


def _masks_of(path: Path, size: tuple[int, int]) -> Iterator[MaskRecord]:
    about = _attributes(path)["image-label"]
    properties = {row["label-value"]: row for row in about.get("properties", ())}
    labels = np.asarray(_array(path)[...])
    if labels.shape != size:
        raise ValueError(f"{path.name} of size {labels.shape}, for an image of {size}")
    for number, box, crop in split_labels(labels):
        row = properties.get(number, {})
        fields = {field: row.get(field) for field in FIELDS}
        label = str(row.get("class", UNNAMED))
        yield MaskRecord.of_mask(crop, (box.top, box.left), label=label, **fields)


def _checked(
    root: Path, masks: Sequence[MaskRecord], size: tuple[int, int], wanted: tuple[int, int]
) -> Sequence[MaskRecord]:
    if size != wanted:
        raise DataError.of(str(root), got=f"size {size}", expected=f"{wanted}", fix="restore it")
    return masks
