"""Scenario `classes`: served classes score as in evaluation; a taught class persists."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tqdm import tqdm

from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.stack import service
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.vocabulary_io import load_vocabulary
from cpcsam.client import Example, SegmentationClient
from cpcsam.client.results import SegmentResult
from cpcsam.geometry import Box
from cpcsam.model.torch_backend import TorchBackend
from demo.commands import run_stage
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import ENTITY, Sample
from training.evaluate_auto import evaluate_auto
from training.evaluation.class_scores import score_segmentation
from training.evaluation.torch_model import open_model, support_set

__all__ = ["run"]

NAME: Final = "nucleus"
TILE: Final = 128
SUPPORT: Final = 0.1
TAUGHT: Final = 3
"""Annotated images of AddClass."""
SCORED: Final = 8
"""Images that a taught class is scored on."""
TIMEOUT_S: Final = 600.0
DICE_POINTS: Final = 0.5


def run(
    repository: Path, build: Path, base: Path, data: Path, count: int | None
) -> tuple[dict[str, Any], list[Check]]:
    """Score the validation images in torch and over gRPC; teach a class, restart, score again.

    Args:
        repository: of the base.
        build: for the vocabulary and the logs.
        base: for the evaluation.
        data: folder of BBBC038v1.
        count: take only so many images; None takes all.

    Returns:
        Figures and checks.
    """
    samples = read_bbbc038(data, data / "val.txt")[:count]
    evaluated = _evaluate(build, base, data, samples)
    limit = ("--max-seconds", f"{TIMEOUT_S:g}")
    vocabulary = ("--vocabulary", build / "vocabulary")
    with service(repository, build, *vocabulary, *limit) as running:
        served = _score(running.gateway, samples)
    taught = _teach(repository, build, limit, data, samples[:SCORED])
    difference = 100 * abs(served["dice"] - evaluated["dice"])
    figures = {
        "images": len(samples),
        "evaluated": evaluated,
        "served": served,
        "dice_difference_points": difference,
        "per_image_dice_difference_points_max": 100
        * max(
            abs(dice - evaluated["per_image"][name]) for name, dice in served["per_image"].items()
        ),
        "taught": taught,
    }
    return figures, [
        at_most("difference in Dice to evaluate_auto, points", difference, DICE_POINTS),
        at_least("Dice of a class taught by three images", taught["dice"], 0.5),
        at_most("images whose masks differ after a restart", taught["changed"], 0),
    ]


def _evaluate(build: Path, base: Path, data: Path, samples: Sequence[Sample]) -> dict[str, Any]:
    """Build the vocabulary and score with torch, as `training.evaluate_auto` does."""
    run_stage(
        "Vocabulary",
        "training.vocabulary",
        *("build", "--base", base, "--bbbc038", data, "--ids", "train.txt"),
        *("--share", str(SUPPORT), "--seed", "0", "--tile", str(TILE)),
        *("--name", f"{ENTITY}={NAME}", "--out", build / "vocabulary"),
    )
    model, digest = open_model(base, None)
    vocabulary = load_vocabulary(build / "vocabulary", digest)
    started = time.monotonic()
    shown = tqdm(samples, desc="evaluated")
    scores = evaluate_auto(TorchBackend(model), vocabulary, shown, names={NAME: ENTITY})
    return _brief(scores, time.monotonic() - started)


def _score(gateway: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Score the masks of the service."""
    with SegmentationClient(gateway, timeout_s=TIMEOUT_S) as client:

        def segment(sample: Sample) -> list[InstanceMask]:
            return _found(client.segment(sample.image, classes=[NAME]))

        started = time.monotonic()
        scores = score_segmentation(segment, [NAME], tqdm(samples, desc="served"), [ENTITY])
    return _brief(scores, time.monotonic() - started)


def _teach(
    repository: Path,
    build: Path,
    limit: tuple[str, str],
    data: Path,
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """Teach a class, and score it before and after a restart of the whole service."""
    train = read_bbbc038(data, data / "train.txt")
    support = support_set(train, TAUGHT / len(train), seed=0)
    examples = [Example(sample.image, sample.instances) for sample in support]

    def with_client(work: Callable[[SegmentationClient], dict[str, Any]]) -> dict[str, Any]:
        with (
            service(repository, build, "--classes", kept, *limit) as running,
            SegmentationClient(running.gateway, timeout_s=TIMEOUT_S) as client,
        ):
            return work(client)

    def score(client: SegmentationClient) -> dict[str, Any]:
        masks: dict[str, list[str]] = {}

        def segment(sample: Sample) -> list[InstanceMask]:
            result = client.segment(sample.image, classes=[NAME])
            masks[sample.name] = [mask.counts for (mask,) in result.masks]
            return _found(result)

        scores = score_segmentation(segment, [NAME], tqdm(samples, desc="taught"), [ENTITY])
        return {"dice": scores["dice"], "masks": masks}

    def teach(client: SegmentationClient) -> dict[str, Any]:
        started = time.monotonic()
        (known,) = client.add_class(NAME, examples, tile_size=TILE)
        seconds = time.monotonic() - started
        return {**score(client), "seconds": seconds, "prototypes": known.prototypes}

    with TemporaryDirectory(dir=build) as folder:
        # Outlives the first service: the second must know what that was taught.
        kept = Path(folder)
        before = with_client(teach)
        after = with_client(score)
    changed = sum(before["masks"][name] != masks for name, masks in after["masks"].items())
    return {
        "examples": len(examples),
        "prototypes": before["prototypes"],
        "teaching_s": round(before["seconds"], 1),
        "images": len(samples),
        "dice": before["dice"],
        "dice_after_a_restart": after["dice"],
        "changed": changed,
    }


def _found(result: SegmentResult) -> list[InstanceMask]:
    """Convert an answer to the masks that evaluation scores."""
    whole = Box(0, 0, *result.original_size)
    return [
        InstanceMask.from_mask(
            mask.array, whole, score=mask.score, tile=whole, point=prompt.point_coords[0]
        )
        for prompt, (mask,) in zip(result.prompts, result.masks, strict=True)
    ]


def _brief(scores: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        **{key: scores[key] for key in ("dice", "iou", "ap50")},
        "found": sum(row["found"] for row in scores["per_image"]),
        "seconds": round(seconds, 1),
        "per_image": {row["name"]: row["dice"] for row in scores["per_image"]},
    }
