from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cpcsam.errors import ContractError
from cpcsam.formats.brush_runs import encode_brush
from serving.http.label_studio import context
from serving.http.label_studio.context import read_interaction
from serving.http.label_studio.label_config import parse_label_config
from serving.http.problems import Problem

CONFIG = parse_label_config(
    '<View><Image name="image" value="$image"/><KeyPointLabels name="click" toName="image">'
    '<Label value="Cell"/><Label value="Beside" model_negative="true"/></KeyPointLabels></View>'
)
SIZE = (150, 200)


def drawn(kind: str, value: dict[str, Any], **members: Any) -> dict[str, Any]:
    region = {
        "id": "r1",
        "type": kind,
        "from_name": "click",
        "to_name": "image",
        "original_width": SIZE[1],
        "original_height": SIZE[0],
        "image_rotation": 0,
    }
    return {**region, "value": {kind: ["Cell"], **value}, **members}


def click(x: float, y: float, **members: Any) -> dict[str, Any]:
    return drawn("keypointlabels", {"x": x, "y": y, "width": 0.5}, **members)


def test_read_interaction_clicks_become_one_prompt_in_pixels() -> None:
    regions = [click(25, 50, is_positive=True), click(12.5, 10, is_positive=False)]
    found = read_interaction(regions, CONFIG)
    (prompt,) = found.prompts
    assert [(point.x, point.y, point.background) for point in prompt.points] == [
        (50, 75, False),
        (25, 15, True),
    ]
    assert (found.to_name, found.label, found.size, found.seed) == ("image", "Cell", SIZE, "r1")


def test_read_interaction_negative_label_makes_a_click_beside_the_entity() -> None:
    beside = drawn("keypointlabels", {"x": 1, "y": 1, "keypointlabels": ["Beside"]})
    found = read_interaction([beside, click(25, 50)], CONFIG)
    assert [point.background for point in found.prompts[0].points] == [True, False]
    assert found.label == "Cell"


def test_read_interaction_aliases_stand_for_their_labels() -> None:
    config = parse_label_config(
        '<View><Image name="image" value="$image"/><KeyPointLabels name="click" toName="image">'
        '<Label value="Cell" alias="c"/><Label value="Beside" alias="b" model_negative="true"/>'
        '</KeyPointLabels><BrushLabels name="brush" toName="image"><Label value="Cell" alias="d"/>'
        "</BrushLabels></View>"
    )
    clicks = [
        drawn("keypointlabels", {"x": 1, "y": 1, "keypointlabels": [alias]}) for alias in "bc"
    ]
    found = read_interaction(clicks, config)
    assert [point.background for point in found.prompts[0].points] == [True, False]
    label = config.output_of("image", found.label).label(found.label)
    assert label is not None
    assert (label.value, label.classes) == ("d", ("Cell",))


@pytest.mark.parametrize(("x", "y"), [(100, 100), (-0.1, 100.2), (0, 0)])
def test_read_interaction_click_on_the_border_lies_inside(x: float, y: float) -> None:
    (point,) = read_interaction([click(x, y)], CONFIG).prompts[0].points
    assert 0 <= point.x < SIZE[1]
    assert 0 <= point.y < SIZE[0]


def test_read_interaction_boxes_become_a_prompt_each() -> None:
    boxes = [
        drawn("rectanglelabels", {"x": 10, "y": 20, "width": 30, "height": 40}),
        drawn("rectanglelabels", {"x": 90, "y": 90, "width": 20, "height": 20, "rotation": 0}),
    ]
    first, second = (one.box for one in read_interaction(boxes, CONFIG).prompts)
    assert (first.x0, first.y0, first.x1, first.y1) == (20, 30, 80, 90)
    assert (second.x0, second.y0, second.x1, second.y1) == (180, 135, 200, 150)


def test_read_interaction_turned_box_becomes_the_box_around_it() -> None:
    turned = drawn("rectanglelabels", {"x": 50, "y": 20, "width": 20, "height": 10, "rotation": 90})
    box = read_interaction([turned], CONFIG).prompts[0].box
    assert [box.x0, box.y0, box.x1, box.y1] == pytest.approx([85, 30, 100, 70])


