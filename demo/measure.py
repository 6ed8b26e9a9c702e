"""Segment the held-out nuclei through the running service, and read its latency histogram."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cpcsam.client import Mask, Prompt, SegmentationClient, SegmentResult
from demo.commands import DemoError
from demo.scene import Nucleus, Scene
from training.evaluation.one_click import dice_score

__all__ = [
    "Latency",
    "Served",
    "histogram_quantile",
    "latency_of",
    "mean_dice",
    "on_one_canvas",
    "segment_nuclei",
]

CLIENTS: Final = 4


@dataclass(frozen=True)
class Latency:
    """Figures of a Prometheus histogram."""

    requests: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Served:
    """Answers of the service, one a nucleus.

    Attributes:
        accurate: masks by accurate clicks, of the windows' size.
        careless: masks by careless clicks.
        moved: careless clicks as the model took them, None where it calibrates no prompts.
        triton_version: of the Triton that answered.
    """

    accurate: list[Mask]
    careless: list[Mask]
    moved: list[Prompt | None]
    triton_version: str


def segment_nuclei(address: str, nuclei: Sequence[Nucleus]) -> Served:
    """Segment each nucleus by its two clicks, in a request per nucleus, from several threads."""

    def segment(nucleus: Nucleus) -> tuple[Mask, Mask, Prompt | None]:
        clicks = [Prompt.click(*nucleus.click), Prompt.click(*nucleus.careless_click)]
        result = client.segment(nucleus.window.image, clicks)
        (accurate,), (careless,) = result.masks
        return accurate, careless, result.calibrated_prompts[1]

    with SegmentationClient(address) as client, ThreadPoolExecutor(CLIENTS) as pool:
        triton_version = client.describe().triton_version
        answers = pool.map(segment, nuclei)
        rows = list(tqdm(answers, total=len(nuclei), desc="requests", unit="nucleus"))
    accurate, careless, moved = map(list, zip(*rows, strict=True))
    return Served(accurate, careless, moved, triton_version)


def mean_dice(masks: Iterable[NDArray[np.bool_]], nuclei: Sequence[Nucleus]) -> float:
    """Compute the mean Dice of masks against their nuclei."""
    scores = [dice_score(mask, nucleus.truth) for mask, nucleus in zip(masks, nuclei, strict=True)]
    return sum(scores) / len(scores)


def on_one_canvas(
    scene: Scene, masks: Sequence[Mask], moved: Sequence[Prompt | None]
) -> SegmentResult:
    """Paste masks by careless clicks, and the clicks as moved, into the whole held-out part."""
    height, width = scene.held_out.instances.shape
    prompts, placed, calibrated = [], [], []
    for nucleus, mask, place in zip(scene.nuclei, masks, moved, strict=True):
        left, top = nucleus.corner
        # pycocotools takes column-major arrays alone.
        canvas = np.zeros((height, width), np.uint8, order="F")
        canvas[top : top + mask.size[0], left : left + mask.size[1]] = mask.array
        x0, y0, x1, y1 = mask.box
        x, y = nucleus.careless_click
        prompts.append(Prompt.click(x + left, y + top))
        points = () if place is None else place.point_coords
        calibrated.append(Prompt.click(points[0][0] + left, points[0][1] + top) if points else None)
        placed.append(
            Mask(
                size=(height, width),
                counts=coco_mask.encode(canvas)["counts"].decode(),
                score=mask.score,
                box=(x0 + left, y0 + top, x1 + left, y1 + top),
                area=mask.area,
            )
        )
    return SegmentResult(
        request_id="demo",
        original_size=(height, width),
        prompts=tuple(prompts),
        masks=tuple((mask,) for mask in placed),
        model_name="segment",
        model_version="1",
        timings_ms={},
        calibrated_prompts=tuple(calibrated),
    )


def latency_of(metrics_url: str) -> Latency:
    """Read the gateway's latency of answered Segment requests from its Prometheus endpoint.

    Raises:
        DemoError: the histogram is not there.
    """
    with urlopen(metrics_url, timeout=10) as response:
        text = response.read().decode()
    cumulative: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "cpcsam_request_seconds_bucket" and labels["method"] == "Segment":
                if labels["code"] == "OK":
                    cumulative[float(labels["le"])] = sample.value
    if not cumulative or not cumulative[math.inf]:
        raise DemoError.of(
            metrics_url,
            got="no answered Segment request in cpcsam_request_seconds",
            expected="one a nucleus",
            fix="see the gateway's log",
        )
    return Latency(
        requests=int(cumulative[math.inf]),
        p50_ms=1000 * histogram_quantile(0.5, cumulative),
        p99_ms=1000 * histogram_quantile(0.99, cumulative),
    )


def histogram_quantile(quantile: float, cumulative: dict[float, float]) -> float:
    """Compute a histogram's quantile as Prometheus does, by linear interpolation within a bucket.

    Args:
        quantile: in [0, 1].
        cumulative: count of observations up to each upper edge, infinity included.

    Returns:
        In the edges' unit; the highest finite edge if the quantile lies beyond it.
    """
    edges = sorted(cumulative)
    rank = quantile * cumulative[edges[-1]]
    lower = below = 0.0
    for edge in edges[:-1]:
        count = cumulative[edge]
        if count >= rank:
            return lower + (edge - lower) * (rank - below) / max(count - below, 1e-12)
        lower, below = edge, count
    return lower
