from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpcsam.errors import DataError
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import (
    Sample,
    digest_samples,
    entity_windows,
    fingerprint,
    highest_similarity,
    read_pair,
    windows,
)
from training.data.synthetic import synthetic_scene


def write_bbbc038(root: Path, sample_id: str, masks: list[np.ndarray]) -> None:
    folder = root / "stage1_train" / sample_id
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    image = np.full((20, 30, 4), 255, np.uint8)
    image[..., 0] = 10
    Image.fromarray(image).save(folder / "images" / f"{sample_id}.png")
    for index, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{index}.png")


def square(top: int, left: int, side: int, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_bbbc038_reads_every_instance(tmp_path: Path) -> None:
    write_bbbc038(tmp_path, "a", [square(0, 0, 4), square(10, 10, 5)])
    write_bbbc038(tmp_path, "b", [square(1, 1, 2)])
    first, second = read_bbbc038(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert first.image.shape == (20, 30, 3)
    assert first.image[0, 0].tolist() == [10, 255, 255]
    assert np.bincount(first.instances.ravel()).tolist() == [600 - 16 - 25, 16, 25]


def test_bbbc038_reads_the_listed_ids_only(tmp_path: Path) -> None:
    for sample_id in "abc":
        write_bbbc038(tmp_path, sample_id, [square(0, 0, 4)])
    (tmp_path / "ids.txt").write_text("c\na\n")
    assert [s.name for s in read_bbbc038(tmp_path, tmp_path / "ids.txt")] == ["c", "a"]


def test_bbbc038_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stage1_train"):
        read_bbbc038(tmp_path)
    write_bbbc038(tmp_path, "a", [square(0, 0, 4), square(0, 0, 4, (9, 9))])
    with pytest.raises(DataError, match=r"1\.png: got size \(9, 9\), expected \(20, 30\)"):
        read_bbbc038(tmp_path)
    (tmp_path / "stage1_train/a/masks/1.png").write_text("text")
    with pytest.raises(DataError, match=r"1\.png: got 4 bytes that cannot be decoded"):
        read_bbbc038(tmp_path)
    with pytest.raises(DataError, match="ids"):
        read_bbbc038(tmp_path, tmp_path / "absent.txt")


def test_pair_scales_deep_images_to_eight_bits(tmp_path: Path) -> None:
    raw = np.linspace(100, 5100, 400).reshape(20, 20).astype(np.uint16)
    labels = np.zeros((20, 20), np.uint16)
    labels[3:9, 3:9] = 7
    Image.fromarray(raw).save(tmp_path / "image.tif")
    Image.fromarray(labels).save(tmp_path / "labels.tif")
    sample = read_pair(tmp_path / "image.tif", tmp_path / "labels.tif")
    assert sample.image.shape == (20, 20, 3)
    assert (sample.image.min(), sample.image.max()) == (0, 255)
    assert (np.diff(sample.image[:, :, 0].ravel().astype(int)) >= 0).all()
    assert np.unique(sample.instances).tolist() == [0, 7]


def test_pair_refuses_labels_of_another_size(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((20, 21), np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(DataError, match=r"labels\.png: got size \(20, 21\)"):
        read_pair(tmp_path / "image.png", tmp_path / "labels.png")


def test_windows_count_no_pixel_twice() -> None:
    instances = np.arange(7 * 11, dtype=np.int32).reshape(7, 11)
    sample = Sample("s", np.zeros((7, 11, 3), np.uint8), instances)
    cut = windows(sample, 3)
    seen = np.concatenate([window.instances.ravel() for window in cut])
    assert len(cut) == 2 * 3
    assert all(window.instances.shape == (3, 3) for window in cut)
    assert len(np.unique(seen)) == len(seen)
    assert set(seen) == set(instances[:6, :9].ravel())


def test_digest_changes_with_one_pixel() -> None:
    image, instances = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int32)
    before = digest_samples([Sample("s", image, instances)])
    image[1, 2, 0] = 1
    assert digest_samples([Sample("s", image, instances)]) != before


def test_entity_windows_show_each_entity_whole_and_alone() -> None:
    instances = np.zeros((50, 60), np.int32)
    instances[0:4, 0:4] = 1
    instances[20:30, 25:35] = 2
    instances[24:30, 36:40] = 3
    instances[49, 59] = 4
    image = np.zeros((50, 60, 3), np.uint8)
    image[..., 0] = instances
    cut = entity_windows(Sample("s", image, instances), 20, min_area=5)
    assert [window.instances.max() for window in cut] == [1, 2, 3]
    for window, area in zip(cut, (16, 100, 24), strict=True):
        assert window.instances.shape == (20, 20)
        assert (window.instances > 0).sum() == area
        assert len(np.unique(window.instances)) == 2
    assert cut[1].name == "s@14,20"
    assert set(np.unique(cut[1].image[..., 0])) == {0, 2, 3}


def test_highest_similarity_of_transformed_image_is_high() -> None:
    scene = synthetic_scene(0, 128).image
    known = [fingerprint(synthetic_scene(seed, 128).image) for seed in range(6)]
    shown = {
        "resized": np.asarray(Image.fromarray(scene).resize((200, 200))),
        "darker": (scene * 0.6).astype(np.uint8),
        "turned": np.rot90(scene).copy(),
        "mirrored": scene[:, ::-1].copy(),
    }
    for name, image in shown.items():
        assert highest_similarity(fingerprint(image), known) > 0.97, name


def test_highest_similarity_of_other_images_is_low() -> None:
    known = [fingerprint(synthetic_scene(seed, 128).image) for seed in range(6)]
    assert highest_similarity(fingerprint(synthetic_scene(99, 128).image), known) < 0.95
    assert highest_similarity(known[0], []) == -1
