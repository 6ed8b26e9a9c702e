"""Miniatures of the datasets in their official layouts."""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpcsam.formats.records import ImageRecord, MaskRecord
from cpcsam.formats.writing import write_format
from training.data.sample import Sample

SIZE = (24, 32)


def save(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def box(
    top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE
) -> np.ndarray[Any, Any]:
    """A black and white mask of one rectangle, 0 and 255."""
    mask = np.zeros(size, np.uint8)
    mask[top : top + height, left : left + width] = 255
    return mask


def classes_in(sample: Sample) -> Counter[str]:
    """How many entities of each class."""
    return Counter(sample.class_of(int(k)) for k in np.unique(sample.instances) if k)


def celebamask(root: Path, count: int = 12) -> None:
    """Images of twice the masks' size; brows and eyes have a file a side."""
    for index in range(count):
        save(root / f"CelebA-HQ-img/{index}.jpg", picture(index, (48, 64)))
        masks = root / "CelebAMask-HQ-mask-anno" / str(index // 2000)
        for part, mask in {
            "skin": box(2, 2, 20, 28),
            "hair": box(0, 0, 4, 32),
            "l_brow": box(6, 4, 2, 6),
            "r_brow": box(6, 20, 2, 6),
            "nose": box(10, 14, 6, 4),
        }.items():
            save(masks / f"{index:05d}_{part}.png", np.repeat(mask[:, :, None], 3, axis=2))


def car(root: Path, count: int = 12) -> None:
    for index in range(1, count + 1):
        save(root / f"images/{index:03d}.png", picture(index))
        values = np.zeros(SIZE, np.uint8)
        values[4:20, 2:30] = 1
        values[16:22, 4:10] = values[16:22, 20:26] = 2
        values[6:10, 8:16] = 4
        save(root / f"masks/{index:03d}.png", values)


def tiktok(root: Path, count: int = 12) -> None:
    inner = root / "segmentation_full_body_tik_tok_2615_img"
    for index in range(count):
        save(inner / f"images/{index:05d}.png", picture(index))
        save(inner / f"masks/{index:05d}.png", np.repeat(box(3, 8, 18, 10)[:, :, None], 3, axis=2))


def bbbc038(root: Path, count: int = 12) -> None:
    for index in range(count):
        folder = root / f"stage1_train/id{index:02d}"
        save(folder / f"images/id{index:02d}.png", picture(index))
        for number in range(2):
            save(folder / f"masks/m{number}.png", box(4, 4 + 14 * number, 8, 8))


def kvasir(root: Path, count: int = 12) -> None:
    for index in range(count):
        save(root / f"Kvasir-SEG/images/cju{index}.jpg", picture(index))
        save(root / f"Kvasir-SEG/masks/cju{index}.jpg", box(5, 5, 12, 16))


def jsrt(root: Path, count: int = 12) -> None:
    for index in range(1, count + 1):
        deep = (picture(index)[:, :, 0].astype(np.uint16) + 100) * 16
        save(root / f"images/images/JPCLN{index:03d}.png", deep)
        fold = root / f"scratch/fold{2 - index % 2}/masks"
        for part, left in (("left lung", 3), ("right lung", 18), ("heart", 14)):
            save(fold / part / f"JPCLN{index:03d}.gif", box(4, left, 16, 10))


def gtea(root: Path, count: int = 12) -> None:
    for index in range(count):
        save(root / f"GTEA/Images/{index:010d}.jpg", picture(index))
        mask = np.maximum(box(10, 2, 10, 8), box(10, 20, 10, 8))
        save(root / f"GTEA/Masks/{index:010d}.png", mask)


def coco_json(
    images: list[tuple[int, str]], annotations: list[dict[str, Any]], categories: list[str]
) -> dict[str, Any]:
    return {
        "images": [
            {"id": key, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for key, name in images
        ],
        "annotations": [
            {"id": number, "iscrowd": 0, **annotation}
            for number, annotation in enumerate(annotations, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, start=1)],
    }


def polygon(top: int, left: int, height: int, width: int) -> list[list[int]]:
    bottom, right = top + height, left + width
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """COCO's uncompressed run lengths: columns first, background first."""
    flat = np.concatenate([[0], (mask > 0).T.ravel().astype(int), [-1]])
    starts = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], starts]))
    counts[-1] += mask.size - counts.sum()
    return {"size": list(mask.shape), "counts": [int(count) for count in counts]}


