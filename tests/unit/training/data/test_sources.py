from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cpcsam.errors import ConfigError, DataError
from cpcsam.scale import Scale
from cpcsam.transforms import to_frame
from tests.support.coco_factory import content, write
from tests.support.training_factory import discs, write_pair
from training.data.augment import PADDING, AugmentConfig, random_window, whole_window
from training.data.sources import (
    DataConfig,
    SourceConfig,
    account_line,
    cut_region,
    read_source,
    validation_windows,
)


def test_read_source_with_region_crops_the_image(tmp_path: Path) -> None:
    image, instances = write_pair(tmp_path, discs())
    (sample,) = read_source(
        SourceConfig(image=image, instances=instances, region=(80, 0, 160, 100)), "data.train"
    )
    assert sample.name == "image[80,0,160,100]"
    assert sample.image.shape == (100, 80, 3)
    assert np.array_equal(sample.instances, discs().instances[:100, 80:])


def test_the_chosen_page_counts_for_image_and_labels(tmp_path: Path) -> None:
    pages = np.arange(1, 4, dtype=np.uint8)[:, None, None] * np.eye(4, dtype=np.uint8)
    for name in ("image", "labels"):
        tifffile.imwrite(tmp_path / f"{name}.tif", pages * 2, photometric="minisblack")
    source = SourceConfig(image=tmp_path / "image.tif", instances=tmp_path / "labels.tif", page=2)
    (sample,) = read_source(source, "data.train")
    assert sample.image.max() == sample.instances.max() == 6


@pytest.mark.parametrize(
    "region", [(0, 0, 161, 10), (-1, 0, 5, 5), (5, 0, 5, 5), (0, 9, 5, 3), (0, 0, 5, 161)]
)
def test_regions_outside_are_refused(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(DataError, match="region of discs-0"):
        cut_region(discs(), region)


@pytest.mark.parametrize(
    "source",
    [
        SourceConfig(),
        SourceConfig(image=Path("a")),
        SourceConfig(instances=Path("a")),
        SourceConfig(bbbc038=Path("a"), image=Path("b"), instances=Path("c")),
    ],
)
def test_source_config_with_several_forms_raises(source: SourceConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.train: got .*expected dataset and root, or bbbc038, or image"
    ):
        read_source(source, "data.train")


def test_validation_takes_its_files_from_train() -> None:
    train = SourceConfig(image=Path("a"), instances=Path("b"), region=(0, 0, 10, 10))
    validation = SourceConfig(region=(10, 0, 20, 10)).or_else(train)
    assert validation == SourceConfig(image=Path("a"), instances=Path("b"), region=(10, 0, 20, 10))
    for other in (SourceConfig(bbbc038=Path("c")), SourceConfig(root=Path("d"))):
        assert other.or_else(train) == other


def test_validation_takes_page_channels_and_classes_from_train_unless_it_names_its_own() -> None:
    train = SourceConfig(image=Path("a"), instances=Path("b"), page=0, channels=(2,), classes="all")
    own = SourceConfig(page=3, channels=(1,), classes="target").or_else(train)
    taken = SourceConfig().or_else(train)
    assert (taken.page, taken.channels, taken.classes) == (0, (2,), "all")
    assert (own.page, own.channels, own.classes) == (3, (1,), "target")


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (SourceConfig(bbbc038=Path("a")), SourceConfig()),
        (SourceConfig(bbbc038=Path("a"), ids=Path("x")), SourceConfig(ids=Path("x"))),
        (SourceConfig(bbbc038=Path("a"), ids=Path("x")), SourceConfig()),
        (SourceConfig(bbbc038=Path("a")), SourceConfig(ids=Path("x"))),
        (
            SourceConfig(bbbc038=Path("a"), region=(0, 0, 9, 9)),
            SourceConfig(region=(8, 8, 20, 20)),
        ),
        (SourceConfig(image=Path("a"), instances=Path("b")), SourceConfig(region=(0, 0, 9, 9))),
        (
            SourceConfig(image=Path("a"), instances=Path("b"), region=(0, 0, 9, 9)),
            SourceConfig(region=(8, 8, 20, 20)),
        ),
    ],
)
def test_validation_on_training_images_is_refused(
    train: SourceConfig, validation: SourceConfig
) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation: got images that are trained on"):
        DataConfig(train, validation)


def test_regions_that_touch_do_not_overlap() -> None:
    for files in ({"image": Path("a"), "instances": Path("b")}, {"bbbc038": Path("a")}):
        train = SourceConfig(**files, region=(0, 0, 9, 9))  # type: ignore[arg-type]
        DataConfig(train, SourceConfig(region=(9, 0, 20, 9)))
    DataConfig(SourceConfig(bbbc038=Path("a"), ids=Path("x")), SourceConfig(ids=Path("y")))


