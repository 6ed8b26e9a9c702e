from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
from training.data.datasets.pictures import contact_sheet, shown_entities
from training.data.sample import Sample


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
        r"masks/3\.png: got an unreadable file",
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
        r"images/3\.png: got no such file",
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
        r"00099\.jpg: got no such file",
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
    assert code == 2
    assert lines and re.search(message, lines[0]), captured.err
    assert all("; " in line and ", expected " in line for line in lines), "each tells the fix"
    assert "Traceback" not in captured.err
    assert re.search(rf"problems   {len(lines)}, in [1-9]", captured.out)


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
