"""Requests and results of both clients, against a peer that speaks the API over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cpcsam.client import (
    ClassSearch,
    Everything,
    LowResMask,
    MaskFormat,
    Prompt,
    SegmentationClient,
    SegmentRequest,
    encode_image,
)
from cpcsam.client._protobuf import add_class_request
from cpcsam.client.async_client import AsyncSegmentationClient
from cpcsam.client.requests import Example
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.grpc_errors import DeadlineError, NotFoundError, UnavailableError
from cpcsam.v1 import segmentation_pb2 as pb
from tests.support.servers.gateway_peer import (
    CLASSES,
    LOW_RES,
    ODD_TILE,
    WARNING,
    Peer,
    entity,
    peer_gateway,
)

IMAGE = encode_image(np.zeros((12, 16, 3), np.uint8))
BOX = (2.0, 3.0, 9.0, 10.0)
ENTITY = entity(pb.Box(x0=2, y0=3, x1=9, y1=10), (12, 16))
PROMPTS = [Prompt(box=BOX)]

Outcome = SegmentResult | CpcSamError


@pytest.fixture
def gateway() -> Iterator[tuple[str, Peer]]:
    with peer_gateway() as running:
        yield running


@pytest.fixture
def client(gateway: tuple[str, Peer]) -> Iterator[SegmentationClient]:
    with SegmentationClient(gateway[0], timeout_s=30) as connected:
        yield connected


def known_arguments(message: Any) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


@pytest.mark.parametrize("form", list(MaskFormat)[:3])
def test_all_mask_formats_decode_to_the_same_mask(
    client: SegmentationClient, form: MaskFormat
) -> None:
    ((mask,),) = client.segment(IMAGE, PROMPTS, mask_format=form).masks
    assert (bool(mask.counts), bool(mask.png), mask.rings is not None) == (
        form is MaskFormat.COCO_RLE,
        form is MaskFormat.PNG,
        form is MaskFormat.POLYGONS,
    )
    assert mask.array.dtype == np.bool_ and (mask.array == ENTITY).all()
    assert mask.array is mask.array
    assert (coco_mask.decode(mask.rle) == ENTITY).all()
    assert (mask.score, mask.stability, mask.area, mask.box) == (0.75, 0.5, 48, BOX)


def test_mask_without_pixels_raises_contract_error(client: SegmentationClient) -> None:
    ((mask,),) = client.segment(IMAGE, PROMPTS, mask_format=MaskFormat.NONE).masks
    assert mask.area == 48
    for use in ("array", "rle"):
        with pytest.raises(ContractError, match="mask: got no pixels.*ask for another mask_format"):
            getattr(mask, use)


def test_low_res_mask_round_trips_as_mask_input(
    client: SegmentationClient, gateway: tuple[str, Peer]
) -> None:
    ((mask,),) = client.segment(IMAGE, PROMPTS, low_res_masks=True).masks
    assert mask.low_res_mask is not None and mask.low_res_mask.part is None
    assert (mask.low_res_mask.logits == LOW_RES).all()
    assert LowResMask.of_logits(LOW_RES.astype(np.float64)) == mask.low_res_mask
    ((tiled,),) = client.segment(IMAGE, PROMPTS, low_res_masks=True, tile_size=8).masks
    assert tiled.low_res_mask is not None and tiled.low_res_mask.part == (0, 0, 8, 8)
    client.segment(IMAGE, [Prompt(box=BOX, mask_input=tiled.low_res_mask)], tile_size=8)
    sent = gateway[1].requests[-1].prompts[0].mask_input
    assert np.frombuffer(sent.logits, "<f4").tolist() == LOW_RES.ravel().tolist()
    assert (sent.part.x0, sent.part.y0, sent.part.x1, sent.part.y1) == (0, 0, 8, 8)


def test_binary_masks_are_sent_in_the_form_that_they_have(
    client: SegmentationClient, gateway: tuple[str, Peer]
) -> None:
    array = np.zeros((8, 12), np.uint8)
    array[2:5, 3:9] = 7
    rle = coco_mask.encode(np.asfortranarray(array > 0).view(np.uint8))
    text = {**rle, "counts": rle["counts"].decode()}
    client.segment(IMAGE, [Prompt(mask=mask) for mask in (array, array > 0, rle, text, b"png")])
    *runs, png = (prompt.mask for prompt in gateway[1].requests[-1].prompts)
    assert png.png == b"png"
    for mask in runs:
        assert mask.coco_rle.counts == text["counts"]
        assert (mask.coco_rle.size.height, mask.coco_rle.size.width) == (8, 12)
    for wrong in (7, "path.png", np.zeros(3), {"size": [8, 12], "counts": [1, 2]}, {"size": 3}):
        with pytest.raises(ContractError, match="mask: got"):
            client.segment(IMAGE, [Prompt(mask=wrong)])  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"123", bytes(4 * 15)])
def test_low_res_mask_that_is_not_square_is_rejected(content: bytes) -> None:
    with pytest.raises(ContractError, match=r"low_res_mask: got \d+ bytes, expected a square"):
        LowResMask(content)
    with pytest.raises(ContractError, match=r"got shape \(3, 4\)"):
        LowResMask.of_logits(np.zeros((3, 4)))


def test_request_omits_parameters_left_to_the_server(
    client: SegmentationClient, gateway: tuple[str, Peer]
) -> None:
    client.segment(IMAGE, PROMPTS)
    assert known_arguments(gateway[1].requests[-1]) == {"image_bytes", "prompts"}
    everything = Everything(points_per_side=8, min_area=5)
    client.segment(IMAGE, everything=everything, tile_size=100, tile_overlap=0.0)
    sent = gateway[1].requests[-1]
    assert known_arguments(sent) == {"image_id", "everything", "tile_size", "tile_overlap"}
    assert known_arguments(sent.everything) == {"points_per_side", "min_area"}
    client.segment(IMAGE, PROMPTS, tile_size=0)
    assert gateway[1].requests[-1].HasField("tile_size"), "0 asks for the whole image"
    client.segment(IMAGE, everything=Everything())
    assert gateway[1].requests[-1].HasField("everything")
    client.segment(IMAGE, classes=["cell"], class_search=ClassSearch(min_iou=0.0))
    assert known_arguments(gateway[1].requests[-1].class_search) == {"min_iou"}


def test_result_has_the_warnings_of_the_server(client: SegmentationClient) -> None:
    assert client.segment(IMAGE, PROMPTS).warnings == ()
    assert client.segment(IMAGE, PROMPTS, tile_size=ODD_TILE).warnings == (WARNING,)


def test_result_has_the_prompts_as_the_model_took_them(client: SegmentationClient) -> None:
    prompts = [Prompt(((2, 3), (4, 5)), (1, 0), BOX), Prompt.click(1, 2)]
    moved = Prompt(((3, 3), (5, 5)), (1, 0), (3.0, 3.0, 10.0, 10.0)), Prompt.click(2, 2)
    assert client.segment(IMAGE, prompts).calibrated_prompts == moved
    assert client.segment(IMAGE, prompts, calibrate=False).calibrated_prompts == tuple(prompts)
    found = client.segment(IMAGE, everything=Everything())
    assert found.calibrated_prompts == (None, None)


def test_calibrate_false_is_sent(client: SegmentationClient, gateway: tuple[str, Peer]) -> None:
    client.send(SegmentRequest(IMAGE, PROMPTS, calibrate=False))
    assert gateway[1].requests[-1].without_calibration


def test_add_class_sends_a_tile_size_only_if_it_is_given() -> None:
    example = Example(IMAGE, np.ones((12, 16), np.int32))
    silent, whole = (add_class_request("cell", [example], side) for side in (None, 0))
    assert not silent.HasField("tile_size") and whole.HasField("tile_size")


def test_found_entities_have_a_click_and_a_label(client: SegmentationClient) -> None:
    found = client.segment(IMAGE, everything=Everything())
    assert found.prompts == (Prompt.click(1, 1), Prompt.click(8, 2))
    labelled = client.send(SegmentRequest(IMAGE, classes=["cell", "nucleus"]))
    assert [mask.label for _, _, mask in labelled.each()] == ["cell", "nucleus"]


def test_describe_returns_every_field(client: SegmentationClient) -> None:
    description = client.describe()
    assert (description.low_res_size, description.mask_prompts, description.tile_overlap) == (
        8,
        True,
        0.125,
    )
    assert (description.window, description.spread) == (96, 1.5)
    assert description.calibrates
    assert (description.digest, description.trained_model) == ("d" * 64, "t" * 64)
    assert description.mask_formats == tuple(MaskFormat)
    assert description.everything == Everything(points_per_side=32, min_iou=0.5)
    assert description.class_search == ClassSearch(threshold=0.25)
    assert description.limits["stream_window"] == 4 and description.limits["max_seconds"] == 60.5
    assert description.classes == CLASSES


async def outcomes(kind: type[Any], address: str, requests: Any, **options: Any) -> list[Outcome]:
    """All of a stream, by either client."""
    if kind is SegmentationClient:
        with SegmentationClient(address) as waiting:
            return list(waiting.segment_stream(requests, **options))
    async with AsyncSegmentationClient(address) as suspending:
        return [one async for one in suspending.segment_stream(requests, **options)]


KINDS = pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])


@KINDS
async def test_stream_keeps_the_order_and_survives_failed_requests(
    kind: type[Any], gateway: tuple[str, Peer]
) -> None:
    requests = [
        SegmentRequest("nowhere.png", PROMPTS),
        SegmentRequest(IMAGE, PROMPTS, request_id="a"),
        SegmentRequest(b"broken", PROMPTS),
        *(SegmentRequest(IMAGE, PROMPTS * count, request_id=f"n{count}") for count in range(1, 30)),
        SegmentRequest("nowhere.png", PROMPTS),
    ]
    lost, first, broken, *many, last = await outcomes(kind, gateway[0], iter(requests))
    for error in (lost, last):
        assert isinstance(error, ContractError) and "nowhere.png: got No such file" in str(error)
    assert type(broken) is ContractError
    assert str(broken) == "image_bytes: got text, expected x; send a PNG"
    assert isinstance(first, SegmentResult) and first.request_id == "a"
    assert [one.request_id for one in many] == [f"n{count}" for count in range(1, 30)]
    assert [len(one.masks) for one in many] == list(range(1, 30))
    assert (many[3].masks[2][0].array == ENTITY).all() and many[3].prompts == tuple(PROMPTS * 4)


@KINDS
async def test_broken_stream_raises_after_the_received_results(
    kind: type[Any], gateway: tuple[str, Peer]
) -> None:
    requests = [SegmentRequest(IMAGE, PROMPTS), SegmentRequest(IMAGE, PROMPTS, request_id="break")]
    with pytest.raises(UnavailableError, match="got going away, expected a gateway that answers"):
        await outcomes(kind, gateway[0], requests)


@KINDS
async def test_stream_raises_the_error_of_the_requests_iterable(
    kind: type[Any], gateway: tuple[str, Peer]
) -> None:
    def requests() -> Iterator[SegmentRequest]:
        yield SegmentRequest(IMAGE, PROMPTS)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await outcomes(kind, gateway[0], requests())


@KINDS
async def test_stream_past_its_timeout_raises_deadline_error(
    kind: type[Any], gateway: tuple[str, Peer]
) -> None:
    with pytest.raises(DeadlineError, match="expected an answer within 0.001 s"):
        await outcomes(kind, gateway[0], [SegmentRequest(IMAGE, PROMPTS)] * 1000, timeout_s=0.001)


def test_stream_abandoned_early_leaves_the_client_usable(client: SegmentationClient) -> None:
    endless = (SegmentRequest(IMAGE, PROMPTS) for _ in iter(int, 1))
    for outcome in client.segment_stream(endless):
        assert isinstance(outcome, SegmentResult)
        break
    assert client.segment(IMAGE, PROMPTS).masks  # the connection is as good as before


async def test_async_stream_accepts_an_asynchronous_iterable(gateway: tuple[str, Peer]) -> None:
    async def requests() -> AsyncIterator[SegmentRequest]:
        for _ in range(3):
            yield SegmentRequest(IMAGE, PROMPTS)

    got = await outcomes(AsyncSegmentationClient, gateway[0], requests())
    assert [type(one) for one in got] == [SegmentResult] * 3


def test_image_sent_by_a_stream_is_cached(
    client: SegmentationClient, gateway: tuple[str, Peer]
) -> None:
    list(client.segment_stream([SegmentRequest(IMAGE, PROMPTS)]))
    assert client.segment(IMAGE, PROMPTS).cached
    assert gateway[1].requests[-1].image_id and not gateway[1].requests[-1].image_bytes
    gateway[1].images.clear()
    assert not client.segment(IMAGE, PROMPTS).cached
    with pytest.raises(NotFoundError):
        client.segment(type(client.segment(IMAGE, PROMPTS).image_id)("0" * 64), PROMPTS)