def test_lists_that_share_an_id_overlap(tmp_path: Path) -> None:
    for name, ids in (("train", "a\nb\n"), ("apart", "c\n"), ("mixed", "c\nb\n")):
        (tmp_path / name).write_text(ids)
    train = SourceConfig(bbbc038=tmp_path, ids=Path("train"))
    DataConfig(train, SourceConfig(ids=Path("apart")))
    with pytest.raises(ConfigError, match="got images that are trained on"):
        DataConfig(train, SourceConfig(ids=Path("mixed")))


def test_validation_windows_hold_entities_and_are_spread_evenly() -> None:
    sample = discs()
    cuts = validation_windows([sample], Scale(40, 1.0))
    assert len(cuts) < 16
    assert all(cut.instances.shape == (40, 40) and cut.instances.any() for cut in cuts)
    few = validation_windows([sample], Scale(40, 1.0), 4)
    assert [cut.name for cut in few] == [cuts[i * len(cuts) // 4].name for i in range(4)]


def test_windows_larger_than_the_image_are_padded_with_the_mean_colour() -> None:
    sample = discs()
    side = len(sample.instances)
    *_, cut = validation_windows([sample] * 3, Scale(side, 2.0))
    assert cut.instances.shape == (2 * side, 2 * side)
    assert np.array_equal(cut.image[:side, :side], sample.image)
    assert (cut.image[side:] == PADDING).all() and (cut.image[:, side:] == PADDING).all()
    assert not cut.instances[side:].any()


@pytest.mark.parametrize("window", [161, 1000])
def test_images_smaller_than_the_window_are_shown_as_serving_shows_them(window: int) -> None:
    sample, scale = discs(), Scale(window, 1.0)
    _, served = to_frame(sample.image, 256)
    [cut] = validation_windows([sample], scale)
    trained = random_window(sample, 256, scale, AugmentConfig(), np.random.default_rng(0))
    shown = pytest.approx(served[0] / len(sample.image))
    assert (whole_window(cut, 256).scale, trained.scale) == (shown, shown)


def test_validation_covers_the_spread() -> None:
    samples = [discs(seed) for seed in range(3)]
    cuts = validation_windows(samples, Scale(80, 2.0))
    assert {cut.name.partition("@")[0]: len(cut.instances) for cut in cuts} == {
        sample.name: side for sample, side in zip(samples, (80, 40, 160), strict=True)
    }


@pytest.mark.parametrize("name", ["max_windows", "min_area", "train.seed"])
def test_impossible_numbers_are_refused(name: str) -> None:
    values = {"train": SourceConfig(seed=-1)} if name == "train.seed" else {name: 0}
    with pytest.raises(ConfigError, match=rf"data\.{name}: got (0|-1)"):
        DataConfig(**values)  # type: ignore[arg-type]


def test_the_account_of_a_source_is_one_line(tmp_path: Path) -> None:
    one = content(4)
    one["annotations"][0]["iscrowd"] = 1
    write(tmp_path / "set", {"annotations/a.json": one}, files=["1.png", "2.png", "3.png"])
    source = SourceConfig(dataset="coco", root=tmp_path / "set")
    assert account_line(read_source(source, "data.train"), "data.train") == (
        "data.train: images 3 of 4 (1 without a file); "
        "annotations 2 of 4 (1 crowds, 1 of images left out); used: images 0"
    )
    crowds = SourceConfig(dataset="coco", root=tmp_path / "set", crowds=True)
    assert "annotations 3 of 4" in account_line(read_source(crowds, "data.train"), "data.train")
    bars = content(6)
    bars["categories"].append({"id": 2, "name": "bar"})
    for row in bars["annotations"][::2]:
        row["category_id"] = 2
    write(tmp_path / "two", {"a.json": bars})
    ends = {"base": "used: images 2; as background: bar", "all": "used: images 4"}
    for classes, end in ends.items():
        source = SourceConfig(dataset="coco", root=tmp_path / "two", classes=classes)
        assert account_line(read_source(source, "train"), "train").endswith(f" 6 of 6; {end}")
    image, instances = write_pair(tmp_path, discs())
    pair = read_source(SourceConfig(image=image, instances=instances), "source")
    count = len(np.unique(discs().instances)) - 1
    assert account_line(pair, "source") == f"source: images 1 of 1; entities {count} of {count}"
