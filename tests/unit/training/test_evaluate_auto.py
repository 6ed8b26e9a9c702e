from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.predictor import segment_image
from cpcsam.automatic.vocabulary import Vocabulary, build_vocabulary
from cpcsam.contract import EMBED_DIM, NUM_MASKS
from cpcsam.errors import ConfigError, DataError
from cpcsam.geometry import Box
from cpcsam.model.torch_backend import TorchBackend
from tests.support.model_factory import noisy_cpcsam
from tests.support.tiny_models import BrightnessModel
from tests.support.training_factory import discs
from training.data.sample import ENTITY, Sample
from training.data.source_options import part_of
from training.evaluate_auto import _parser, evaluate_auto, main
from training.evaluation.average_precision import AveragePrecision
from training.evaluation.one_click import dice_score, iou_score
from training.evaluation.torch_model import (
    class_names,
    examples_of,
    support_set,
)

SIZE = (60, 80)


@cache
def brightness_vocabulary() -> Vocabulary:
    samples = [discs(seed) for seed in range(3)]
    examples = examples_of(samples, (ENTITY,), BrightnessModel(), tile=64)
    return build_vocabulary((ENTITY,), examples, model="a" * 64, tile=64)


def test_entities_of_a_tiled_image_are_found_without_prompts() -> None:
    scores = evaluate_auto(BrightnessModel(), brightness_vocabulary(), [discs(7), discs(8)])
    assert scores["images"] == 2
    assert scores["dice"] > 0.95
    assert scores["ap50"] == 1
    assert scores["classes"][ENTITY]["found"] == scores["classes"][ENTITY]["entities"] == 8


def test_masks_lie_in_the_image_and_clicks_on_entities() -> None:
    sample = discs(9)
    found = segment_image(sample.image, brightness_vocabulary(), BrightnessModel())
    assert len(found) == 4
    for one in found:
        assert one.mask.any(0).all() or one.mask.any()
        assert one.bbox.size == one.mask.shape
        x, y = (round(value) for value in one.point)
        assert sample.instances[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5].any()
        assert 0 < one.score <= 0.9


def test_an_oblong_image_smaller_than_a_tile_is_segmented() -> None:
    sample = discs(3)
    small = Sample("small", sample.image[25:60, 20:130], sample.instances[25:60, 20:130])
    vocabulary = brightness_vocabulary()
    found = segment_image(small.image, vocabulary, BrightnessModel())
    painted = np.zeros(small.instances.shape, bool)
    for one in found:
        painted |= one.in_region(Box(0, 0, *painted.shape))
    assert dice_score(painted, small.instances > 0) > 0.9


def test_nothing_is_found_in_an_empty_image() -> None:
    empty = Sample("empty", np.full((100, 90, 3), 50, np.uint8), np.zeros((100, 90), np.int32))
    vocabulary = brightness_vocabulary()
    assert segment_image(empty.image, vocabulary, BrightnessModel()) == []
    with pytest.raises(DataError, match="no entity of a known class"):
        evaluate_auto(BrightnessModel(), vocabulary, [empty])


def test_false_masks_count_against_images_without_the_class() -> None:
    sample = discs(7)
    bare = Sample("bare", sample.image, np.zeros_like(sample.instances))
    alone = evaluate_auto(BrightnessModel(), brightness_vocabulary(), [sample])
    both = evaluate_auto(BrightnessModel(), brightness_vocabulary(), [sample, bare])
    assert both["dice"] == pytest.approx(alone["dice"] / 2)
    assert both["ap50"] < alone["ap50"]


def test_classes_are_scored_by_their_own_entities() -> None:
    sample = discs(7)
    named = Sample("named", sample.image, sample.instances, ("cell", "cell", "other", "cell"))
    scores = evaluate_auto(
        BrightnessModel(), brightness_vocabulary(), [named], names={ENTITY: "cell"}
    )
    assert scores["classes"][ENTITY]["entities"] == 3
    assert scores["classes"][ENTITY]["found"] == 4
    assert class_names([named]) == ("cell", "other")


