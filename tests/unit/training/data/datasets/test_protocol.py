from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cpcsam.config import from_dict
from cpcsam.errors import ConfigError, DataError
from cpcsam.scale import Scale
from tests.support.dataset_factory import (
    bbbc038,
    box,
    car,
    celebamask,
    classes_in,
    coco_json,
    mricron,
    oceancoco,
    picture,
    polygon,
    run_lengths,
    save,
    tiktok,
)
from training.data.batches import BatchConfig, StepBatches
from training.data.datasets.items import LazySamples
from training.data.datasets.protocol import MORE_SHOTS, SEEDS, SHOTS, open_dataset, split_classes
from training.data.datasets.registry import DATASETS, Last, LastOfEachClass
from training.data.sources import DataConfig, SourceConfig, read_source, validation_windows


@pytest.mark.parametrize(
    ("count", "base"), [(1, 1), (2, 1), (3, 2), (4, 3), (13, 9), (19, 13), (22, 15), (62, 42)]
)
def test_classes_are_divided_thirteen_to_six(count: int, base: int) -> None:
    names = [f"class {index}" for index in range(count)]
    first, second = split_classes(names)
    assert len(first) == base and first | second == set(names) and not first & second
    assert split_classes(reversed(names)) == (first, second)


def test_split_classes_is_stable() -> None:
    assert split_classes(["car", "wheel", "light", "window"])[1] == {"wheel"}
    assert split_classes(["person", "boat", "anglerfish"], {"person", "boat"}) == (
        {"person", "boat"},
        {"anglerfish"},
    )
    assert len(split_classes(["person", "boat"], {"person", "boat"})[1]) == 1


def test_the_papers_figures() -> None:
    counts = {
        name: spec.split.count
        for name, spec in DATASETS.items()
        if isinstance(spec.split, Last) and spec.split.count
    }
    assert counts == {
        "celebamask-hq": 2000,
        "intelecai-car": 100,
        "tiktok-dances": 2000,
        "bbbc038v1": 5000,
        "kvasir-seg": 500,
        "jsrt": 147,
        "trashcan": 484,
    }
    assert DATASETS["oceancoco"].split == LastOfEachClass(20)
    assert len(DATASETS["oceancoco"].known) == 80
    assert SHOTS == {"standard": 8, "few-shot": 4}
    assert MORE_SHOTS == (128, 512) and len(SEEDS) == 5


def test_the_last_images_are_tested_on(tmp_path: Path) -> None:
    car(tmp_path, 150)
    dataset = open_dataset("intelecai-car", tmp_path)
    assert dataset.samples("test").names == [f"{index:03d}" for index in range(51, 151)]
    assert dataset.samples("validation").names == [f"{index:03d}" for index in range(46, 51)]
    assert len(dataset.samples("train")) == 45


def test_open_dataset_of_small_copy_tests_on_its_last_fifth(tmp_path: Path) -> None:
    tiktok(tmp_path, 20)
    assert open_dataset("tiktok-dances", tmp_path).samples("test").names == [
        f"{index:05d}" for index in range(16, 20)
    ]


def test_the_last_images_of_each_class_are_tested_on(tmp_path: Path) -> None:
    oceancoco(tmp_path, 90)
    dataset = open_dataset("oceancoco", tmp_path)
    assert dataset.base == {"person", "boat"} and dataset.target == {"anglerfish"}
    test = dataset.samples("test")
    for name in dataset.classes:
        assert sum(name in s.class_names for s in test) == 20
    assert test.names == [f"{key:012d}" for key in range(31, 91)]


def test_training_sees_base_labels_alone(tmp_path: Path) -> None:
    car(tmp_path)
    source = SourceConfig(dataset="intelecai-car", root=tmp_path)
    samples = read_source(source, "data.train")
    seen = {s.class_of(int(k)) for s in samples for k in np.unique(s.instances) if k}
    assert seen == {"car", "window"}
    target = read_source(
        SourceConfig(dataset="intelecai-car", root=tmp_path, part="test", classes="target"), "test"
    )
    assert {s.class_of(int(k)) for s in target for k in np.unique(s.instances) if k} == {"wheel"}


def test_images_without_base_classes_are_not_trained_on(tmp_path: Path) -> None:
    oceancoco(tmp_path, 120)
    dataset = open_dataset("oceancoco", tmp_path)
    assert len(dataset.samples("train", "base")) < len(dataset.samples("train", "all"))
    assert all(sample.instances.any() for sample in dataset.samples("train", "base"))


def test_shots_are_decided_by_the_seed_and_nested(tmp_path: Path) -> None:
    celebamask(tmp_path, 40)
    drawn = {}
    for seed in SEEDS:
        dataset = open_dataset("celebamask-hq", tmp_path)
        few, standard = (dataset.shots(count, seed).names for count in sorted(SHOTS.values()))
        assert standard[:4] == few and len(set(standard)) == 8
        assert dataset.shots(8, seed).names == standard
        assert set(standard) <= set(dataset.samples("train").names)
        drawn[seed] = tuple(standard)
    assert len(set(drawn.values())) == 5


def test_too_many_shots_are_refused(tmp_path: Path) -> None:
    bbbc038(tmp_path)
    dataset = open_dataset("bbbc038v1", tmp_path)
    with pytest.raises(ConfigError, match=r"shots: got 512, expected 1 to 9"):
        dataset.shots(512, 0)
    with pytest.raises(ConfigError, match="shots: got 0"):
        dataset.shots(0, 0)


