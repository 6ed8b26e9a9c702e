from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.coco_factory import content as coco_content
from tests.support.coco_factory import write as write_coco
from tests.support.dataset_factory import (
    MINIATURES,
    SIZE,
    bbbc038,
    box,
    car,
    celebamask,
    folders,
    mricron,
    nifti,
    picture,
    save,
    trashcan,
)
from training.data.check_dataset import main
from training.data.pictures import contact_sheet, shown_entities
from training.data.sample import Sample


@pytest.fixture(autouse=True)
def one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contact sheet of one row, as every check draws one."""
    monkeypatch.setattr("training.data.check_dataset.PICTURES", 3)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_sound_dataset_passes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    MINIATURES[name](root)
    assert main(["check", name, str(root), "--out", str(tmp_path), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"images +\d+: \d+ train, \d+ validation, \d+ test", out)
    assert re.search(r"speed +[\d.]+ images/s, workers: 1\n", out)
    assert "problems   0, in 0 of" in out
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 400 and np.asarray(sheet).std() > 10


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def annotation(root: Path, **changes: object) -> None:
    path = root / "instance_version/instances_train_trashcan.json"
    content = json.loads(path.read_text())
    content["annotations"][0].update(changes)
    path.write_text(json.dumps(content))


CELEB = "CelebAMask-HQ-mask-anno/0/"
BROKEN: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], object], str]] = {
    "image cut short": (
        "folders", folders, lambda r: truncate(r / "images/3.png"),
        r"images/3\.png: got an unreadable file",
    ),
    "mask is text": (
        "folders", folders, lambda r: (r / "masks/3.png").write_text("text"),
        r"masks/3\.png: got 4 bytes that cannot be decoded",
    ),
    "mask of another size": (
        "folders", folders, lambda r: save(r / "masks/3.png", box(0, 0, 4, 4, (9, 9))),
        r"masks/3\.png: got size \(9, 9\), expected \(24, 32\)",
    ),
    "empty mask": (
        "folders", folders, lambda r: save(r / "masks/3.png", np.zeros(SIZE, np.uint8)),
        r"masks/3\.png: got an empty mask",
    ),
    "image without mask": (
        "folders", folders, lambda r: (r / "masks/3.png").unlink(), r"images/3\.png: got no mask",
    ),
    "mask without image": (
        "folders", folders, lambda r: (r / "images/3.png").unlink(),
        r"masks/3\.png: got no image, expected an image that goes with it",
    ),
    "coloured index mask": (
        "intelecai-car", car, lambda r: save(r / "masks/003.png", picture(1)),
        r"masks/003\.png: got a coloured mask",
    ),
    "unknown index": (
        "intelecai-car", car, lambda r: save(r / "masks/003.png", np.full(SIZE, 9, np.uint8)),
        r"masks/003\.png: got unknown class 9, expected 0 to 4 \(car, wheel",
    ),
    "unknown class file": (
        "celebamask-hq", celebamask, lambda r: save(r / CELEB / "00003_beard.png", box(1, 1, 3, 3)),
        r"00003_beard\.png: got unknown class 'beard'",
    ),
    "class file without image": (
        "celebamask-hq", celebamask, lambda r: save(r / CELEB / "00099_nose.png", box(1, 1, 3, 3)),
        r"00099_nose\.png: got no image",
    ),
    "class file of another size": (
        "celebamask-hq", celebamask,
        lambda r: save(r / CELEB / "00003_hat.png", box(1, 1, 3, 3, (20, 20))),
        r"00003_hat\.png: got size \(20, 20\)",
    ),
    "empty entity": (
        "bbbc038v1", bbbc038,
        lambda r: save(r / "stage1_train/id03/masks/m9.png", np.zeros(SIZE, np.uint8)),
        r"id03/masks/m9\.png: got an empty mask",
    ),
    "image of another size than listed": (
        "trashcan", trashcan,
        lambda r: save(r / "instance_version/train/vid_000000_frame1.jpg", picture(0, (9, 9))),
        r"vid_000000_frame1\.jpg: got size \(9, 9\)",
    ),
    "unknown category": (
        "trashcan", trashcan, lambda r: annotation(r, category_id=77),
        r"annotation 1 of vid_000000_frame1\.jpg: got unknown class 77",
    ),
    "run lengths of another size": (
        "trashcan", trashcan,
        lambda r: annotation(r, segmentation={"size": [9, 9], "counts": [81]}),
        r"annotation 1 .*got a mask of size \[9, 9\]",
    ),
    "run lengths that end early": (
        "trashcan", trashcan,
        lambda r: annotation(r, segmentation={"size": list(SIZE), "counts": [5]}),
        r"annotation 1 .*run lengths that do not fill",
    ),
    "polygon of two points": (
        "trashcan", trashcan, lambda r: annotation(r, segmentation=[[1, 1, 5, 5]]),
        r"annotation 1 .*less than three points",
    ),
    "empty annotation": (
        "trashcan", trashcan, lambda r: annotation(r, segmentation=[]),
        r"annotation 1 .*got an empty mask",
    ),
    "unknown region": (
        "mricron", mricron,
        lambda r: nifti(r / "templates/aal.nii.gz", np.full((20, 30, 100), 8, np.uint8)),
        r"aal\.nii\.gz slice 0: got unknown class 8",
    ),
}  # fmt: skip
"""Dataset, what writes it, what breaks it and the line expected."""

STOPPING = {
    "image cut short",
    "mask is text",
    "mask of another size",
    "coloured index mask",
    "unknown index",
    "class file of another size",
    "image of another size than listed",
    "unknown region",
}
"""What training stops at; it goes on without the others."""


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_in_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write, spoil, message = BROKEN[kind]
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    spoil(root)
    code = main(["check", name, str(root), "--out", str(tmp_path), "--workers", "1"])
    captured = capsys.readouterr()
    lines = [
        line
        for line in re.split(r"[\r\n]+", captured.err)
        if line.strip().startswith("python -m training.data: ")
    ]
    assert code == (2 if kind in STOPPING else 4)
    assert lines and re.search(message, lines[0]), captured.err
    assert all("; " in line and ", expected " in line for line in lines), "each tells the fix"
    assert "Traceback" not in captured.err
    assert re.search(rf"problems   {len(lines)}, in \d", captured.out)


def test_pictures_colour_entities_by_class() -> None:
    instances = np.zeros((40, 60), np.int32)
    instances[5:15, 5:15], instances[5:15, 30:40], instances[25:35, 5:15] = 1, 2, 3
    sample = Sample("s", np.full((40, 60, 3), 90, np.uint8), instances, ("a", "b", "a"))
    shown = shown_entities(sample, ("a", "b"))
    assert (shown[10, 10] == shown[30, 10]).all() and (shown[10, 10] != shown[10, 35]).any()
    assert (shown[20, 50] == 90).all()
    assert (
        contact_sheet([sample] * 4, ("a", "b")).height
        == 2 * contact_sheet([sample], ("a", "b")).height
    )


def checked(
    name: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, Any]:
    """Exit status and JSON of a check."""
    arguments = ["check", name, str(root), "--out", str(out), "--workers", "1", "--json", *options]
    code = main(arguments)
    return code, json.loads(capsys.readouterr().out)


def test_the_account_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    one = coco_content(6)
    one["annotations"][0]["iscrowd"] = 1
    one["annotations"][1]["segmentation"] = [[1, 1, 5, 5]]
    one["annotations"].append({**one["annotations"][2], "id": 90})
    one["annotations"].append({**one["annotations"][2], "id": 91, "image_id": 77})
    write_coco(root, {"annotations/a.json": one}, files=[f"{k}.png" for k in (1, 2, 3, 4, 5)])
    (root / "annotations/b.json").write_text("{")
    (root / "images/9.heic").write_bytes(b"x")
    (root / "images/._1.png").write_bytes(b"x")
    (root / "README.txt").write_text("x")
    save(root / "other/free.png", picture(1))
    pages = [Image.fromarray(picture(k)) for k in (1, 2, 3)]
    pages[0].save(root / "images/5.png", "TIFF", save_all=True, append_images=pages[1:])
    code, report = checked("coco", root, tmp_path / "out", capsys, "--page", "0")
    assert (code, report["status"], report["result"]) == (4, 4, "usable with losses")
    account = report["account"]
    assert account["images"] == {"found": 6, "read": 5, "left_out": {"without a file": 1}}
    assert account["pages"] == {"found": 7, "read": 5, "left_out": {"not chosen": 2}}
    assert account["annotations"] == {
        "found": 8,
        "read": 4,
        "left_out": {
            "crowds": 1, "damaged polygons": 1, "of no listed image": 1, "of images left out": 1,
        },
    }  # fmt: skip
    assert account["entities"] == {"found": 4, "read": 3, "left_out": {"covered by others": 1}}
    assert account["files"]["found"] == sum(path.is_file() for path in root.rglob("*"))
    assert account["files"]["read"] == 6
    assert account["files"]["left_out"] == {
        "of a suffix that is not read (.heic)": 1,
        "hidden or the system's own": 1,
        "images that no list or mask goes with": 1,
        "of another kind (.txt)": 1,
        "unusable lists": 1,
    }
    text = main(
        ["check", "coco", str(root), "--out", str(tmp_path), "--workers", "1", "--page", "0"]
    )
    out = capsys.readouterr().out
    assert text == 4 and "usable with losses, exit status 4" in out
    assert "  images 5 of 6 (1 without a file)\n" in out


@pytest.mark.parametrize("name", ["folders", "coco"])
def test_images_beyond_the_limit_are_counted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "folders":
        folders(tmp_path / "data", 12)
    else:
        write_coco(tmp_path / "data", {"annotations/a.json": coco_content(12)})
    code, report = checked(name, tmp_path / "data", tmp_path, capsys, "--limit", "5")
    assert code == 0
    for unit in ("images", "annotations"):
        assert report["account"][unit] == {
            "found": 12, "read": 5, "left_out": {"beyond --limit": 7},
        }  # fmt: skip


def test_crowds_alone_are_no_entities_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = coco_content()
    for row in one["annotations"]:
        row["iscrowd"] = 1
    write_coco(tmp_path / "data", {"annotations/a.json": one})
    code, report = checked("coco", tmp_path / "data", tmp_path, capsys)
    assert code == 2 and report["account"]["annotations"]["left_out"] == {"crowds": 3}
    code, report = checked("coco", tmp_path / "data", tmp_path, capsys, "--crowds")
    assert code == 0 and report["account"]["annotations"]["read"] == 3


def test_pages_are_counted_and_have_to_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    write_coco(root, {"a.json": coco_content(2)}, files=["1.png", "2.png"])
    pages = [Image.fromarray(picture(k)) for k in (1, 2, 3)]
    pages[0].save(root / "images/2.png", "TIFF", save_all=True, append_images=pages[1:])
    code, report = checked("coco", root, tmp_path / "out", capsys)
    lost = {"of files of several, none chosen": 2}
    assert (code, report["account"]["pages"]["left_out"]) == (2, lost)
    code, report = checked("coco", root, tmp_path / "out", capsys, "--page", "0")
    assert report["account"]["pages"] == {"found": 4, "read": 2, "left_out": {"not chosen": 2}}
    assert report["account"]["images"]["read"] == 2