def test_read_interaction_strokes_become_a_mask() -> None:
    strokes = np.zeros((2, *SIZE), bool)
    strokes[0, 10:20, 5:50] = strokes[1, 15:90, 40:44] = True
    regions = [drawn("brushlabels", {"format": "rle", "rle": encode_brush(one)}) for one in strokes]
    (prompt,) = read_interaction(regions, CONFIG).prompts
    with Image.open(io.BytesIO(prompt.mask.png)) as image:
        assert np.array_equal(np.asarray(image), strokes.any(axis=0))
    assert not prompt.points


BOX = {"x": 10, "y": 20, "width": 30, "height": 40}


@pytest.mark.parametrize(
    ("regions", "got"),
    [
        ([click(1, 1, is_positive=False)], "clicks: got none on the entity"),
        ([click(1, 1), 3], "context.result"),
        ([click(1, 1, image_rotation=90)], "a turned image"),
        ([click(1, 1, item_index=1)], "several images in a task"),
        ([click(1, 1), click(1, 1, original_width=201)], "several images"),
        ([click(1, 1, original_width=0)], "0 x 150"),
        ([click(1, 1, original_width=1e9)], "1e\\+09 x 150"),
        ([click(1, 1, original_width=-200, original_height=-150)], "-200 x -150"),
        ([click(float("nan"), 1)], "x: got something else"),
        ([click(10**400, 1)], "x: got something else"),
        ([drawn("keypointlabels", {"x": 1, "y": 1, "keypointlabels": []})], "label: got none"),
        ([drawn("ellipselabels", BOX)], "'ellipselabels'"),
        ([drawn("rectanglelabels", BOX | {"x": 100})], "one without pixels"),
        ([*[drawn("rectanglelabels", BOX)] * 2, click(1, 1)], "several boxes with clicks"),
        ([drawn("brushlabels", {"rle": encode_brush(np.zeros(SIZE, bool))})], "without pixels"),
    ],
)
def test_read_interaction_of_something_else_is_refused(regions: list[Any], got: str) -> None:
    with pytest.raises(Problem, match=got) as refusal:
        read_interaction(regions, CONFIG)
    assert refusal.value.status == 400


def test_read_interaction_stroke_of_another_size_is_refused() -> None:
    stroke = drawn("brushlabels", {"rle": encode_brush(np.ones((9, 9), bool))})
    with pytest.raises(ContractError, match="200 x 150 pixels"):
        read_interaction([stroke], CONFIG)


def test_read_interaction_holds_one_stroke_of_many_at_a_time() -> None:
    size = {"original_width": 1000, "original_height": 1000}
    rle = encode_brush(np.ones((1000, 1000), bool))
    regions = [drawn("brushlabels", {"rle": rle}, **size) for _ in range(24)]
    tracemalloc.start()
    read_interaction(regions, CONFIG)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 12e6  # 4 MB for the values of one stroke, and 1 MB for each mask at hand


def test_read_interaction_bounds_the_pixels_of_all_strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros(SIZE, bool)
    mask[3:6, 4:9] = True
    strokes = [drawn("brushlabels", {"format": "rle", "rle": encode_brush(mask)})] * 3
    monkeypatch.setattr(context, "MAX_STROKE_PIXELS", 2 * mask.size)
    assert read_interaction(strokes[:2], CONFIG).prompts[0].mask.png
    with pytest.raises(Problem, match="accept the others first"):
        read_interaction(strokes, CONFIG)


@pytest.mark.parametrize(
    "rle",
    [
        [],
        [1, 2, 3],
        encode_brush(np.ones((3, 4), bool)),
        encode_brush(np.eye(4, dtype=bool))[:-3],
        [*encode_brush(np.eye(4, dtype=bool))[:4], 0xFF, *[0] * 40],
        [300, "a"],
        [[1], 2],
    ],
    ids=["empty", "short", "other size", "cut", "other width", "no bytes", "nested"],
)
def test_read_interaction_stroke_of_something_else_is_refused(rle: list[int]) -> None:
    stroke = drawn("brushlabels", {"rle": rle}, original_width=4, original_height=4)
    with pytest.raises(ContractError, match="4 x 4 pixels"):
        read_interaction([stroke], CONFIG)
