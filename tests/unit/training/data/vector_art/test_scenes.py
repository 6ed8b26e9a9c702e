"""Scenes of drawings: what is on top, what is dropped, and that a seed decides them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cpcsam.errors import DataError
from tests.support.dataset_factory import drawings, svg
from training.data.datasets.protocol import open_dataset
from training.data.datasets.vector_scenes import SceneItem
from training.data.vector_art.drawings import HELD_OUT, open_collection
from training.data.vector_art.scenes import MIN_AREA, SceneConfig, compose

RED = '<circle cx="40" cy="40" r="35" fill="#f00"/>'


def test_compose_same_seed_gives_same_scene(tmp_path: Path) -> None:
    drawings(tmp_path)
    found = open_collection(tmp_path).of(None, ["animals", "food"])
    for parts in (False, True):
        config = SceneConfig(128, parts=parts)
        first, again, other = (compose(found, seed, config).sample for seed in (5, 5, 6))
        assert first.image.dtype == np.uint8 and first.image.shape == (128, 128, 3)
        assert np.array_equal(first.image, again.image)
        assert np.array_equal(first.instances, again.instances)
        assert first.class_names == again.class_names
        assert not np.array_equal(first.image, other.image)


def test_compose_entities_are_numbered_and_large_enough(tmp_path: Path) -> None:
    drawings(tmp_path)
    found = open_collection(tmp_path).of(None, ["animals", "food"])
    hidden = 0
    for seed in range(12):
        scene = compose(found, seed, SceneConfig(parts=seed % 2 == 1))
        areas = np.bincount(scene.sample.instances.ravel())
        assert len(areas) == len(scene.sample.class_names) + 1 > 1
        assert (areas[1:] >= MIN_AREA).all()
        assert set(scene.sample.class_names) <= {"animals", "food"}
        hidden += scene.hidden
    assert hidden


def test_compose_pixel_belongs_to_the_topmost_drawing(tmp_path: Path) -> None:
    for category, colour in (("animals", "#f00"), ("food", "#0f0")):
        path = tmp_path / category / "disc.svg"
        path.parent.mkdir()
        path.write_text(svg(f'<circle cx="40" cy="40" r="35" fill="{colour}"/>'))
    found = open_collection(tmp_path).of(None, ["animals", "food"])
    agreeing = []
    for seed in range(10):
        sample = compose(found, seed).sample
        for label, category in enumerate(sample.class_names, 1):
            red, green, _ = sample.image[sample.instances == label].astype(int).T
            agreeing.append(((red > green) == (category == "animals")).mean())
    # Blur and noise change pixels, never a mask.
    assert np.mean(agreeing) > 0.98 and min(agreeing) > 0.75


def test_compose_broken_drawing_is_counted_and_replaced(tmp_path: Path) -> None:
    drawings(tmp_path, "animals", 2)
    (tmp_path / "svg/animals/broken.svg").write_text("<svg")
    found = open_collection(tmp_path).of(None, ["animals"])
    scenes = [compose(found, seed) for seed in range(6)]
    skipped = [line for scene in scenes for line in scene.skipped]
    assert skipped and all("broken.svg: got an unreadable file" in line for line in skipped)
    assert not any(drawing.path.stem == "broken" for s in scenes for drawing in s.drawings)


def test_compose_nothing_usable_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals/broken.svg").write_text("<svg")
    with pytest.raises(DataError, match="broken.svg"):
        compose(open_collection(tmp_path).of(None, ["animals"]), 0)


def test_collection_parts_are_disjoint_by_digest_and_name(tmp_path: Path) -> None:
    drawings(tmp_path, count=40)
    (tmp_path / "svg/food/version").mkdir()
    for path in sorted((tmp_path / "svg/food").glob("*.svg")):
        version = path.parent / "version" / path.name
        version.write_text(path.read_text().replace("</svg>", "<desc>later</desc></svg>"))
    collection = open_collection(tmp_path)
    assert len(collection.drawings) == 200
    parts: dict[str, set[str]] = {}
    for drawing in collection.drawings:
        parts.setdefault(drawing.path.name, set()).add(drawing.part)
    assert all(len(found) == 1 for found in parts.values())
    assert len({drawing.digest for drawing in collection.drawings}) == 200
    assert {drawing.part for drawing in collection.drawings} == {"train", "validation", "test"}


def test_collection_leaves_out_and_counts(tmp_path: Path) -> None:
    drawings(tmp_path, count=3)
    folder = tmp_path / "svg/animals"
    (folder / "empty.svg").touch()
    (folder / "dangling.svg").symlink_to("nowhere.svg")
    (folder / "link.svg").symlink_to("animals-0.svg")
    (tmp_path / "svg/food/link.svg").symlink_to("../animals/animals-1.svg")
    (folder / "large.svg").write_text(svg(RED + " " * 400_000))
    collection = open_collection(tmp_path)
    assert collection.left_out == {
        "an empty file": 1,
        "a link to nothing": 1,
        "equal to another": 1,
        "in several categories": 2,
        "more than 400 kB": 1,
    }
    assert len(collection.drawings) == 11


def test_dataset_scenes_of_each_part_show_its_drawings(tmp_path: Path) -> None:
    drawings(tmp_path, "animals food people tools unsorted", 40)
    dataset = open_dataset("vector-art", tmp_path)
    assert set(dataset.classes) == {"animals", "food", "people", "tools"}
    assert dataset.base and dataset.target and not HELD_OUT & set(dataset.classes)
    for classes in (dataset.base, dataset.target):
        role = "base" if classes is dataset.base else "target"
        sample = dataset.samples("train", role)[0]
        assert set(sample.class_names) <= classes
    assert {s.role for s in dataset.parts["test"] if isinstance(s, SceneItem)} == {"all"}
    names = [set(dataset.samples(part).names) for part in ("train", "validation", "test")]
    assert all(names) and not names[0] & names[1] and not names[0] & names[2]
    assert len(dataset.shots(2, seed=0)) == 2


def test_the_real_drawings() -> None:
    found = Path(os.environ.get("OPENCLIPART", "/usr/share/openclipart"))
    if not found.is_dir():
        pytest.skip("openclipart-svg is not installed; on Debian: apt-get install openclipart-svg")
    collection = open_collection(found)
    assert len(collection.drawings) > 6000 and len(collection.categories) == 19
    digests = {
        part: {d.digest for d in collection.drawings if d.part == part}
        for part in ("train", "validation", "test")
    }
    assert sum(map(len, digests.values())) == len(collection.drawings)
    for name in ("vector-art", "vector-art-parts"):
        dataset = open_dataset(name, found)
        assert len(dataset.base) == 13 and len(dataset.target) == 6
        for index in (0, 1):
            sample = dataset.samples("train", "target")[index]
            assert sample.image.shape == (256, 256, 3)
            assert set(sample.class_names) <= dataset.target
