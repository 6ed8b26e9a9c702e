from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cpcsam.client.masks import encode_run_lengths
from cpcsam.formats.brush_runs import decode_brush
from cpcsam.outlines import simplify_ring
from cpcsam.polygons import rings_of
from cpcsam.v1 import masks_pb2
from serving.http.label_studio.label_config import Control, Label
from serving.http.label_studio.outlines import outlines_of
from serving.http.label_studio.records import MAX_VALUES, number_member, parse_object
from serving.http.label_studio.regions import prediction_of, regions_of
from serving.http.problems import Problem

SIZE = (90, 120)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
DISC = (X - 50) ** 2 + (Y - 40) ** 2 <= 30**2


def control(kind: str, min_score: float = 0.0) -> Control:
    return Control(kind, "out", "image", (Label("Cell", ("Cell",)),), min_score=min_score)


def message(mask: np.ndarray, score: float = 0.5) -> masks_pb2.Mask:
    """A mask with all forms at once, which the API does not have."""
    rows, columns = np.nonzero(mask)
    found = masks_pb2.Mask(score=score, area=int(mask.sum()))
    if mask.any():
        found.box.x0, found.box.x1 = columns.min(), columns.max() + 1
        found.box.y0, found.box.y1 = rows.min(), rows.max() + 1
    return found


def as_polygons(mask: np.ndarray) -> masks_pb2.Mask:
    found = message(mask)
    for ring in rings_of(mask):
        found.polygons.rings.add(coordinates=np.asarray(ring).ravel())
    return found


def filled(region: dict[str, Any]) -> np.ndarray:
    """Rasterise a polygon region at four times the resolution; return the middle of pixels."""
    height, width = SIZE
    picture = Image.new("1", (width * 4, height * 4))
    points = np.array(region["value"]["points"]) / 100 * (width * 4, height * 4) - 0.5
    corners = [(x, y) for x, y in points]
    ImageDraw.Draw(picture).polygon(corners, fill=1)
    return np.asarray(picture)[2::4, 2::4]


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_regions_of_brush_holds_the_mask_exactly() -> None:
    mask = message(DISC)
    mask.coco_rle.counts = encode_run_lengths(DISC)
    mask.coco_rle.size.height, mask.coco_rle.size.width = SIZE
    (region,) = regions_of([(mask, "Cell")], control("brushlabels"), SIZE, "seed")
    assert np.array_equal(decode_brush(region["value"].pop("rle"), SIZE), DISC)
    assert region == {
        "id": region["id"],
        "type": "brushlabels",
        "from_name": "out",
        "to_name": "image",
        "original_width": 120,
        "original_height": 90,
        "image_rotation": 0,
        "value": {"format": "rle", "brushlabels": ["Cell"]},
        "score": 0.5,
    }


def test_regions_of_rectangle_is_the_box_in_percent() -> None:
    (region,) = regions_of([(message(DISC), "Cell")], control("rectanglelabels"), SIZE)
    value = region["value"]
    assert value["rectanglelabels"] == ["Cell"]
    assert (value["x"] * 1.2, value["y"] * 0.9) == pytest.approx((20, 10))
    assert (value["width"] * 1.2, value["height"] * 0.9) == pytest.approx((61, 61))


def test_regions_of_polygon_has_few_corners_and_nearly_the_mask() -> None:
    (region,) = regions_of([(as_polygons(DISC), "Cell")], control("polygonlabels"), SIZE)
    assert len(region["value"]["points"]) < 60
    assert iou(filled(region), DISC) > 0.97


def test_regions_of_polygon_parts_are_regions_and_holes_are_filled() -> None:
    mask = DISC & ~((X - 50) ** 2 + (Y - 40) ** 2 <= 9**2)
    mask[70:80, 90:110] = True
    mask[85, 5] = True
    regions = regions_of([(as_polygons(mask), "Cell")], control("polygonlabels"), SIZE)
    assert len(regions) == 2
    assert iou(filled(regions[0]), DISC) > 0.97
    assert filled(regions[1]).sum() == 200


def test_regions_of_small_polygon_is_kept_where_it_is_all() -> None:
    mask = np.zeros(SIZE, bool)
    mask[5, 5] = True
    (region,) = regions_of([(as_polygons(mask), "Cell")], control("polygonlabels"), SIZE)
    assert len(region["value"]["points"]) == 4


def test_regions_of_empty_or_poor_masks_are_left_out() -> None:
    masks = [(message(np.zeros(SIZE, bool)), "Cell"), (message(DISC, 0.2), "Cell")]
    assert regions_of(masks, control("rectanglelabels", min_score=0.3), SIZE) == []


def test_regions_of_same_seed_have_the_same_identities() -> None:
    masks = [(message(DISC), "Cell")] * 2
    first, again, other, random = (
        [region["id"] for region in regions_of(masks, control("rectanglelabels"), SIZE, seed)]
        for seed in ("a", "a", "b", "")
    )
    assert first == again
    assert len({*first, *other, *random}) == 6


def test_prediction_of_scores_the_mean() -> None:
    regions = [{"score": 0.5}, {"score": 1.0}]
    assert prediction_of(regions, "m-1") == {
        "result": regions,
        "score": 0.75,
        "model_version": "m-1",
    }
    assert prediction_of([], "m-1")["score"] == 0


@pytest.mark.parametrize("turn", range(4))
def test_simplify_ring_keeps_corners_and_drops_steps(turn: int) -> None:
    square = np.array([(0, 0), (4, 0), (8, 0), (8, 8), (5, 8), (0, 8)], float)
    ring = np.roll(square, turn, axis=0)
    corners = {tuple(corner) for corner in simplify_ring(ring, 0.5)}
    assert {(0, 0), (8, 0), (8, 8), (0, 8)} <= corners
    assert len(corners) <= 5


def test_outlines_of_one_point_or_nothing_is_nothing() -> None:
    assert outlines_of([]) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a":' * 5000, b"{" + b'"a":1,' * 9])
def test_parse_object_refuses_what_is_no_object(body: bytes) -> None:
    with pytest.raises(Problem, match="expected a JSON object"):
        parse_object(body)


def test_parse_object_refuses_values_that_would_fill_the_memory() -> None:
    body = b'{"tasks": [' + b"{}," * (MAX_VALUES // 2) + b"{}]}"
    with pytest.raises(Problem, match="more than 3000000 values"):
        parse_object(body)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "1", [], None])
def test_number_member_refuses_all_but_finite_numbers(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        number_member({"x": value}, "x")
    assert caught.value.status == 400


def test_number_member_takes_the_default_for_null_and_for_nothing() -> None:
    assert [number_member(record, "x", 2) for record in ({"x": None}, {}, {"x": 0})] == [2, 2, 0]
