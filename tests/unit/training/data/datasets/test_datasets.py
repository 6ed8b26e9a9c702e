"""Datasets in their official layouts."""

from __future__ import annotations

import gzip
import pickle
import re
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpcsam.errors import ConfigError, DataError
from tests.support.dataset_factory import (
    MINIATURES,
    SIZE,
    bbbc038,
    box,
    celebamask,
    classes_in,
    folders,
    kvasir,
    mricron,
    nifti,
    oceancoco,
    picture,
    save,
    trashcan,
)
from training.data.datasets.files import entities_of
from training.data.datasets.folders import natural_key
from training.data.datasets.instance_folders import read_bbbc038
from training.data.datasets.items import LazySamples, keep_classes
from training.data.datasets.protocol import open_dataset
from training.data.datasets.registry import DATASETS, spec_of
from training.data.datasets.slices import read_nifti
from training.data.sample import Sample

EXPECTED = {
    "celebamask-hq": {"skin": 1, "hair": 1, "brow": 2, "nose": 1},
    "intelecai-car": {"car": 1, "wheel": 2, "window": 1},
    "tiktok-dances": {"person": 1},
    "bbbc038v1": {"nucleus": 2},
    "kvasir-seg": {"polyp": 1},
    "jsrt": {"lung": 2},
    "gtea": {"hand": 2},
    "trashcan": {"rov": 1, "trash_bag": 1},
    "mricron": {"Precentral": 2, "Vermis_1_2": 1},
    "yolo-seg": {"cell": 1, "ring": 1},
    "geojson": {"cell": 1, "ring": 1},
    "cvat": {"cell": 1, "ring": 1},
    "label-studio": {"cell": 1, "ring": 1},
    "folders": {"entity": 1},
}
"""Entities of every image of a miniature, by class."""


def test_every_dataset_has_a_miniature() -> None:
    assert set(MINIATURES) == set(DATASETS)


@pytest.mark.parametrize("name", EXPECTED)
def test_official_layout_is_read(name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path)
    dataset = open_dataset(name, tmp_path)
    samples = [s for part in ("train", "validation", "test") for s in dataset.samples(part)]
    assert len(samples) >= 12
    for sample in samples:
        assert sample.image.dtype == np.uint8 and sample.image.shape[2] == 3
        assert sample.instances.dtype == np.int32
        assert sample.image.shape[:2] == sample.instances.shape
        assert classes_in(sample) == EXPECTED[name]
    assert set(EXPECTED[name]) <= set(dataset.classes)


def test_oceancoco_masks_are_read_from_rle(tmp_path: Path) -> None:
    oceancoco(tmp_path)
    samples = open_dataset("oceancoco", tmp_path).samples("test")
    assert {name for s in samples for name in classes_in(s)} == {"person", "boat", "anglerfish"}
    assert all((s.instances > 0).sum() == 81 for s in samples)


def test_celebamask_shrinks_images_to_their_masks(tmp_path: Path) -> None:
    celebamask(tmp_path)
    with Image.open(tmp_path / "CelebA-HQ-img/0.jpg") as image:
        assert image.size == (64, 48)
    sample = open_dataset("celebamask-hq", tmp_path).samples("train")[0]
    assert sample.image.shape == (*SIZE, 3)
    hair = sample.class_names.index("hair") + 1
    assert (sample.instances[:4] == hair).all(), "hair lies over skin"


def test_jsrt_is_read_as_its_society_publishes_it(tmp_path: Path) -> None:
    """Raw films of twice the masks' size, on which dark is high."""
    mask = box(100, 200, 300, 400, (1024, 1024))
    for index in (1, 2):
        film = np.where(mask.repeat(2, 0).repeat(2, 1) > 0, 4000, 500).astype(">u2")
        path = tmp_path / f"All247images/JPCLN00{index}.IMG"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(film.tobytes())
        save(tmp_path / f"scratch/fold{index}/masks/left lung/JPCLN00{index}.gif", mask)
    sample = open_dataset("jsrt", tmp_path).samples("train")[0]
    assert sample.image.shape == (1024, 1024, 3)
    assert sample.image[sample.instances > 0].max() < 5 < 250 < sample.image[0, 0, 0]


