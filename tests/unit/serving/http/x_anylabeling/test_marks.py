"""Marks of X-AnyLabeling as prompts."""

from __future__ import annotations

from typing import Any

import pytest

from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.problems import Problem
from serving.http.x_anylabeling.marks import prompts_of


def point(x: float, y: float, label: int = 1) -> dict[str, Any]:
    return {"type": "point", "data": [x, y], "label": label}


def rectangle(*data: float) -> dict[str, Any]:
    return {"type": "rectangle", "data": list(data), "label": 1}


def test_points_and_a_rectangle_are_one_prompt_at_centres_of_pixels() -> None:
    (prompt,) = prompts_of([point(3, 4), point(7.25, 8.5, 0), rectangle(9, 2, 1, 20)])
    assert prompt == pb.Prompt(
        points=[pb.Point(x=3.5, y=4.5), pb.Point(x=7.25, y=8.5, background=True)],
        box=pb.Box(x0=1, y0=2, x1=9, y1=20),
    )


def test_rectangles_ask_for_an_entity_each_with_the_points_inside() -> None:
    marks = [rectangle(0, 0, 10, 10), rectangle(20, 0, 30, 10), point(2, 2), point(22, 2, 0)]
    first, second = prompts_of(marks)
    assert [place.x for place in first.points] == [2.5] and first.box.x1 == 10
    assert [place.background for place in second.points] == [True] and second.box.x1 == 30
    *_, third = prompts_of([*marks, point(50, 50), point(60, 60, 0)])
    assert [place.x for place in third.points] == [50.5, 60.5] and not third.HasField("box")


@pytest.mark.parametrize(
    "marks, message",
    [
        ([], "params.marks: got no mark on an entity"),
        ([point(1, 2, 0)], "params.marks: got no mark on an entity"),
        ({"type": "point"}, "params.marks: got dict"),
        ([7], r"params.marks\[0\]: got int"),
        ([{"type": "circle", "data": [1, 2]}], r"params.marks\[0\].type: got 'circle'"),
        ([point(1, 2), {"type": "point", "data": [1]}], r"params.marks\[1\].data: got \[1\]"),
        ([{"type": "point", "data": [1, float("nan")]}], "expected 2 numbers"),
        pytest.param([point(10**400, 2)], "expected 2 numbers", id="beyond float"),
        ([{"type": "point", "data": [1, 2], "label": 5}], "expected 1 or 0"),
        ([{**rectangle(1, 2, 3, 4), "label": 0}], "exclude by points"),
    ],
    ids=str,
)
def test_other_marks_are_refused_with_the_field(marks: Any, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        prompts_of(marks)
    assert caught.value.status == 400 and caught.value.field is not None


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf")])
def test_a_number_that_is_no_place_is_refused(value: float) -> None:
    with pytest.raises(Problem) as caught:
        prompts_of([point(value, 1)])
    assert caught.value.status == 400
