from __future__ import annotations

import random
import struct
from collections import Counter

import pytest
from google.protobuf.message import DecodeError

from benchmarks.chaos.hostile.corpus import FAMILIES, attack_of
from benchmarks.chaos.hostile.images import (
    CRAFTED,
    SIDE,
    line_of_pixels,
    mutated_image,
    plain_image,
    sources,
)
from benchmarks.chaos.hostile.messages import BULK, BYTES, EXTREMES
from benchmarks.chaos.hostile.ordinary import half_mask, one_of_each, rle_number
from benchmarks.chaos.hostile.wire import (
    Target,
    Wire,
    frame,
    grpc_message,
    header_block,
    request_headers,
)
from cpcsam.automatic.rle import mask_from_rle
from cpcsam.images.formats import IMAGE_FORMATS, format_of
from cpcsam.images.reading import decode_image, read_header
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import Limits
from serving.gateway.validation.request import check_request

SERVICE = pb.DESCRIPTOR.services_by_name["Segmentation"]


class Recorder(Wire):
    """Keeps what it is to send."""

    def __init__(self) -> None:
        super().__init__(Target("127.0.0.1:1", "127.0.0.1:2", "token"))
        self.sent: list[object] = []

    async def call(self, *arguments: object, **options: object) -> str:  # type: ignore[override]
        self.sent.append(arguments)
        return "OK"

    async def talk(self, data: object, *arguments: object, **options: object) -> str:  # type: ignore[override]
        self.sent.append(data if isinstance(data, bytes) else [*data])  # type: ignore[misc]
        return "closed"


async def sent_by(seed: int, number: int, family: str) -> list[object]:
    wire = Recorder()
    await attack_of(seed, number, (family,)).run(wire)
    await wire.close()
    return wire.sent


@pytest.mark.parametrize("family", ["tcp", "http2", "protobuf", "fields", "images", "classes"])
async def test_attacks_of_equal_seed_and_number_send_equal_bytes(family: str) -> None:
    sent = [await sent_by(3, number, family) for number in range(15)]
    assert sent == [await sent_by(3, number, family) for number in range(15)]
    assert sent != [await sent_by(4, number, family) for number in range(15)]
    assert all(sent)


def test_corpus_has_attacks_of_every_family_and_many_kinds() -> None:
    names = Counter(attack_of(0, number).name for number in range(1000))
    assert {name.split(".")[0] for name in names} == FAMILIES.keys()
    assert len(names) > 80


def test_sources_are_readable_files_of_every_accepted_format() -> None:
    assert {format_of(data) for data in sources()} == {*IMAGE_FORMATS}
    for data in sources():
        height, width = read_header(data).size
        assert decode_image(data).shape == (height, width, 3)


def test_mutated_images_differ_from_their_sources() -> None:
    files = [mutated_image(random.Random(seed)) for seed in range(50)]
    assert len({*files}) > 40 and not {*files} & {*sources()}


def test_crafted_files_fit_into_a_request() -> None:
    for name, build in CRAFTED.items():
        assert all(len(build(random.Random(seed))) < Limits.max_image_bytes for seed in (0, 1)), (
            name
        )


def test_line_of_pixels_is_an_image_as_long_as_it_states() -> None:
    assert read_header(line_of_pixels(1 << 20)).size == (1, 1 << 20)
    assert decode_image(line_of_pixels(1001, upright=True)).shape == (1001, 1, 3)


def test_half_mask_is_read_as_the_left_half() -> None:
    mask = mask_from_rle(half_mask(SIDE).counts.encode(), (SIDE, SIDE))
    assert mask[:, : SIDE // 2].all() and not mask[:, SIDE // 2 :].any()
    assert mask_from_rle(f"0{rle_number(1 << 20)}".encode(), (1, 1 << 20)).all()


def test_one_of_each_are_valid_messages_of_every_unary_method() -> None:
    calls = one_of_each()
    methods = {method.name for method in SERVICE.methods if not method.client_streaming}
    assert {method for method, _ in calls} == methods - {"ListClasses"}
    for method, body in calls:
        if method == "Segment":
            check_request(pb.SegmentRequest.FromString(body), Limits())


@pytest.mark.parametrize("name", [*EXTREMES])
def test_extreme_requests_differ_from_an_ordinary_one(name: str) -> None:
    def ordinary() -> pb.SegmentRequest:
        prompt = pb.Prompt(points=[pb.Point(x=1, y=1)])
        return pb.SegmentRequest(image_bytes=plain_image(), prompts=[prompt])

    request = ordinary()
    EXTREMES[name](request, random.Random(0))
    assert request != ordinary()


@pytest.mark.parametrize("name", ["noise", "lengths", "not_utf8"])
def test_broken_messages_are_refused_by_the_parser(name: str) -> None:
    refused = 0
    for seed in range(20):
        try:
            pb.SegmentRequest.FromString(BYTES[name](random.Random(seed)))
        except DecodeError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("name", [*BULK])
def test_bulk_is_of_the_stated_size_and_parses(name: str) -> None:
    size = 10_000
    body = BULK[name](size)
    assert size - 3 <= len(body) <= size + 10
    if name in ("examples", "entities"):
        request = pb.AddClassRequest.FromString(body)
        assert max(len(request.examples), len(request.examples[0].entities)) == size // 2
    else:
        assert pb.SegmentRequest.FromString(body) != pb.SegmentRequest()


def test_frames_headers_and_messages_are_as_the_standards_say() -> None:
    assert frame(0, 1, 3, b"ab") == b"\0\0\x02\0\x01\0\0\0\x03ab"
    assert frame(0, 0, 1, b"", length=70000)[:3] == struct.pack(">I", 70000)[1:]
    assert header_block([(b"a", b"b" * 126)])[:4] == b"\0\x01a" + bytes([126])
    assert header_block([(b"a", b"b" * 1337)])[:6] == b"\0\x01a" + bytes([127, 0xBA, 0x09])
    assert grpc_message(b"abc") == b"\0\0\0\0\x03abc"
    headers = dict(request_headers("t", _path=b"/x", grpc_timeout=b"1S"))
    assert headers[b":path"] == b"/x" and headers[b"grpc-timeout"] == b"1S"
    assert [*headers][:4] == [b":method", b":scheme", b":path", b":authority"]
