"""Bounds on the fields of a message, which count what would become objects."""

from __future__ import annotations

from time import process_time

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from cpcsam.grpc_errors import LimitError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.validation.message_fields import MAX_FIELDS, MAX_RUN_LENGTHS, check_fields

MANY = MAX_FIELDS + 1
POINT = pb.Point(x=1.5, y=2.5, background=True)
RLE = pb.CocoRle(size=pb.Size(height=2000, width=3000), counts="0" * 150)


def nested(tag: int, content: bytes) -> bytes:
    size = len(content)
    digits = []
    while size >= 0x80:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([tag, *digits, size]) + content


@pytest.mark.parametrize(
    "message",
    [
        pb.SegmentRequest(
            image_bytes=bytes(1_000_000),
            prompts=[pb.Prompt(points=[POINT] * 16, box=pb.Box(x1=1, y1=1))] * 256,
        ),
        pb.SegmentRequest(image_id="a" * 64, classes=["nucleus"] * 256, channels=[0, 1, 2]),
        pb.SegmentRequest(
            prompts=[pb.Prompt(mask_input=pb.LowResMask(logits=bytes(262_144)))] * 32
        ),
        pb.SegmentRequest(prompts=[pb.Prompt(points=[POINT])] * 10_000),
        pb.AddClassRequest(examples=[pb.Example(entities=[RLE] * 1000)] * 12),
        pb.AddClassRequest(examples=[pb.Example(entities=[pb.CocoRle(counts="0" * 1_000_000)])]),
    ],
)
def test_check_fields_of_ordinary_messages_passes(message: Message) -> None:
    check_fields(message.SerializeToString(), type(message))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x42\0" * MANY, pb.SegmentRequest),  # prompts
        (b"\x52\0" * MANY, pb.SegmentRequest),  # classes
        (b"\x48\0" * MANY, pb.SegmentRequest),  # a number, again and again
        (b"\x90\x01\0" * MANY, pb.SegmentRequest),  # channels one by one
        (nested(0x42, b"\x0a\0" * MANY), pb.SegmentRequest),  # points
        (nested(0x42, nested(0x0A, b"\x18\0" * MANY)), pb.SegmentRequest),  # in one point
        (nested(0x12, b"\x42\0" * MANY), pb.AddClassRequest),  # entities
        (nested(0x12, nested(0x42, b"\x0a\0" * MANY)), pb.AddClassRequest),  # in one entity
        (b"\xfa\x7f\0" * MANY, pb.DescribeRequest),  # unknown
        (b"\x0b\x0c" * MANY, pb.SegmentRequest),  # groups
    ],
)
def test_check_fields_of_too_many_is_refused(content: bytes, kind: type[Message]) -> None:
    with pytest.raises(LimitError, match=f"request: got more than {MAX_FIELDS} fields, expected"):
        check_fields(content, kind)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.SegmentRequest(request_id="x" * 100_000), "request_id: got 100000 bytes"),
        (pb.SegmentRequest(channels=[1] * 100), "channels: got 100 bytes"),
        (
            pb.SegmentRequest(intensity=pb.Intensity(policy="x" * 100_000)),
            "policy: got 100000 bytes",
        ),
        (
            pb.AddClassRequest(
                examples=[pb.Example(entities=[pb.CocoRle(counts="0" * (MAX_RUN_LENGTHS + 1))])]
            ),
            f"counts: got {MAX_RUN_LENGTHS + 1} bytes, expected at most {MAX_RUN_LENGTHS}",
        ),
    ],
)
def test_check_fields_of_too_long_a_text_or_list_names_it(message: Message, field: str) -> None:
    with pytest.raises(LimitError, match=field):
        check_fields(message.SerializeToString(), type(message))


@pytest.mark.parametrize("tag", [b"", b"\x48", b"\x42", b"\x0b"])
def test_check_fields_of_an_endless_number_stops_there(tag: bytes) -> None:
    started = process_time()
    check_fields(tag + b"\xff" * 30_000_000, pb.SegmentRequest)
    assert process_time() - started < 0.1


@given(st.binary(max_size=60))
def test_check_fields_leaves_malformed_messages_to_the_parser(content: bytes) -> None:
    try:
        pb.SegmentRequest.FromString(content)
    except DecodeError:
        pass
    check_fields(content, pb.SegmentRequest)