def test_configuration_names_a_dataset(tmp_path: Path) -> None:
    car(tmp_path)
    files = {"dataset": "intelecai-car", "root": str(tmp_path)}
    config = from_dict(DataConfig, {"train": {**files, "shots": 4, "seed": 2}})
    train = read_source(config.train, "data.train")
    assert isinstance(train, LazySamples) and len(train) == 4
    validation = config.validation.or_else(config.train)
    assert (validation.part, validation.shots) == ("validation", None)
    source = read_source(validation, "data.validation")
    windows = validation_windows(source, Scale(None, 1.0), 3)
    assert windows and all(cut.instances.shape == (32, 32) for cut in windows)
    with pytest.raises(ConfigError, match=r"data\.validation"):
        from_dict(DataConfig, {"train": files, "validation": {"part": "train"}})


@pytest.mark.parametrize(
    "source",
    [
        SourceConfig(dataset="jsrt"),
        SourceConfig(root=Path("a")),
        SourceConfig(dataset="jsrt", root=Path("a"), ids=Path("b")),
        SourceConfig(dataset="jsrt", root=Path("a"), region=(0, 0, 1, 1)),
        SourceConfig(dataset="jsrt", root=Path("a"), bbbc038=Path("b")),
        SourceConfig(dataset="jsrt", root=Path("a"), shots=4, part="test"),
        SourceConfig(bbbc038=Path("b"), shots=4),
    ],
)
def test_keys_of_several_forms_are_refused(source: SourceConfig) -> None:
    with pytest.raises(ConfigError, match=r"data\.train"):
        read_source(source, "data.train")


def test_step_batches_read_only_the_drawn_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mricron(tmp_path)
    samples = open_dataset("mricron", tmp_path).samples("train", "base")
    reads: list[int] = []
    take = LazySamples.__getitem__

    def counted(self: LazySamples, index: int) -> object:
        reads.append(index)
        return take(self, index)

    monkeypatch.setattr(LazySamples, "__getitem__", counted)
    config = BatchConfig(images=2, entities=1, groups=1, min_area=4)
    batches = StepBatches(samples, 64, config, Scale(18, 1.1), seed=0, steps=10)
    assert reads == []
    assert batches[3].training.image.shape == (2, 3, 64, 64)
    assert len(reads) == 4


def test_validation_windows_of_a_dataset_are_spread_over_it(tmp_path: Path) -> None:
    car(tmp_path, 150)
    samples = open_dataset("intelecai-car", tmp_path).samples("test")
    cuts = validation_windows(samples, Scale(24, 1.0), 10)
    assert [cut.name for cut in cuts] == [f"{51 + 10 * k:03d}@0,0" for k in range(10)]
    many = validation_windows(samples[:3], Scale(8, 1.0), 9)
    assert len(many) == 9 and len({cut.name.partition("@")[0] for cut in many}) == 3


def test_validation_windows_of_a_dataset_pass_over_images_without_an_entity(
    tmp_path: Path,
) -> None:
    for index in range(40):
        save(tmp_path / f"images/{index:02d}.png", picture(index))
        save(tmp_path / f"masks/{index:02d}.png", box(1, 1, 5, 5) * (index in (33, 37, 38)))
    samples = open_dataset("folders", tmp_path).samples("test")
    held = [sample.name for sample in samples if sample.instances.any()]
    cuts = validation_windows(samples, Scale(None, 1.0), len(held))
    assert held and [cut.name for cut in cuts] == [f"{name}@0,0" for name in held]


@pytest.mark.parametrize("named", [True, False])
def test_own_folders_take_values_with_and_without_names(named: bool, tmp_path: Path) -> None:
    car(tmp_path)
    if named:
        (tmp_path / "classes.txt").write_text("car\nwheel\nlight\nwindow\n")
    sample = open_dataset("folders", tmp_path).samples("train")[0]
    expected = {"car": 1, "wheel": 2, "window": 1} if named else {"entity": 3}
    assert classes_in(sample) == expected


def test_own_folders_take_a_folder_a_class(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / f"images/x{index}.png", picture(index))
        save(tmp_path / f"masks/cat/x{index}.png", box(1, 1, 5, 5))
        save(tmp_path / f"masks/dog/x{index}.png", box(10, 10, 5, 5))
    dataset = open_dataset("folders", tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert classes_in(dataset.samples("test")[0]) == {"cat": 1, "dog": 1}


def test_polygons_and_run_lengths_agree(tmp_path: Path) -> None:
    images = [(k, f"{k}.png") for k in (1, 2)]
    shapes = [polygon(4, 4, 9, 9), run_lengths(box(4, 4, 9, 9))]
    rows = [
        {"image_id": key, "category_id": 1, "segmentation": shape}
        for (key, _), shape in zip(images, shapes, strict=True)
    ]
    for key, name in images:
        save(tmp_path / name, picture(key))
    (tmp_path / "mine.json").write_text(json.dumps(coco_json(images, rows, ["thing"])))
    dataset = open_dataset("coco", tmp_path)
    (first,), (second,) = dataset.samples("train"), dataset.samples("test")
    assert np.array_equal(first.instances, second.instances)
    assert first.instances.sum() == 81


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "no 'categories'"),
        (lambda c: c["images"][0].update(id=2), "images: got id 2 for '0000"),
        (lambda c: c["categories"][0].update(id=2), "categories: got id 2 for 'person' and 'boat'"),
        (lambda c: c.update(images=c["images"][:0]), "no images"),
    ],
)
def test_coco_scan_with_broken_list_raises_one_error(
    change: object, message: str, tmp_path: Path
) -> None:
    oceancoco(tmp_path)
    path = tmp_path / "annotations/instances.json"
    content = json.loads(path.read_text())
    change(content)  # type: ignore[operator]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        open_dataset("oceancoco", tmp_path)
    assert str(path) in str(error.value)
