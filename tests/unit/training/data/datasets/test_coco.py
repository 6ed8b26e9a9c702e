"""Lists in COCO JSON as annotators, Roboflow, LIVECell and MS COCO itself write them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpcsam.errors import ConfigError, DataError
from tests.support.coco_factory import Content, content, write
from tests.support.dataset_factory import MINIATURES, SIZE, box, picture, polygon, run_lengths, save
from training.data.datasets.protocol import Dataset, open_dataset
from training.data.datasets.registry import spec_of


def names(dataset: Dataset) -> list[str]:
    return sorted(item.name for part in dataset.parts.values() for item in part)


def areas(dataset: Dataset) -> list[int]:
    items = [item for part in dataset.parts.values() for item in part]
    return [int((item.read().instances > 0).sum()) for item in sorted(items, key=lambda i: i.name)]


def test_captions_and_keypoints_beside_instances_are_ignored(tmp_path: Path) -> None:
    one = content()
    write(tmp_path, {"annotations/instances_train2017.json": one}, "train2017")
    folder = tmp_path / "annotations"
    captions = [{"id": 1, "image_id": 1, "caption": "x"}]
    (folder / "captions_train2017.json").write_text(
        json.dumps({"images": one["images"], "annotations": captions})
    )
    (folder / "captions.json").write_text(json.dumps({**one, "annotations": captions}))
    (folder / "person_keypoints_train2017.json").write_text(json.dumps(one))
    (folder / "._instances_train2017.json").write_bytes(b"\0\5\x16\7" + bytes(40))
    (folder / "package.json").write_text('{"name": "other"}')
    dataset = open_dataset("coco", tmp_path)
    assert areas(dataset) == [81, 81, 81]
    assert dataset.lists == (folder / "instances_train2017.json",)
    assert not dataset.losses and not dataset.account.has_losses


def test_keypoints_alone_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"annotations/person_keypoints_val2017.json": content()}, "val2017")
    assert areas(open_dataset("coco", tmp_path)) == [81, 81, 81]


@pytest.mark.parametrize(
    ("listed", "folder", "written"),
    [
        ("1.png", "JPEGImages", "1.png"),
        ("JPEGImages/1.png", ".", "JPEGImages/1.png"),
        ("images\\1.png", "images", "1.png"),
        ("./1.png", "images", "1.png"),
        ("/home/somebody/set/pictures/1.png", "pictures", "1.png"),
        ("C:\\set\\pictures\\1.png", "pictures", "1.png"),
        ("../../upload/1.png", "deep/er/still", "1.png"),
        ("1%20a.png", "images", "1 a.png"),
        ("1.PNG", "images", "1.png"),
        ("1.png", "somewhere/else", "1.png"),
    ],
)
def test_images_are_found_by_path_its_end_and_their_name(
    listed: str, folder: str, written: str, tmp_path: Path
) -> None:
    one = content(2)
    one["images"][0]["file_name"] = listed
    write(tmp_path, {"annotations/a.json": one}, folder, [written, "2.png"])
    item = next(i for i in spec_of("coco").layout.scan(tmp_path).items if i.name != "2")
    assert item.files[0] == tmp_path / folder / written
    assert item.read().instances.any()


def test_images_are_found_in_any_form_of_unicode(tmp_path: Path) -> None:
    one = content(4)
    for row, name in zip(one["images"], ("a/ä.png", "b/ä.png", "else/ö.png", "ü.png"), strict=True):
        row["file_name"] = unicodedata.normalize("NFC", name)
    files = ["a/ä.png", "b/ä.png", "moved/Ö.png"]
    files = ["ü.png", *(unicodedata.normalize("NFD", name) for name in [*files, "ü.png"])]
    write(tmp_path, {"a.json": one}, files=files)
    dataset = open_dataset("coco", tmp_path)
    found = {path.name for part in dataset.parts.values() for item in part for path in item.files}
    assert not dataset.losses and "ü.png" in found and files[-1] not in found


def test_a_path_beside_file_name_tells_equal_names_apart(tmp_path: Path) -> None:
    one = content(2)
    for row, folder in zip(one["images"], ("a", "b"), strict=True):
        row.update(file_name="x.png", path=f"/datasets/set/{folder}/x.png")
    write(tmp_path, {"list.json": one}, "store", ["a/x.png", "b/x.png"])
    dataset = open_dataset("coco", tmp_path)
    assert names(dataset) == ["store/a/x", "store/b/x"] and not dataset.losses


def test_a_name_that_several_files_bear_is_lost_by_name(tmp_path: Path) -> None:
    one = content(3)
    write(tmp_path, {"annotations/a.json": one}, "images", ["2.png", "3.png"])
    for folder in ("p", "q"):
        save(tmp_path / folder / "1.png", picture(1))
    dataset = open_dataset("coco", tmp_path)
    assert names(dataset) == ["2", "3"]
    assert "image 1.png: got 2 files of this name" in dataset.losses[0]


def test_one_file_does_not_serve_for_two_rows_of_other_folders(tmp_path: Path) -> None:
    one = content(3)
    one["images"][0]["file_name"] = "a/1.png"
    one["images"][1]["file_name"] = "b/1.png"
    write(tmp_path, {"annotations/a.json": one}, "images", ["a/1.png", "3.png"])
    dataset = open_dataset("coco", tmp_path)
    assert names(dataset) == ["3", "a/1"]
    assert len(dataset.losses) == 1 and "image b/1.png" in dataset.losses[0]


def test_lists_in_the_folders_of_their_images_are_found(tmp_path: Path) -> None:
    for folder in ("train", "valid", "test"):
        write(tmp_path, {f"{folder}/_annotations.coco.json": content()}, folder)
    dataset = open_dataset("coco", tmp_path)
    assert len(dataset.parts["test"]) == 6 and len(dataset.parts["train"]) == 2
    parts = ("test", "train", "valid")
    assert names(dataset) == [f"{part}/{k}" for part in parts for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "apart"),
    [("instances_val2017", True), ("x-test", True), ("testing", True), ("validation_1", True),
     ("latest", False), ("interval", False), ("contest2", False)],
)  # fmt: skip
def test_words_in_a_lists_name_set_it_apart(name: str, apart: bool, tmp_path: Path) -> None:
    lists = {"annotations/batch1.json": content(8), f"annotations/{name}.json": content(3, 50)}
    write(tmp_path, lists)
    tested = {item.name for item in open_dataset("coco", tmp_path).parts["test"]}
    assert (tested == {"50", "51", "52"}) is apart


def orphan(one: Content) -> None:
    one["annotations"].append({**one["annotations"][0], "id": 9, "image_id": 77})


def unknown(one: Content) -> None:
    one["annotations"][0]["category_id"] = [5]


def nameless(one: Content) -> None:
    one["images"][1]["file_name"] = ""


def no_object(one: Content) -> None:
    one["annotations"][2] = "text"


def huge(one: Content) -> None:
    one["annotations"][0]["segmentation"] = [[1, 1, 1e12, 1, 5, 5]]


ROWS: dict[str, tuple[Callable[[Content], None], str, tuple[int, int], int]] = {
    "orphan": (orphan, "annotation 9: got image_id 77", (3, 4), 3),
    "unknown class": (unknown, r"annotation 1 of 1.png: got unknown class [5]", (2, 3), 3),
    "no name": (nameless, "an image: got id 2 and file_name ''", (2, 3), 2),
    "no object": (no_object, "row 2 of annotations: got 'text'", (2, 3), 3),
    "far outside": (huge, "annotation 1 of 1.png: got a polygon far outside", (2, 3), 3),
}
"""What spoils a row, the line expected, annotations read and found, and images read."""


@pytest.mark.parametrize("kind", ROWS)
def test_a_bad_row_is_named_and_the_rest_is_read(kind: str, tmp_path: Path) -> None:
    spoil, line, (read, found), images = ROWS[kind]
    one = content()
    spoil(one)
    write(tmp_path, {"annotations/a.json": one}, files=["1.png", "2.png", "3.png"])
    dataset = open_dataset("coco", tmp_path)
    account = dataset.samples("train").account
    assert account is not None
    assert line in dataset.losses[0] and str(tmp_path / "annotations/a.json") in dataset.losses[0]
    assert (account.read["annotations"], account.found("annotations")) == (read, found)
    assert (account.read["images"], account.found("images")) == (images, 3)
    assert sum(area > 0 for area in areas(dataset)) == read


def test_a_missing_image_is_named_and_its_annotations_are_counted(tmp_path: Path) -> None:
    write(tmp_path, {"annotations/instances_default.json": content()}, files=["2.png", "3.png"])
    dataset = open_dataset("coco", tmp_path)
    assert names(dataset) == ["2", "3"]
    assert "instances_default.json: image 1.png: got no such file" in dataset.losses[0]
    assert dataset.account.left_out("images") == {"without a file": 1}
    assert dataset.account.left_out("annotations") == {"of images left out": 1}


@pytest.mark.parametrize("key", ["images", "categories"])
def test_equal_ids_are_refused(key: str, tmp_path: Path) -> None:
    one = content(4)
    one["categories"].append({"id": 2, "name": "dog"})
    one[key][1]["id"] = 1
    write(tmp_path, {"annotations/a.json": one})
    with pytest.raises(DataError, match=f"a.json: {key}: got id 1 for '"):
        open_dataset("coco", tmp_path)


def test_a_file_listed_again_keeps_the_annotations_of_both_rows(tmp_path: Path) -> None:
    one = content()
    one["images"].append({**one["images"][0], "id": 9})
    other = {"id": 8, "image_id": 9, "category_id": 1, "segmentation": polygon(15, 15, 5, 5)}
    same = {**one["annotations"][0], "id": 7, "image_id": 9}
    one["annotations"] += [other, same]
    write(tmp_path, {"annotations/a.json": one})
    dataset = open_dataset("coco", tmp_path)
    assert areas(dataset) == [81 + 25, 81, 81]
    assert dataset.account.left_out("images") == {"listed again": 1}
    assert dataset.account.left_out("annotations") == {"equal to another": 1}


def test_objects_by_id_and_ids_as_text_are_read(tmp_path: Path) -> None:
    one = content()
    one["annotations"] = {str(row.pop("id")): row for row in one["annotations"]}
    one["images"][0]["id"] = "1"
    one["annotations"]["2"]["category_id"] = "1"
    one["annotations"]["3"]["image_id"] = 3.0
    write(tmp_path, {"annotations/a.json": one})
    assert areas(open_dataset("coco", tmp_path)) == [81, 81, 81]


@pytest.mark.parametrize("size", [{}, {"height": None, "width": None}, {"height": 0, "width": -4}])
def test_without_a_size_that_of_the_image_holds(size: dict[str, Any], tmp_path: Path) -> None:
    one = content()
    for row in one["images"]:
        del row["height"], row["width"]
        row.update(size)
    one["annotations"][1]["segmentation"] = run_lengths(box(2, 2, 3, 3))
    one["annotations"][2]["segmentation"] = [[1, 1, 1e12, 1, 5, 5]]
    write(tmp_path, {"annotations/a.json": one})
    assert areas(open_dataset("coco", tmp_path)) == [81, 9, 0]


@pytest.mark.parametrize(
    ("crowd", "taken"), [(1, 0), ("1", 0), (True, 0), (0, 3), ("0", 3), (None, 3)]
)
def test_crowds_are_counted_and_read_on_request(crowd: Any, taken: int, tmp_path: Path) -> None:
    one = content()
    for row in one["annotations"]:
        row.update(iscrowd=crowd, segmentation=run_lengths(box(4, 4, 9, 9)))
    write(tmp_path, {"annotations/a.json": one})
    dataset = open_dataset("coco", tmp_path)
    assert sum(item.outlines for part in dataset.parts.values() for item in part) == taken
    assert dataset.account.left_out("annotations")["crowds"] == 3 - taken
    assert areas(open_dataset("coco", tmp_path, crowds=True)) == [81, 81, 81]


def test_crowds_of_other_formats_are_refused(tmp_path: Path) -> None:
    MINIATURES["folders"](tmp_path)
    with pytest.raises(ConfigError, match="crowds: got true for folders"):
        open_dataset("folders", tmp_path, crowds=True)


def test_a_placeholder_class_takes_no_place_in_the_split(tmp_path: Path) -> None:
    one = content(6)
    one["categories"].insert(0, {"id": 0, "name": "_background_", "supercategory": "none"})
    write(tmp_path, {"_annotations.coco.json": one}, ".")
    dataset = open_dataset("coco", tmp_path)
    assert dataset.classes == ("cell",) and dataset.base == {"cell"} and not dataset.target
    assert dataset.unused == ("_background_",)


def test_a_damaged_list_beside_a_sound_one_is_lost_by_name(tmp_path: Path) -> None:
    write(tmp_path, {"annotations/a.json": content()})
    bad = tmp_path / "annotations/b.json"
    for raw in (b"{", b"[" * 100_000, b'{"images": "\xe9"}'):
        bad.write_bytes(raw)
        dataset = open_dataset("coco", tmp_path)
        assert areas(dataset) == [81, 81, 81]
        assert str(bad) in dataset.losses[0] and "no COCO JSON" in dataset.losses[0]
        assert dataset.account.left_out("files") == {"unusable lists": 1}


def test_names_that_are_no_text_of_utf_8_are_read(tmp_path: Path) -> None:
    one = content()
    one["images"][0]["file_name"] = "\ud800.png"
    one["images"][1]["file_name"] = "a\0b.png"
    one["categories"][0]["name"] = "z\ud800"
    write(tmp_path, {"annotations/a.json": one}, files=["3.png", "4.png"])
    one["images"].append({"id": 4, "file_name": "4.png", "height": SIZE[0], "width": SIZE[1]})
    (tmp_path / "annotations/a.json").write_text(json.dumps(one))
    dataset = open_dataset("coco", tmp_path)
    assert names(dataset) == ["3", "4"] and len(dataset.losses) == 2
    assert dataset.samples("train").digest()


def test_small_entities_cover_large_ones(tmp_path: Path) -> None:
    one = content()
    row = {"image_id": 1, "category_id": 1}
    shapes = {2: polygon(6, 6, 3, 3), 1: polygon(4, 4, 9, 9)}
    one["annotations"] = [{"id": i, **row, "segmentation": shapes[i]} for i in shapes]
    write(tmp_path, {"annotations/a.json": one})
    item = next(i for i in spec_of("coco").layout.scan(tmp_path).items if i.name == "1")
    assert np.bincount(item.read().instances.ravel())[1:].tolist() == [72, 9]
