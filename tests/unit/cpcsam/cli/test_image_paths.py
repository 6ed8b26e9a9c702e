"""Expansion of files, folders and globs, with unique output names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.cli.formats import check_formats
from cpcsam.cli.image_paths import find_images
from cpcsam.cli.main import _parser
from cpcsam.cli.segment_request import segment_request_of
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


def test_find_images_names_differ_where_one_file_is_called_as_the_stem_of_another(
    tmp_path: Path,
) -> None:
    for name in ("x.png", "x.tif", "x.png.tif", "y.png", "y.png.tif"):
        (tmp_path / name).touch()
    assert names(tmp_path) == ["x.png", "x.png.tif", "x.tif", "y", "y.png.tif"]


@pytest.mark.parametrize("name", ["index.png", "index/a.png"])
def test_check_formats_refuses_the_folder_of_an_image(tmp_path: Path, name: str) -> None:
    file = tmp_path / "in" / name
    file.parent.mkdir(parents=True)
    file.touch()
    images = find_images([str(tmp_path / "in")])
    check_formats(["png", "coco"], images, tmp_path / "out")
    with pytest.raises(ConfigError, match="rename the image"):
        check_formats(["png", "index"], images, tmp_path / "out")


@pytest.mark.parametrize("options", [("--tile-size", "0"), ("--min-stability", "0")])
def test_an_option_of_another_mode_is_refused_at_0_as_well(options: tuple[str, str]) -> None:
    args = _parser().parse_args(["segment", "a.png", "--class", "cell", *options])
    with pytest.raises(ConfigError, match=options[0]):
        segment_request_of(args)
