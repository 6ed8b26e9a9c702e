"""Images, prompts, comparison of results and metrics for the tests of the gateway."""

from __future__ import annotations

import re
import urllib.request

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cpcsam.client import Prompt
from cpcsam.client.results import SegmentResult
from serving.gateway.limits import Limits
from serving.gateway.server import Gateway
from serving.metrics_reference import reference_page

HEIGHT, WIDTH = 60, 100

LIMITS = Limits(max_image_bytes=200_000, max_pixels=20_000, max_prompts=48)


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Draw smooth light and dark regions, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def clicks(count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    points = rng.uniform((0, 0), (WIDTH - 1, HEIGHT - 1), (count, 2))
    return [Prompt.click(float(x), float(y)) for x, y in points]


def assert_same(actual: SegmentResult, expected: SegmentResult) -> None:
    assert actual.original_size == expected.original_size
    for mine, theirs in zip(actual.masks, expected.masks, strict=True):
        for mask, same in zip(mine, theirs, strict=True):
            assert mask.score == pytest.approx(same.score, rel=1e-4)
            union = (mask.array | same.array).sum()
            assert (mask.array & same.array).sum() >= 0.999 * union


def read_metrics(gateway: Gateway) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(gateway.metrics_url, timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def page_of_reference(title: str) -> dict[str, str]:
    """Type by name in one table of the reference page."""
    section = reference_page().partition(f"## {title}\n")[2].partition("## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) ", section, re.M))


def types_of(url: str) -> dict[str, str]:
    """Type by name on a page of metrics."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        found = dict(re.findall(r"^# TYPE (\w+) (\w+)", answer.read().decode(), re.M))
    return {name: kind for name, kind in found.items() if not name.endswith("_created")}
