"""Polygons and run lengths, checked before pycocotools takes them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from training.data.datasets.outlines import (
    PARTS,
    Fault,
    checked_outline,
    decode_runs,
    runs_of,
)

SIZE = (48, 64)
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
PAIRS = [[10, 10], [30, 10], [30, 30], [10, 30]]


def mask_of(segmentation: Any) -> Any:
    outline = checked_outline(segmentation, SIZE)
    assert not isinstance(outline, Fault), outline
    return coco_mask.decode(runs_of(outline, SIZE))


def compressed(mask: Any) -> str:
    text: str = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    return text


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        SQUARE,
        [PAIRS],
        PAIRS,
        [[str(value) for value in SQUARE]],
        [[float(value) for value in SQUARE]],
    ],
)
def test_every_way_of_writing_a_polygon_gives_the_same_mask(segmentation: Any) -> None:
    mask = mask_of(segmentation)
    assert mask.sum() == 400 and mask[10:30, 10:30].all()


@pytest.mark.parametrize("short", [[], [1, 1], [1, 1, 5, 5]])
def test_short_parts_are_left_out_and_counted(short: list[float]) -> None:
    parts = [SQUARE, short, short]
    assert (mask_of(parts) == mask_of([SQUARE])).all()
    changed = Counter[str]()
    for whole in (SQUARE, PAIRS):
        checked_outline(whole, SIZE, changed)
    assert not changed
    assert not isinstance(checked_outline(parts, SIZE, changed), Fault)
    assert changed == {PARTS: 2}
    assert isinstance(checked_outline([short, short], SIZE), Fault)


@pytest.mark.parametrize(
    ("segmentation", "reason", "got"),
    [
        (None, "without an outline", "an empty mask"),
        ([], "without an outline", "an empty mask"),
        ({"size": [48, 64]}, "without an outline", "no segmentation"),
        ("text", "without an outline", "no segmentation"),
        (7, "without an outline", "no segmentation"),
        ([[1, 1, 5, 5]], "damaged polygons", "less than three points"),
        ([[1, 1, 5, 5, 9, 9, 3]], "damaged polygons", "7 coordinates"),
        ([[float("nan"), 1, 5, 5, 9, 9]], "damaged polygons", "far outside"),
        ([[1, float("nan"), 5, 5, 9, 9]], "damaged polygons", "no number"),
        ([[1, 1, 5, float("inf"), 9, 9]], "damaged polygons", "far outside"),
        ([[1, 1, 5, 5, 9, 10**400]], "damaged polygons", "far outside"),
        ([[1, 1, 5, 5, 9, 1e9]], "damaged polygons", "far outside"),
        ([[1, 1, 5, 5, 9, -1e9]], "damaged polygons", "far outside"),
        ([["a", 1, 5, 5, 9, 9]], "damaged polygons", "no numbers"),
        ([[None, 1, 5, 5, 9, 9]], "damaged polygons", "no numbers"),
        ([[True, 1, 5, 5, 9, 9]], "damaged polygons", "no numbers"),
        ([SQUARE, 5], "damaged polygons", "no numbers"),
        ([[0, 0, 60, 40] * 20_000], "damaged polygons", "circumference"),
        ({"size": [20, 20], "counts": [400]}, "run lengths of another size", "[20, 20]"),
        ({"size": 5, "counts": [400]}, "run lengths of another size", "5"),
        ({"size": [48, 64], "counts": [5]}, "damaged run lengths", "do not fill"),
        ({"size": [48, 64], "counts": [-5, 3077]}, "damaged run lengths", "do not fill"),
        ({"size": [48, 64], "counts": [10**30]}, "damaged run lengths", "do not fill"),
        ({"size": [48, 64], "counts": [float("inf")]}, "damaged run lengths", "do not fill"),
        ({"size": [48, 64], "counts": [float("nan")]}, "damaged run lengths", "do not fill"),
        ({"size": [48, 64], "counts": ["3072"]}, "damaged run lengths", "no whole numbers"),
        ({"size": [48, 64], "counts": None}, "damaged run lengths", "no whole numbers"),
        ({"size": [48, 64], "counts": ""}, "damaged run lengths", "cannot be decoded"),
        ({"size": [48, 64], "counts": "é0"}, "damaged run lengths", "cannot be decoded"),
        ({"size": [48, 64], "counts": "b'0'"}, "damaged run lengths", "cannot be decoded"),
        ({"size": [48, 64], "counts": "PPPPPPPPPPPP0"}, "damaged run lengths", "cannot be decoded"),
    ],
)  # fmt: skip
def test_unusable_outlines_are_told_by_kind(segmentation: Any, reason: str, got: str) -> None:
    fault = checked_outline(segmentation, SIZE)
    assert isinstance(fault, Fault)
    assert fault.reason == reason and got in fault.got


def test_polygons_may_reach_a_little_beyond_the_image() -> None:
    assert mask_of([[-8, -8, 20, -8, 20, 20, -8, 20]])[:20, :20].all()


def test_run_lengths_of_another_mask_or_cut_short_are_refused() -> None:
    small = np.zeros((20, 20))
    small[5:10, 5:10] = 1
    full = np.zeros(SIZE)
    full[5:40, 5:50] = 1
    for text in (compressed(small), compressed(full)[:-1], "\\\\" + compressed(full)):
        assert isinstance(checked_outline({"size": list(SIZE), "counts": text}, SIZE), Fault)
    assert np.array_equal(mask_of({"size": list(SIZE), "counts": compressed(full)}), full)


@given(seed=st.integers(0, 10**6), level=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_run_lengths_are_decoded_as_pycocotools_encodes_them(seed: int, level: float) -> None:
    mask = np.random.default_rng(seed).random((37, 300)) < level
    counts = decode_runs(compressed(mask))
    assert counts is not None and counts.sum() == mask.size
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    assert np.array_equal(values, mask.T.ravel())


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=40))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    outline = checked_outline({"size": [9, 9], "counts": text}, (9, 9))
    if not isinstance(outline, Fault):
        assert coco_mask.decode(runs_of(outline, (9, 9))).shape == (9, 9)