@pytest.mark.parametrize("name", ["scores", "folder.d", "file.json"])
def test_scores_without_a_place_are_refused_before_the_work(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.d").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main(["--base", "x", "--vocabulary", "y", "--out", str(tmp_path / name)])
    assert caught.value.code == 2
    assert "expected a file with an ending, such as scores.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields", [{"threshold": 1.5}, {"min_iou": -0.1}, {"overlap": 1.0}, {"min_similarity": 2.0}]
)
def test_bad_settings_raise(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        ClassSearchConfig(**fields)  # type: ignore[arg-type]


def test_the_test_images_of_a_dataset_are_scored_by_default() -> None:
    arguments = ["--base", "b", "--vocabulary", "v", "--dataset", "coco", "--root", "r"]
    assert part_of(_parser().parse_args(arguments)) == {"part": "test"}
    assert part_of(_parser().parse_args([*arguments, "--part", "train"])) == {"part": "train"}
    assert part_of(_parser().parse_args(arguments[:4])) == {}


def test_the_support_set_is_the_same_for_a_seed() -> None:
    samples = [discs(seed) for seed in range(20)]
    names = [[one.name for one in support_set(samples, 0.1, seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 2
    assert len(support_set(samples, 0.0, 0)) == 1


masks = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).random((2, *SIZE)) < (seed % 11) / 10
)


@given(masks)
@settings(max_examples=40, deadline=None)
def test_foreground_scores_are_cocos(pair: np.ndarray) -> None:
    encoded = coco_mask.encode(np.asfortranarray(pair.transpose(1, 2, 0).astype(np.uint8)))
    dice, iou = dice_score(*pair), iou_score(*pair)
    if pair.any():
        expected = coco_mask.iou([encoded[0]], [encoded[1]], [0])[0, 0]
        assert iou == pytest.approx(expected)
        assert dice == pytest.approx(2 * expected / (1 + expected))
    else:
        assert (dice, iou) == (1, 1)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_average_precision_is_cocos(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(3):
        labels = np.zeros(SIZE, np.int32)
        for label in range(1, int(rng.integers(2, 7))):
            _square(labels, rng, label)
        truths.append(labels)
        found.append([_found(labels, rng) for _ in range(int(rng.integers(0, 9)))])
    precision = AveragePrecision()
    for masks, truth in zip(found, truths, strict=True):
        precision.update(masks, truth)
    expected = _cocos(truths, found)
    assert precision.compute() == pytest.approx(expected, abs=1e-6)


def test_average_precision_without_entities_or_detections() -> None:
    empty = AveragePrecision()
    empty.update([], np.zeros(SIZE, np.int32))
    assert empty.compute() == 1
    missed = AveragePrecision()
    missed.update([], np.repeat(np.arange(4, dtype=np.int32), SIZE[0] * SIZE[1] // 4).reshape(SIZE))
    assert missed.compute() == 0


def _square(labels: np.ndarray, rng: np.random.Generator, label: int) -> None:
    y, x = rng.integers(0, SIZE[0] - 20), rng.integers(0, SIZE[1] - 20)
    labels[y : y + rng.integers(6, 20), x : x + rng.integers(6, 20)] = label


def _found(labels: np.ndarray, rng: np.random.Generator) -> InstanceMask:
    """A mask shifted away from some entity, so that IoUs fall on both sides of 0.5."""
    present = np.unique(labels[labels > 0])
    mask = np.roll(labels == rng.choice(present), rng.integers(-4, 5, 2), (0, 1))
    whole = Box(0, 0, *SIZE)
    return InstanceMask.from_mask(mask, whole, score=float(rng.random()), tile=whole)


def _cocos(truths: list[np.ndarray], found: list[list[InstanceMask]]) -> float:
    """AP at IoU 0.5 as pycocotools computes it."""

    def annotation(image: int, number: int, mask: np.ndarray) -> dict[str, object]:
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        area = float(mask.sum())
        common = {"segmentation": encoded, "area": area, "bbox": [0, 0, 1, 1], "iscrowd": 0}
        return {"id": number, "image_id": image, "category_id": 1, **common}

    images = [{"id": index, "height": SIZE[0], "width": SIZE[1]} for index in range(len(truths))]
    true, predicted = [], []
    for index, (labels, masks) in enumerate(zip(truths, found, strict=True)):
        for label in np.unique(labels[labels > 0]):
            true.append(annotation(index, len(true) + 1, labels == label))
        for one in masks:
            entry = annotation(index, len(predicted) + 1, one.in_region(Box(0, 0, *SIZE)))
            predicted.append({**entry, "score": one.score})
    sets = []
    for entries in (true, predicted):
        coco = COCO()
        coco.dataset = {"images": images, "categories": [{"id": 1}], "annotations": entries}
        coco.createIndex()
        sets.append(coco)
    evaluation = COCOeval(*sets, iouType="segm")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.maxDets = [1000]
    evaluation.evaluate()
    evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, 0, 0, 0].mean())


def test_decode_with_capl_changes_the_masks() -> None:
    backend = TorchBackend(noisy_cpcsam())
    plain = TorchBackend(type(backend.model)(backend.model.sam))
    coords = np.full((1, 1, 2, 2), 90, np.float32)
    labels = np.array([[[1, -1]]], np.int32)
    image = discs(0).image[:128, :128].transpose(2, 0, 1)
    shown = np.zeros((1, 3, 256, 256), np.uint8)
    shown[0, :, :128, :128] = image
    embeddings = backend.encode(shown, np.array([[128, 128]], np.int32))
    assert embeddings.dtype == np.float32 and embeddings.shape == (1, EMBED_DIM, 16, 16)
    with_capl, without = (one.decode(embeddings, coords, labels)[0] for one in (backend, plain))
    assert with_capl.shape == (1, 1, NUM_MASKS, 64, 64)
    assert np.abs(with_capl - without).max() > 1e-3
