"""Expansion of files, folders and globs, with unique output names."""

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


def test_find_images_in_a_folder_skips_hidden_files_and_outputs(folder: Path) -> None:
    expected = ["a.jpg", "a.png", "b", "deep/c", "deep/er/c"]
    assert names(folder) == expected
    assert names(folder, folder / "b.TIFF") == expected
    images = find_images([str(folder)])
    assert [image.file_name for image in images][2:4] == ["b.TIFF", "deep/c.png"]
    assert all(image.path.is_file() for image in images)


def test_find_images_expands_globs(folder: Path) -> None:
    assert names(folder / "*.png") == ["a"]
    assert names(folder / "deep/**/*.*") == ["c", "er/c"]
    assert names(folder / "**/c.*") == ["deep/c", "deep/er/c"]


def test_find_images_names_files_relative_to_their_common_folder(folder: Path) -> None:
    assert names(folder / "a.png") == ["a"]
    assert names(folder / "notes.txt") == ["notes"]
    assert names(folder / "deep/c.png", folder / "deep/er/c.webp") == ["c", "er/c"]


def test_find_images_takes_a_file_whose_name_looks_like_a_glob(folder: Path) -> None:
    (folder / "a[1].png").touch()
    assert names(folder / "a[1].png") == ["a[1]"]


def test_find_images_keeps_images_that_only_look_like_outputs(folder: Path) -> None:
    for name in ("deep/overlay.png", "masks/001.png", "a/plain.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert {"deep/overlay", "masks/001", "a/plain"} <= set(names(folder))
    assert names(folder / "a/overlay.png") == ["overlay"]


def test_find_images_returns_paths_relative_to_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert [str(image.path) for image in find_images(["deep"])] == [
        "deep/c.png",
        "deep/er/c.webp",
    ]


@pytest.mark.parametrize(
    ("source", "got"),
    [("none.png", "No such file"), ("*.bmp", "no image"), ("empty", "no image")],
)
def test_find_images_without_an_image_names_the_source(source: str, got: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"got {got}"):
        find_images([str(folder / source)])
