"""Names of outputs mirror the folders, and never meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.cli.image_paths import find_images
from cpcsam.errors import ConfigError

FILES = ("a.png", "a.jpg", "b.TIFF", "deep/c.png", "deep/er/c.webp", "notes.txt", ".hidden.png")

OUTPUTS = ("a/masks.json", "a/overlay.png", "a/masks/001.png", "deep/c/masks.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*FILES, *OUTPUTS, ".git/x.png"):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "in"


def names(*sources: str | Path) -> list[str]:
    return [image.name for image in find_images([str(source) for source in sources])]


def test_a_folder_is_searched_but_for_hidden_files_and_outputs(folder: Path) -> None:
    expected = ["a.jpg", "a.png", "b", "deep/c", "deep/er/c"]
    assert names(folder) == expected
    assert names(folder, folder / "b.TIFF") == expected
    images = find_images([str(folder)])
    assert [image.file_name for image in images][2:4] == ["b.TIFF", "deep/c.png"]
    assert all(image.path.is_file() for image in images)


def test_globs_are_expanded(folder: Path) -> None:
    assert names(folder / "*.png") == ["a"]
    assert names(folder / "deep/**/*.*") == ["c", "er/c"]
    assert names(folder / "**/c.*") == ["deep/c", "deep/er/c"]


def test_files_are_named_below_the_folder_that_holds_them_all(folder: Path) -> None:
    assert names(folder / "a.png") == ["a"]
    assert names(folder / "notes.txt") == ["notes"]
    assert names(folder / "deep/c.png", folder / "deep/er/c.webp") == ["c", "er/c"]


def test_a_file_may_look_like_a_glob(folder: Path) -> None:
    (folder / "a[1].png").touch()
    assert names(folder / "a[1].png") == ["a[1]"]


def test_pictures_that_only_look_like_outputs_are_taken(folder: Path) -> None:
    for name in ("deep/overlay.png", "masks/001.png", "a/plain.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert {"deep/overlay", "masks/001", "a/plain"} <= set(names(folder))
    assert names(folder / "a/overlay.png") == ["overlay"]


def test_paths_are_told_as_seen_from_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [str(image.path) for image in find_images(["deep"])] == [
        "deep/c.png",
        "deep/er/c.webp",
    ]


@pytest.mark.parametrize(
    ("source", "got"),
    [("none.png", "No such file"), ("*.bmp", "no image"), ("empty", "no image")],
)
def test_what_is_no_image_is_named(source: str, got: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"got {got}"):
        find_images([str(folder / source)])
