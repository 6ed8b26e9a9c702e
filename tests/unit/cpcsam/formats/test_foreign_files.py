"""Annotations as other programs name and store them, and files that no program should write."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cpcsam.errors import ContractError, DataError
from cpcsam.formats import format_of
from cpcsam.formats.brush_runs import decode_brush
from cpcsam.formats.coco import masks_of
from cpcsam.formats.label_studio import read
from cpcsam.formats.writing import write_format
from cpcsam.formats.yolo_names import class_names
from tests.support.format_records import image_record


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("train/images/a", "images/train/labels/a.txt"),
        ("images/a", "images/labels/a.txt"),
        ("labels/a", "labels/labels/a.txt"),
        ("train/a", "labels/train/a.txt"),
    ],
)
def test_yolo_labels_lie_where_ultralytics_looks_for_them(
    name: str, labels: str, tmp_path: Path
) -> None:
    image = replace(image_record(tmp_path), name=name, file_name=f"{name}.png")
    write_format([image], "yolo-seg", tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*.txt")
    assert file.relative_to(tmp_path / "out").as_posix() == labels
    (listed,) = format_of("yolo-seg").read(tmp_path / "out")
    assert listed.file_name == f"images/{name}.png"


def test_yolo_names_beyond_16_bits_are_read_again(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    names = ["\U0001f9ec", "zell\xe9 \x85 \x7f", 'a "quoted\\" name']
    image = image_record(tmp_path)
    masks = [replace(image.masks[0], label=name) for name in names]
    write_format([replace(image, masks=masks)], "yolo-seg", tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert content["names"] == dict(enumerate(names))


def test_yolo_classes_are_numbered_by_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cell\n\nnucleus\n")
    assert class_names(tmp_path, tmp_path) == {0: "cell", 2: "nucleus"}


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [3]},
        {"size": [4, 4], "counts": [3, 40]},
        {"size": [4, 4], "counts": ["3"]},
        {"size": [4, 4], "counts": 5},
        {"size": [4, 4], "counts": [0.5, 15.5]},
        {"size": [4, 4], "counts": [2**32, 16 - 2**32]},
        {"size": [4, 4], "counts": [float("inf")]},
        {"size": [4, 4], "counts": ""},
        [[]],
        [["a"]],
        [[1]],
        [[1, 1, 3, 3]],
        {"size": [[], 4], "counts": "a"},
        [[None] * 6],
        [[0, 0, 0, 1e12, 3, 3]],
        [[0, 0, 0, 10**400, 3, 3]],
        [],
        None,
    ],
)
def test_coco_annotation_that_is_no_mask_is_told(segmentation: Any) -> None:
    with pytest.raises(DataError, match="annotation 7 that is no mask"):
        masks_of(Path("x.json"), [{"id": 7, "segmentation": segmentation}], ["cell"], (4, 4))


@pytest.mark.parametrize(
    "members",
    [
        {"annotations": ["x"]},
        {"annotations": [{"result": [{"type": "brushlabels", "value": "x"}]}]},
        {"annotations": 5, "predictions": [None]},
    ],
)
def test_label_studio_tasks_of_another_form_have_no_masks(
    members: dict[str, Any], tmp_path: Path
) -> None:
    tasks = [{"data": {"image": "/data/upload/1/a.png"}, **members}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    (listed,) = read(tmp_path)
    assert listed.classes == ()


@pytest.mark.parametrize("data", [[300], [-1], ["a"], [None], [], 5])
def test_brush_that_is_no_bytes_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_brush(data, (4, 4))


@pytest.mark.parametrize("size", ["x", [1], [1, "x"], [None, 2], {"x": 1}])
def test_geojson_of_a_size_that_is_none_is_told(size: Any, tmp_path: Path) -> None:
    collection = {"type": "FeatureCollection", "image": {"size": size}, "features": []}
    (tmp_path / "a.geojson").write_text(json.dumps(collection))
    with pytest.raises(DataError, match="got the size"):
        list(format_of("geojson").read(tmp_path))


def test_geojson_scores_and_names_of_another_kind_are_none(tmp_path: Path) -> None:
    square = {"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]}
    feature = {"geometry": square, "properties": {"measurements": {"score": "high"}}}
    collection = {"image": {"file_name": 3}, "features": [feature]}
    (tmp_path / "a.geojson").write_text(json.dumps(collection))
    (listed,) = format_of("geojson").read(tmp_path)
    (mask,) = listed.decode((4, 4))
    assert (listed.file_name, mask.score, mask.crop.sum()) == ("a", None, 4)


@pytest.mark.parametrize(
    ("classification", "label"),
    [
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"),
        ({"name": "Tumor: Positive"}, "Tumor: Positive"),
        ("Stroma", "Stroma"),
        ({"names": [3, ""]}, "entity"),
        (None, "entity"),
    ],
)
def test_geojson_classes_are_those_that_qupath_shows(
    classification: Any, label: str, tmp_path: Path
) -> None:
    square = {"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]}
    feature = {"geometry": square, "properties": {"classification": classification}}
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    (listed,) = format_of("geojson").read(tmp_path)
    assert listed.classes == (label,)


@pytest.mark.parametrize("name", ["a\x01b", "z\udce9", "\uffff"])
def test_cvat_refuses_names_that_xml_cannot_hold(name: str, tmp_path: Path) -> None:
    image = image_record(tmp_path)
    labelled = replace(image, masks=[replace(image.masks[0], label=name)])
    for wrong in (replace(image, file_name=name), labelled):
        with pytest.raises(ContractError, match="rename the image"):
            write_format([wrong], "cvat", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cvat_run_length_beyond_64_bits_is_told(tmp_path: Path) -> None:
    write_format([image_record(tmp_path)], "cvat", tmp_path / "out")
    file = tmp_path / "out/annotations.xml"
    file.write_text(file.read_text().replace('rle="', f'rle="{10**20}, ', 1))
    (listed,) = format_of("cvat").read(tmp_path / "out")
    with pytest.raises(DataError, match="a damaged mask"):
        list(listed.decode((40, 60)))


@pytest.mark.parametrize("name", ["zell\xe9 & \U0001f9ec.png", "z\udce9.png"])
def test_label_studio_names_images_of_any_name(name: str, tmp_path: Path) -> None:
    write_format(
        [replace(image_record(tmp_path), file_name=name)], "label-studio", tmp_path / "out"
    )
    (listed,) = read(tmp_path / "out")
    (task,) = json.loads((tmp_path / "out/tasks.json").read_text())
    assert listed.file_name == name
    query = urlsplit(task["data"]["image"]).query
    assert parse_qs(query, errors="surrogateescape")["d"] == [name]


@pytest.mark.parametrize("name", ["coco", "label-studio"])
def test_size_that_is_infinite_is_told(name: str, tmp_path: Path) -> None:
    write_format([image_record(tmp_path)], name, tmp_path / "out")
    for file in (tmp_path / "out").glob("*s.json" if name == "label-studio" else "coco.json"):
        file.write_text(file.read_text().replace('height": 40', 'height": 1e400'))
    with pytest.raises(DataError):
        list(format_of(name).read(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "file"), [("coco", "coco.json"), ("geojson", "a.geojson"), ("label-studio", "a.json")]
)
def test_json_of_endless_depth_is_told(name: str, file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("[" * 100_000)
    with pytest.raises(DataError):
        list(format_of(name).read(tmp_path))


@pytest.mark.parametrize("score", ["NaN", "-Infinity", "1e400", f"1{'0' * 400}"])
def test_score_that_json_cannot_hold_is_none(score: str, tmp_path: Path) -> None:
    write_format([image_record(tmp_path)], "coco", tmp_path / "out")
    file = tmp_path / "out/coco.json"
    file.write_text(file.read_text().replace('"score": 0.9', f'"score": {score}'))
    (listed,) = format_of("coco").read(tmp_path / "out")
    first, second, *_ = listed.decode((40, 60))
    assert first.score is None and second.score == 0.8


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels/a.txt", b"0 0 0 1 0 1 1 \xff"),
        ("labels/a.txt", b"9" * 5000 + b" 0 0 1 0 1 1"),
        ("classes.txt", b"z\xe9ll"),
        ("data.yaml", b"names: {.inf: cell}"),
        ("data.yaml", b"made: 2026-13-45\nnames: [cell]"),
        ("data.yaml", b"names: " + b"[" * 3000),
    ],
)
def test_yolo_file_that_cannot_be_read_is_told(file: str, content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_bytes(b"0 0 0 1 0 1 1")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=file):
        list(format_of("yolo-seg").read(tmp_path))


def test_cvat_mask_beyond_the_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    mask = '<mask label="c" rle="0,40000000" left="0" top="0" width="10000" height="4000"/>'
    image = f'<image name="a" height="4" width="4">{mask}</image>'
    (tmp_path / "a.xml").write_text(f"<annotations>{image}</annotations>")
    (listed,) = format_of("cvat").read(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="beyond the image"):
            list(listed.decode((4, 4)))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_cvat_tracks_are_not_left_out_silently(tmp_path: Path) -> None:
    write_format([image_record(tmp_path)], "cvat", tmp_path / "out")
    (tmp_path / "out/video.xml").write_text('<annotations><track id="0" label="c"/></annotations>')
    with pytest.raises(DataError, match=r"video\.xml: got tracks"):
        list(format_of("cvat").read(tmp_path / "out"))


def test_label_studio_refuses_classes_that_xml_cannot_hold(tmp_path: Path) -> None:
    image = image_record(tmp_path)
    labelled = replace(image, masks=[replace(image.masks[0], label="a\x01b")])
    with pytest.raises(ContractError, match="rename the image or the class"):
        write_format([labelled], "label-studio", tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/1/zell%C3%A9.png", "data/upload/1/zell\xe9.png"),
        ("https://host/a%20b.png", "a b.png"),
        ("s3://bucket/a%20b.png", "a%20b.png"),
        ("/data/local-files/?d=z%E9.png", "z\udce9.png"),
    ],
)
def test_label_studio_images_have_the_names_of_their_files(
    address: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": {"image": address}}]))
    (listed,) = read(tmp_path)
    assert listed.file_name == name


def test_label_studio_address_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": {"image": "http://[x/a.png"}}]))
    with pytest.raises(DataError, match="task 0 without an image"):
        list(read(tmp_path))


@pytest.mark.parametrize("damage", ["chunk", "size"])
def test_ome_zarr_whose_label_images_are_damaged_is_told(damage: str, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    write_format([image_record(tmp_path)], "ome-zarr", tmp_path / "out")
    labels = tmp_path / "out/deep/a.zarr/labels"
    if damage == "chunk":
        (labels / "masks/0/0/0").write_bytes(b"no chunk")
    else:
        file = labels / "masks-2/0/.zarray"
        file.write_text(json.dumps({**json.loads(file.read_text()), "shape": [90, 80]}))
    with pytest.raises(DataError, match="write it again"):
        list(format_of("ome-zarr").read(tmp_path / "out"))


def test_yolo_files_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\ndog\n", "utf-8-sig")
    (tmp_path / "labels/a.txt").write_text("0 0 0 0.5 0 0.5 0.5\n", "utf-8-sig")
    (listed,) = format_of("yolo-seg").read(tmp_path)
    assert listed.classes == ("cat",)
