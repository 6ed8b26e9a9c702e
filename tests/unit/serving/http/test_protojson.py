"""JSON of messages: numbers, defaults, and what cannot be parsed."""

from __future__ import annotations

import json
from time import process_time

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.problems import Problem
from serving.http.protojson import json_of_message, parse_json, record_of_message

DIGITS = st.integers(0, 2**53 - 1)


@given(st.lists(DIGITS, max_size=3), st.floats(-(2.0**100), 2.0**100, width=32))
def test_json_of_message_returns_by_parse_json(areas: list[int], score: float) -> None:
    masks = [pb.Mask(area=area, score=score, png=b"\x00\xff") for area in areas]
    message = pb.SegmentResponse(request_id="é", results=[pb.PromptResult(masks=masks)])
    text = json_of_message(message)
    assert parse_json(text, pb.SegmentResponse()) == message
    record = json.loads(text)["results"][0]
    assert [mask["area"] for mask in record.get("masks", [])] == areas


def test_record_of_message_has_fields_without_presence_and_no_others() -> None:
    described = record_of_message(pb.DescribeResponse(limits=pb.Limits(max_pixels=7)))
    assert described["limits"]["max_pixels"] == 7
    assert described["limits"]["cache_bytes"] == 0
    assert described["classes"] == []
    assert "model" not in described
    standard = json_format.MessageToDict(pb.Limits(max_pixels=7), preserving_proto_field_name=True)
    assert standard == {"max_pixels": "7"}, "protobuf's own form, which is not ours"


def test_parse_json_takes_names_and_numbers_of_enums_and_strings_of_integers() -> None:
    for text in (b'{"mask_format": "MASK_FORMAT_PNG"}', b'{"maskFormat": 1}'):
        assert parse_json(text, pb.SegmentRequest()).mask_format == pb.MASK_FORMAT_PNG
    assert parse_json(b'{"tile_size": "64"}', pb.SegmentRequest()).tile_size == 64


@pytest.mark.parametrize(
    ("text", "field", "detail"),
    [
        (b"", None, "body: got no object"),
        (b"[]", None, "body: got no object"),
        (b'"text"', None, "body: got no object"),
        (b"{", None, "body: got Failed to load JSON"),
        (b'{"x": 1}', "x", "x: got an unknown field"),
        (b'{"prompts": [{"y": 1}]}', "prompts[0].y", "prompts[0].y: got an unknown field"),
        (b'{"prompts": 1}', "prompts", "repeated field prompts must be in []"),
        (
            b'{"prompts": [{}, {"box": {"x0": "a"}}]}',
            "prompts[1].box.x0",
            "prompts[1].box.x0: got Couldn't parse float: a",
        ),
        (b'{"image_bytes": 1}', "image_bytes", "image_bytes: got "),
        (b'{"image_bytes": "AA==", "image_id": "b"}', None, "oneof"),
        (b'{"tile_size": -1}', "tile_size", "tile_size: got "),
        (b'{"tile_overlap": NaN}', "tile_overlap", "tile_overlap: got "),
        (b'{"classes": ["a", "b"], "classes": []}', None, "duplicate"),
        (b'{"request_id": "\xff"}', None, "not UTF-8"),
        (b'{"request_id": "\\ud800"}', "request_id", "Unpaired surrogate"),
        (b'{"classes": [' + b"[" * 5000 + b"]" * 5000 + b"]}", None, "got "),
        (b'{"prompts": [' + b"{}," * 200_000 + b"{}]}", None, "more than 300000 values"),
    ],
)
def test_parse_json_tells_the_field_at_fault(text: bytes, field: str | None, detail: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_json(text, pb.SegmentRequest())
    assert caught.value.status == 400
    assert detail in caught.value.detail
    if field is not None:
        assert caught.value.field == field
    assert len(caught.value.detail) < 500 and caught.value.detail.isprintable()


@pytest.mark.parametrize(
    "value",
    [
        " at a.b" + "." * 60_000 + "!",
        " at a." * 10_000,
        'has no field named "' * 3_000,
        'has no field named "a" at "' + "b" * 60_000,
        "Failed to parse x field: " * 2_400 + "!",
    ],
)
def test_time_for_an_error_does_not_grow_with_the_square_of_what_it_quotes(value: str) -> None:
    text = json.dumps({"mask_format": value}).encode()
    started = process_time()
    with pytest.raises(Problem):
        parse_json(text, pb.SegmentRequest())
    assert process_time() - started < 1.0
