"""Checks of requests: whatever is good passes, whatever is bad is named, nothing else escapes."""

from __future__ import annotations

import io
import math
import struct

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from cpcsam.contract import MaskSelection
from cpcsam.errors import ConfigError, ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import LimitError
from cpcsam.transforms import IMAGE_FORMATS, decode_image
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import MAX_POINT_SLOTS, Limits
from serving.gateway.validation.prompts import check_prompts, needed_box, part_of, slots_of
from serving.gateway.validation.request import check_image_id, check_request, original_size_of

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

HEIGHT, WIDTH = 40, 60
SIZE, LOW = (HEIGHT, WIDTH), 4
LIMITS = Limits(max_image_bytes=100_000, max_pixels=10_000, max_prompts=5, max_in_flight=1)
FORM = r".*: got .+, expected .+; .+"


def image_file(
    width: int = WIDTH, height: int = HEIGHT, kind: str = "PNG", orientation: int = 1
) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 90, 200)).save(file, kind, exif=exif)
    return file.getvalue()


def click(x: float, y: float) -> pb.Prompt:
    return pb.Prompt(points=[pb.Point(x=x, y=y)])


def masked(logits: bytes = bytes(4 * LOW * LOW), part: tuple[float, ...] = ()) -> pb.Prompt:
    """A prompt at (5, 6) with a mask."""
    mask = pb.LowResMask(logits=logits)
    if part:
        mask.part.CopyFrom(box(*part).box)
    return pb.Prompt(points=[pb.Point(x=5, y=6)], mask_input=mask)


def box(*corners: float) -> pb.Prompt:
    return pb.Prompt(box=pb.Box(**dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))))


def request(**fields: object) -> pb.SegmentRequest:
    return pb.SegmentRequest(
        **{"image_bytes": image_file(), "prompts": [click(1, 2)], **fields}  # type: ignore[arg-type]
    )


EVERYTHING = {"prompts": [], "everything": pb.Everything()}
inside_x = st.floats(0, WIDTH, width=32, exclude_max=True)
inside_y = st.floats(0, HEIGHT, width=32, exclude_max=True)
points = st.builds(pb.Point, x=inside_x, y=inside_y, background=st.booleans())
any_float = st.floats(width=32)


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


def test_check_request_with_valid_fields_passes() -> None:
    check_request(request(), LIMITS)
    check_request(request(prompts=[], classes=["nucleus"]), LIMITS)
    check_request(request(**EVERYTHING, tile_size=64, tile_overlap=0.5), LIMITS)
    assert original_size_of(image_file(), LIMITS) == (HEIGHT, WIDTH)
    check_image_id("0123456789abcdef" * 4)


@pytest.mark.parametrize("image_id", ["", "0" * 63, "G" * 64, "A" * 64])
def test_check_image_id_with_an_invalid_id_names_it(image_id: str) -> None:
    with pytest.raises(ContractError, match="image_id: got ") as caught:
        check_image_id(image_id)
    assert caught.match(FORM)


@pytest.mark.parametrize(
    ("fields", "kind", "what"),
    [
        ({"prompts": []}, ContractError, "prompts, classes and everything: got none"),
        ({"classes": ["nucleus"]}, ContractError, "got prompts and classes, expected one"),
        ({"prompts": [click(1, 2)] * 6}, LimitError, "prompts: got 6, expected at most 5"),
        ({"prompts": [], "classes": ["x"] * 6}, LimitError, "classes: got 6, expected at most 5"),
        ({"mask_selection": 7}, ContractError, "mask_selection: got 7"),
        ({"request_id": "x" * 129}, ContractError, "request_id: got 129 characters"),
        ({"everything": pb.Everything()}, ContractError, "got prompts and everything"),
        ({"mask_format": 9}, ContractError, "mask_format: got 9"),
        ({"prompts": [], "classes": ["x"], "tile_size": 64}, ContractError, "tile_size: got 64"),
        ({"tile_overlap": 1.0}, ContractError, "tile_overlap: got 1"),
        ({"tile_overlap": math.nan}, ContractError, "tile_overlap: got nan"),
        (EVERYTHING | {"return_low_res_masks": True}, ContractError, "return_low_res_masks: got"),
        (
            {"prompts": [], "everything": pb.Everything(crop_layers=1), "tile_size": 64},
            ContractError,
            "tile_size: got 64 and 1 crop_layers",
        ),
    ],
)
def test_check_request_with_an_invalid_field_names_it(
    fields: dict[str, object], kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what) as caught:
        check_request(request(**fields), LIMITS)
    assert type(caught.value) is kind
    assert caught.match(FORM)


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (b"", ContractError, "image_bytes: got nothing"),
        (b"not an image", ContractError, "without a readable image header"),
        (bytes(100_001), LimitError, "got 100001 bytes, expected at most 100000"),
        (image_file(101, 100), LimitError, "got 101 x 100 pixels"),
    ],
)
def test_original_size_of_invalid_bytes_names_the_problem(
    content: bytes, kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what) as caught:
        original_size_of(content, LIMITS)
    assert type(caught.value) is kind
    assert caught.match(FORM)


def test_original_size_of_a_decompression_bomb_is_refused() -> None:
    png = bytearray(image_file())
    png[16:24] = struct.pack(">II", 60_000, 60_000)  # width and height in IHDR
    with pytest.raises((LimitError, ContractError), match=FORM):
        original_size_of(bytes(png), LIMITS)
    bmp = bytearray(image_file(kind="BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    with pytest.raises(LimitError, match="pixels, expected at most 10000"):
        original_size_of(bytes(bmp), LIMITS)


@UNHURRIED
@given(st.binary(max_size=200))
def test_original_size_of_any_bytes_is_a_size_or_an_error(data: bytes) -> None:
    for prefix in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"II*\x00", b"BM", b"RIFF"):
        try:
            height, width = original_size_of(prefix + data, LIMITS)
        except (ContractError, LimitError):
            continue
        assert 0 < height * width <= LIMITS.max_pixels


@UNHURRIED
@given(st.data())
def test_original_size_of_damaged_headers_is_a_size_or_an_error(data: st.DataObject) -> None:
    for kind in IMAGE_FORMATS:
        damaged = bytearray(image_file(kind=kind, orientation=6))
        for _ in range(3):
            damaged[data.draw(st.integers(0, min(200, len(damaged)) - 1))] = data.draw(
                st.integers(0, 255)
            )
        try:
            original_size_of(bytes(damaged), LIMITS)
        except (ContractError, LimitError) as error:
            assert "; " in str(error)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_original_size_of_a_header_equals_the_decoded_size(kind: str, orientation: int) -> None:
    data = image_file(kind=kind, orientation=orientation)
    assert original_size_of(data, LIMITS) == decode_image(data).shape[:2]


def test_original_size_of_other_formats_is_refused() -> None:
    with pytest.raises(ContractError, match="JPEG, PNG, TIFF, BMP, WEBP"):
        original_size_of(image_file(kind="GIF"), LIMITS)


def test_mask_selections_of_api_and_contract_are_equal() -> None:
    ours = {f"MASK_SELECTION_{choice.name}": choice.value for choice in MaskSelection}
    assert dict(pb.MaskSelection.items()) == ours


@pytest.mark.parametrize("name", ["max_image_bytes", "max_pixels", "max_prompts", "max_in_flight"])
def test_limits_below_their_minimum_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: got 0, expected at least 1"):
        Limits(**{name: 0})


def test_limits_beyond_the_contracts_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_pixels"):
        Limits(max_pixels=10**9)
