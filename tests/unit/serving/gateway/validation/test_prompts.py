"""Validation of prompts against image and model."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import PreconditionError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import MAX_POINT_SLOTS
from serving.gateway.validation.prompts import (
    check_calibration,
    check_prompts,
    needed_box,
    part_of,
    slots_of,
)

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

HEIGHT, WIDTH = 40, 60
SIZE, LOW = (HEIGHT, WIDTH), 4
FORM = r".*: got .+, expected .+; .+"
inside_x = st.floats(0, WIDTH, width=32, exclude_max=True)
inside_y = st.floats(0, HEIGHT, width=32, exclude_max=True)
points = st.builds(pb.Point, x=inside_x, y=inside_y, background=st.booleans())
any_float = st.floats(width=32)


def click(x: float, y: float) -> pb.Prompt:
    return pb.Prompt(points=[pb.Point(x=x, y=y)])


def box(*corners: float) -> pb.Prompt:
    return pb.Prompt(box=pb.Box(**dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))))


def masked(logits: bytes = bytes(4 * LOW * LOW), part: tuple[float, ...] = ()) -> pb.Prompt:
    """A prompt at (5, 6) with a mask."""
    mask = pb.LowResMask(logits=logits)
    if part:
        mask.part.CopyFrom(box(*part).box)
    return pb.Prompt(points=[pb.Point(x=5, y=6)], mask_input=mask)


@st.composite
def boxes(draw: st.DrawFn) -> pb.Box:
    x0, x1 = sorted(draw(st.tuples(inside_x, st.floats(0, WIDTH, width=32))))
    y0, y1 = sorted(draw(st.tuples(inside_y, st.floats(0, HEIGHT, width=32))))
    assume(x0 < x1 and y0 < y1)
    return pb.Box(x0=x0, y0=y0, x1=x1, y1=y1)


@UNHURRIED
@given(st.lists(points, min_size=1, max_size=MAX_POINT_SLOTS - 2), st.none() | boxes())
def test_check_prompts_inside_the_image_passes(
    clicks: list[pb.Point], around: pb.Box | None
) -> None:
    check_prompts([pb.Prompt(points=clicks, box=around)], SIZE, LOW)


@UNHURRIED
@given(any_float, any_float)
def test_check_prompts_accepts_exactly_the_points_in_the_image(x: float, y: float) -> None:
    if 0 <= x < WIDTH and 0 <= y < HEIGHT:
        check_prompts([click(x, y)], SIZE, LOW)
    else:
        with pytest.raises(ContractError, match=rf"^prompts\[1\]\.points\[0\]{FORM}"):
            check_prompts([click(0, 0), click(x, y)], SIZE, LOW)


@UNHURRIED
@given(st.tuples(any_float, any_float, any_float, any_float))
def test_check_prompts_accepts_exactly_the_nonempty_boxes_in_the_image(
    corners: tuple[float, float, float, float],
) -> None:
    x0, y0, x1, y1 = corners
    if 0 <= x0 < x1 <= WIDTH and 0 <= y0 < y1 <= HEIGHT:
        check_prompts([box(*corners)], SIZE, LOW)
    else:
        with pytest.raises(ContractError, match=rf"^prompts\[0\]\.box{FORM}"):
            check_prompts([box(*corners)], SIZE, LOW)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_check_prompts_with_nonfinite_numbers_shows_them(value: float) -> None:
    with pytest.raises(ContractError, match=rf"got \({value}, 3\)"):
        check_prompts([click(value, 3)], SIZE, LOW)
    with pytest.raises(ContractError, match=rf"got \(0, 0, {value}, 3\)"):
        check_prompts([box(0, 0, value, 3)], SIZE, LOW)


@UNHURRIED
@given(st.integers(0, 40), st.booleans())
def test_check_prompts_bounds_the_point_slots(count: int, with_box: bool) -> None:
    prompt = pb.Prompt(
        points=[pb.Point(x=1, y=1)] * count,
        box=pb.Box(x0=0, y0=0, x1=5, y1=5) if with_box else None,
    )
    assert slots_of(prompt) == count + 2 * with_box
    if 1 <= slots_of(prompt) <= MAX_POINT_SLOTS:
        check_prompts([prompt], SIZE, LOW)
    else:
        with pytest.raises(ContractError, match=FORM):
            check_prompts([prompt], SIZE, LOW)


@pytest.mark.parametrize(
    ("prompt", "part"),
    [(masked(), (0, 0, HEIGHT, WIDTH)), (masked(part=(5, 0, 30, 7)), (0, 5, 7, 30))],
)
def test_part_of_a_mask_is_the_image_or_a_part(prompt: pb.Prompt, part: tuple[int, ...]) -> None:
    check_prompts([prompt], SIZE, LOW)
    assert part_of(prompt.mask_input, SIZE) == Box(*part)


@pytest.mark.parametrize(
    ("prompt", "low_res_size", "what"),
    [
        (masked(b"0000"), LOW, r"mask_input\.logits: got 4 bytes, expected 4 rows"),
        (masked(), 0, r"mask_input\.logits: got 64 bytes, expected no mask"),
        (masked(struct.pack("<16f", *[math.nan] * 16)), LOW, "got a value that is NaN or infinite"),
        (masked(part=(0, 0, 70, 7)), LOW, r"mask_input\.part: got \(0, 0, 70, 7\)"),
        (masked(part=(0.5, 0, 30, 9)), LOW, r"mask_input\.part: .*whole pixels around \(5, 6, 5"),
        (masked(part=(6, 0, 30, 9)), LOW, "expected whole pixels around"),
    ],
)
def test_check_prompts_with_an_invalid_mask_names_it(
    prompt: pb.Prompt, low_res_size: int, what: str
) -> None:
    with pytest.raises(ContractError, match=what) as caught:
        check_prompts([click(1, 2), prompt], SIZE, low_res_size)
    assert caught.match(rf"^prompts\[1\]\.mask_input{FORM}")


@UNHURRIED
@given(st.lists(points, min_size=1), st.none() | boxes())
def test_needed_box_holds_all_points_and_the_box(
    clicks: list[pb.Point], around: pb.Box | None
) -> None:
    x0, y0, x1, y1 = needed_box(pb.Prompt(points=clicks, box=around))
    assert all(x0 <= point.x <= x1 and y0 <= point.y <= y1 for point in clicks)
    if around is not None:
        assert x0 <= around.x0 and y0 <= around.y0 and around.x1 <= x1 and around.y1 <= y1


def test_check_calibration_refuses_only_what_cannot_be_switched_off() -> None:
    for asked, calibrates in ((True, True), (True, False), (False, None), (False, True)):
        check_calibration(asked, calibrates)
    with pytest.raises(PreconditionError, match=f"without_calibration{FORM}"):
        check_calibration(True, None)


def test_two_masks_that_nothing_points_at_are_left_to_their_conversion() -> None:
    prompt = pb.Prompt(mask=pb.BinaryMask(png=b"x"))
    prompt.mask_input.logits = bytes(4 * LOW**2)
    prompt.mask_input.part.CopyFrom(pb.Box(x1=WIDTH, y1=HEIGHT))
    check_prompts([prompt], SIZE, LOW)
