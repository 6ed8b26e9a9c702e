"""Registry of datasets: the paper's nine, a brain, vector art and the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from cpcsam.errors import ConfigError
from training.data.datasets.annotation_files import AnnotationFiles
from training.data.datasets.class_files import ClassFiles
from training.data.datasets.coco import CocoFiles
from training.data.datasets.instance_folders import InstanceFolders
from training.data.datasets.items import Scan
from training.data.datasets.mask_files import MaskFiles, OwnFolders
from training.data.datasets.slices import LabelledVolume
from training.data.datasets.vector_scenes import VectorScenes

__all__ = ["DATASETS", "DatasetSpec", "Last", "LastOfEachClass", "Layout", "spec_of"]


class Layout(Protocol):
    """Layout of a dataset on disk."""

    def scan(self, root: Path) -> Scan:
        """List its images without reading a pixel."""


@dataclass(frozen=True)
class Last:
    """Test split of the last images.

    Attributes:
        count: number of images; a fifth of all for None, or if that leaves none to train on.
    """

    count: int | None = None


@dataclass(frozen=True)
class LastOfEachClass:
    """Test split of the last `count` images of each class."""

    count: int


@dataclass(frozen=True)
class DatasetSpec:
    """Description of a dataset.

    Attributes:
        name: as commands and configurations take it.
        title: as the paper has it.
        layout: its files.
        split: the test images, if the files themselves do not name them.
        known: classes that are base classes whatever their order; all others are then target
            classes. Empty leaves the choice to `protocol.split_classes`.
        columns: classes that the paper's tables have columns of.
    """

    name: str
    title: str
    layout: Layout
    split: Last | LastOfEachClass
    known: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()


CELEBA_PARTS: Mapping[str, str] = {
    "skin": "skin",
    "nose": "nose",
    "eye_g": "eyeglass",
    "l_eye": "eye",
    "r_eye": "eye",
    "l_brow": "brow",
    "r_brow": "brow",
    "l_ear": "ear",
    "r_ear": "ear",
    "mouth": "mouth",
    "u_lip": "mouth",
    "l_lip": "mouth",
    "hair": "hair",
    "hat": "hat",
    "ear_r": "earring",
    "neck_l": "necklace",
    "neck": "neck",
    "cloth": "cloth",
}
"""Classes of CelebAMask-HQ's files, in the order in which its own script lays them over."""

LUNGS: Mapping[str, str] = {"left lung": "lung", "right lung": "lung"}
BOX = "segmentation_full_body_tik_tok_2615_img"

COCO_CLASSES = frozenset(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush".split(",")
)
"""The 80 classes of COCO: OceanCOCO's base classes, to its 38 deep-sea species 13:6."""

_SPECS = (
    DatasetSpec(
        "celebamask-hq",
        "CelebAMask-HQ",
        ClassFiles(
            ("CelebA-HQ-img", "CelebAMask-HQ/CelebA-HQ-img"),
            ("CelebAMask-HQ-mask-anno", "CelebAMask-HQ/CelebAMask-HQ-mask-anno"),
            CELEBA_PARTS,
        ),
        Last(2000),
        columns=("brow", "eye", "hair", "nose", "mouth"),
    ),
    DatasetSpec(
        "intelecai-car",
        "intelecaiCAR",
        MaskFiles(
            ("images", "car-segmentation/images"),
            ("masks", "car-segmentation/masks"),
            ("car", "wheel", "light", "window"),
        ),
        Last(100),
        columns=("car", "wheel", "window"),
    ),
    DatasetSpec(
        "tiktok-dances",
        "TikTok dances",
        MaskFiles(
            ("images", f"{BOX}/images", f"{BOX}/{BOX}/images"),
            ("masks", f"{BOX}/masks", f"{BOX}/{BOX}/masks"),
            ("person",),
        ),
        Last(2000),
    ),
    DatasetSpec("bbbc038v1", "BBBC038v1", InstanceFolders("nucleus"), Last(5000)),
    DatasetSpec(
        "kvasir-seg",
        "Kvasir-SEG",
        MaskFiles(("images", "Kvasir-SEG/images"), ("masks", "Kvasir-SEG/masks"), ("polyp",)),
        Last(500),
    ),
    DatasetSpec(
        "jsrt",
        "JSRT",
        ClassFiles(
            ("All247images", "images/images", "images"),
            ("scratch", "scr/scratch", "masks"),
            LUNGS,
            part_is_folder=True,
            unused=("heart", "left clavicle", "right clavicle"),
        ),
        Last(147),
    ),
    DatasetSpec(
        "gtea",
        "GTEA",
        MaskFiles(
            ("Images", "GTEA/Images", "hand2K_dataset/GTEA/Images"),
            ("Masks", "GTEA/Masks", "hand2K_dataset/GTEA/Masks"),
            ("hand",),
        ),
        Last(),
    ),
    DatasetSpec(
        "trashcan",
        "TrashCan",
        CocoFiles(("instance_version", "dataset/instance_version", "."), apart=False),
        Last(484),
    ),
    DatasetSpec(
        "oceancoco",
        "OceanCOCO",
        CocoFiles(apart=False),
        LastOfEachClass(20),
        known=COCO_CLASSES,
    ),
    DatasetSpec("mricron", "mricron-data", LabelledVolume(), Last()),
    DatasetSpec("vector-art", "vector-art scenes", VectorScenes(), Last()),
    DatasetSpec("vector-art-parts", "vector-art scenes of parts", VectorScenes(parts=True), Last()),
    DatasetSpec("coco", "your own COCO JSON", CocoFiles(), Last()),
    *(
        DatasetSpec(name, f"your own annotations as {title}", AnnotationFiles(name), Last())
        for name, title in (
            ("yolo-seg", "YOLO segmentation"),
            ("geojson", "GeoJSON"),
            ("cvat", "CVAT for images"),
            ("label-studio", "Label Studio JSON"),
        )
    ),
    DatasetSpec("folders", "your own images and masks", OwnFolders(), Last()),
)

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""All datasets by name."""


def spec_of(name: str) -> DatasetSpec:
    """Find a dataset.

    Raises:
        ConfigError: there is none of this name; the nearest is named.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.4)
        raise ConfigError.of(
            "dataset",
            got=repr(name),
            expected=", ".join(DATASETS),
            fix=f"write {near[0]}" if near else "write one of these",
        )
    return DATASETS[name]