def test_images_are_in_natural_order(tmp_path: Path) -> None:
    celebamask(tmp_path)
    dataset = open_dataset("celebamask-hq", tmp_path)
    names = [n for part in ("train", "validation", "test") for n in dataset.samples(part).names]
    assert names == [str(index) for index in range(12)]
    assert sorted(["a10", "a9", "b1", "10"], key=natural_key) == ["10", "a9", "a10", "b1"]


def test_trashcan_ignores_its_own_split_as_the_paper_does(tmp_path: Path) -> None:
    trashcan(tmp_path, 40)
    assert [item.name for item in spec_of("trashcan").layout.scan(tmp_path).items][-1].startswith(
        "vid_000119"
    )
    assert len(open_dataset("trashcan", tmp_path).samples("test")) == 8, "a fifth of 40 images"
    own = open_dataset("coco", tmp_path / "instance_version")
    assert all(name.startswith("vid_0001") for name in own.samples("test").names)
    assert len(own.samples("test")) == 20


def test_bbbc038_follows_its_lists(tmp_path: Path) -> None:
    bbbc038(tmp_path)
    (tmp_path / "train.txt").write_text("id03\nid01\nid02\nid07")
    (tmp_path / "val.txt").write_text("id00 id05")
    dataset = open_dataset("bbbc038v1", tmp_path)
    assert dataset.samples("test").names == ["id00", "id05"]
    assert dataset.samples("train").names == ["id03", "id01", "id02"]
    assert dataset.samples("validation").names == ["id07"]
    assert {s.class_names for s in read_bbbc038(tmp_path)} == {()}


def test_connected_parts_of_a_class_are_entities() -> None:
    values = np.zeros((6, 6), np.int32)
    values[0, 0] = values[1, 1] = values[5, 5] = 2
    values[3, 0] = 7
    instances, names = entities_of(values, {2: "b"})
    assert names == ("b", "b")
    assert instances[0, 0] == instances[1, 1] == 1 and instances[5, 5] == 2
    assert instances[3, 0] == 0, "a value without a class is background"


def test_classes_can_be_kept_and_keep_their_labels() -> None:
    instances = np.array([[1, 2], [3, 0]], np.int32)
    sample = Sample("s", np.zeros((2, 2, 3), np.uint8), instances, ("a", "b", "a"))
    assert keep_classes(sample, {"a"}).instances.tolist() == [[1, 0], [3, 0]]
    assert keep_classes(sample, {"a", "b"}) is sample
    assert sample.class_of(2) == "b"
    with pytest.raises(DataError, match="label 4"):
        sample.class_of(4)


def test_lazy_samples_read_on_every_access(tmp_path: Path) -> None:
    size = (400, 400)
    for index in range(24):
        save(tmp_path / f"images/{index}.png", picture(index, size))
        save(tmp_path / f"masks/{index}.png", box(5, 5, 90, 90, size))
    tracemalloc.start()
    samples = open_dataset("folders", tmp_path).samples("train")
    shutil.move(tmp_path / "images", tmp_path / "away")
    assert len(samples) == 18 and len(samples[2:5]) == 3 and samples.digest()
    with pytest.raises(DataError, match=r"0\.png: got no such file"):
        samples[0]
    shutil.move(tmp_path / "away", tmp_path / "images")
    samples[0]
    one = tracemalloc.get_traced_memory()[1]
    for index in range(len(samples)):
        assert samples[index].image.shape == (*size, 3)
    assert tracemalloc.get_traced_memory()[1] < 1.5 * one
    tracemalloc.stop()


def test_digest_differs_by_files_and_classes(tmp_path: Path) -> None:
    folders(tmp_path)
    samples = open_dataset("folders", tmp_path).samples("train")
    before = samples.digest()
    assert before == open_dataset("folders", tmp_path).samples("train").digest()
    assert samples[1:].digest() != before
    assert samples.of_classes({"entity"}).digest() != before
    save(tmp_path / "masks/0.png", picture(9)[:, :, 0])
    assert samples.digest() != before