def trashcan(root: Path, count: int = 12) -> None:
    folder = root / "instance_version"
    for part, start in (("train", 0), ("val", 100)):
        images = [(start + i + 1, f"vid_{start + i:06d}_frame1.jpg") for i in range(count // 2)]
        for key, name in images:
            save(folder / part / name, picture(key))
        annotations = [
            {"image_id": key, "category_id": category, "segmentation": polygon(4, left, 8, 8)}
            for key, _ in images
            for category, left in ((1, 2), (2, 18))
        ]
        content = coco_json(images, annotations, ["rov", "trash_bag"])
        (folder / f"instances_{part}_trashcan.json").write_text(json.dumps(content))


def oceancoco(root: Path, count: int = 60) -> None:
    images = [(key, f"{key:012d}.jpg") for key in range(1, count + 1)]
    for key, name in images:
        save(root / "images" / name, picture(key))
    annotations: list[dict[str, Any]] = [
        {"image_id": key, "category_id": 1 + key % 3, "segmentation": run_lengths(box(4, 4, 9, 9))}
        for key, _ in images
    ]
    content = coco_json(images, annotations, ["person", "boat", "anglerfish"])
    (root / "annotations").mkdir()
    (root / "annotations/instances.json").write_text(json.dumps(content))


def nifti(path: Path, values: np.ndarray[Any, Any], slope: float = 1.0) -> None:
    code = {"uint8": 2, "int16": 4, "float32": 16}[values.dtype.name]
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *values.shape, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, code, values.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<3f", header, 108, 352.0, slope, 0.0)
    header[344:348] = b"n+1\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(header) + values.tobytes(order="F")))


def mricron(root: Path) -> None:
    """A brain of 100 slices: two sides of one region and a region in the middle."""
    labels = np.zeros((20, 30, 100), np.uint8)
    labels[2:8, 5:15, 5:95] = 1
    labels[12:18, 5:15, 5:95] = 2
    labels[8:12, 20:26, 5:95] = 3
    nifti(root / "templates/aal.nii.gz", labels)
    nifti(root / "templates/ch2.nii.gz", np.where(labels > 0, 200, 30).astype(np.uint8))
    (root / "templates/aal.nii.txt").write_text(
        "1 Precentral_L 2001\n2 Precentral_R 2002\n3 Vermis_1_2 9100\n"
    )


def folders(root: Path, count: int = 12) -> None:
    for index in range(count):
        save(root / f"images/{index}.png", picture(index))
        save(root / f"masks/{index}.png", box(5, 5, 9, 9))


def annotated(form: str) -> Callable[[Path], None]:
    """Images and annotations as our own writer of a format leaves them."""

    def write(root: Path, count: int = 12) -> None:
        ring = box(10, 12, 9, 9) > 0
        ring[13:16, 15:18] = False
        masks = [
            MaskRecord.of_mask(box(1, 2, 5, 6) > 0, label="cell"),
            MaskRecord.of_mask(ring, label="ring"),
        ]
        images = []
        for index in range(count):
            path = root / f"pictures/{index}.png"
            save(path, picture(index))
            at_hand = path if form == "yolo-seg" else None
            images.append(ImageRecord(f"{index}.png", f"{index}", SIZE, masks, at_hand))
        write_format(images, form, root / "annotations")

    return write


def svg(body: str, size: str = 'width="80" height="80"') -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'


TWO_PARTS = (
    '<g><rect x="10" y="10" width="60" height="60" fill="red"/></g>'
    '<circle cx="40" cy="40" r="{radius}" fill="{colour}"/>'
)


def drawings(root: Path, categories: str = "animals food people tools", count: int = 8) -> None:
    """Write a collection of drawings, each a square below a disc."""
    for category in categories.split():
        for index in range(count):
            body = TWO_PARTS.format(radius=10 + index, colour=f"#0{len(category)}{index}")
            path = root / "svg" / category / f"{category}-{index}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(svg(body))


MINIATURES: dict[str, Callable[[Path], None]] = {
    "celebamask-hq": celebamask,
    "intelecai-car": car,
    "tiktok-dances": tiktok,
    "bbbc038v1": bbbc038,
    "kvasir-seg": kvasir,
    "jsrt": jsrt,
    "gtea": gtea,
    "trashcan": trashcan,
    "oceancoco": oceancoco,
    "mricron": mricron,
    "vector-art": drawings,
    "vector-art-parts": drawings,
    "coco": oceancoco,
    **{name: annotated(name) for name in ("yolo-seg", "geojson", "cvat", "label-studio")},
    "folders": folders,
}
"""What writes a miniature of each dataset."""