def test_items_travel_to_worker_processes(tmp_path: Path) -> None:
    for name, write in MINIATURES.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        items = open_dataset(name, tmp_path / name).samples("train").items
        again = pickle.loads(pickle.dumps(items[0]))
        assert np.array_equal(again.read().instances, items[0].read().instances)


def test_missing_folders_and_unknown_names_are_one_error(tmp_path: Path) -> None:
    for name in DATASETS:
        with pytest.raises(DataError, match=str(tmp_path)):
            open_dataset(name, tmp_path)
        with pytest.raises(DataError, match="absent"):
            open_dataset(name, tmp_path / "absent")
    with pytest.raises(ConfigError, match="write kvasir-seg"):
        open_dataset("kvasir", tmp_path)
    kvasir(tmp_path, 1)
    with pytest.raises(DataError, match="1 images"):
        open_dataset("kvasir-seg", tmp_path)


def test_volumes_are_read_scaled_and_refused(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nifti(tmp_path / "v.nii.gz", values, slope=0.5)
    assert np.allclose(read_nifti(tmp_path / "v.nii.gz"), values / 2)
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "v.nii.gz").read_bytes()[:-20])
    (tmp_path / "text.nii").write_text("text" * 200)
    for name, message in (("cut", "unreadable"), ("text", "another format"), ("no", "no such")):
        path = next(tmp_path.glob(f"{name}.*"), tmp_path / name)
        with pytest.raises(DataError, match=message):
            read_nifti(path)


def test_labels_of_a_float_volume_are_rounded(tmp_path: Path) -> None:
    mricron(tmp_path)
    before = open_dataset("mricron", tmp_path).samples("train")[0].instances
    path = tmp_path / "templates/aal.nii.gz"
    nifti(path, (read_nifti(path) - 0.1).astype(np.float32))
    # Volumes are cached by path.
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "templates", tmp_path / "new/templates")
    dataset = open_dataset("mricron", tmp_path / "new")
    assert np.array_equal(dataset.samples("train")[0].instances, before)
    assert dataset.account.changed == {"label images of fractions, rounded": 1}


def test_a_volume_that_promises_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    nifti(path, np.zeros((2, 3, 4), np.int16))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<8h", raw, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    for name, content in (("b.nii.gz", gzip.compress(raw)), ("b.nii", bytes(raw))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="more than the file holds"):
            read_nifti(tmp_path / name)


def test_ids_of_lists_without_files_are_named(tmp_path: Path) -> None:
    bbbc038(tmp_path)
    (tmp_path / "train.txt").write_bytes(
        "\ufeffid03\r\nid01\r\nid99\r\nid01\r\nid00\r\nid04".encode()
    )
    (tmp_path / "val.txt").write_text("id00 id05")
    (tmp_path / "stage1_train/id04/images/id04.png").unlink()
    dataset = open_dataset("bbbc038v1", tmp_path)
    assert dataset.samples("test").names == ["id00", "id05"]
    assert dataset.samples("train").names + dataset.samples("validation").names == ["id03", "id01"]
    shown = [re.sub(r".*[/ ](id\d+).*: got (.*?), .*", r"\1 \2", line) for line in dataset.losses]
    assert shown == [
        "id99 no such folder",
        "id00 an image that is tested on",
        "id04 no such file",
    ]
    account = dataset.samples("train").account
    assert account is not None and (account.read["images"], account.found("images")) == (4, 8)


def test_brain_slices_are_split_in_blocks(tmp_path: Path) -> None:
    mricron(tmp_path)
    dataset = open_dataset("mricron", tmp_path)
    numbers = {
        part: [int(name[-3:]) for name in dataset.samples(part).names]
        for part in ("train", "validation", "test")
    }
    assert numbers["test"] == [*range(20, 35), *range(65, 80)]
    nearest = min(abs(a - b) for a in numbers["train"] for b in numbers["test"])
    assert nearest == 4
    assert isinstance(dataset.samples("train"), LazySamples)
