from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import BadStatusLine, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from benchmarks.peers.load.workloads import BOX, CLICK, EVERYTHING, Request, Workload, requests_of
from benchmarks.peers.systems.clients import litserve, protobuf_of
from benchmarks.peers.systems.fast_sam import fast_sam
from benchmarks.peers.systems.official import OfficialSegmenter
from benchmarks.peers.systems.onnx_segmenter import OnnxSegmenter
from benchmarks.peers.systems.segmenters import Embeddings, prompt_arrays
from benchmarks.peers.systems.wire import (
    masks_from_json,
    masks_to_json,
    request_from_json,
    request_to_json,
)
from cpcsam import CpcSamPredictor
from cpcsam.automatic.rle import rle_from_mask
from cpcsam.errors import ContractError, ServingError
from cpcsam.images.reading import decode_image
from serving.gateway.limits import Limits
from serving.gateway.validation.request import check_request
from tests.support.model_factory import noisy_sam
from tests.support.tiny_models import publish_tiny_graphs

CLICKS = Workload("clicks", CLICK, 2, prompts=3, side=96)
BOXES = Workload("boxes", BOX, 2, new=False, prompts=18, side=96)
GRID = Workload("grid", EVERYTHING, prompts=4, side=96)


def seen(request: Request) -> Request:
    """The same request about an image that the system has not seen."""
    return Request(request.image, request.size, request.prompts, request.grid)


@pytest.mark.parametrize("workload", [CLICKS, BOXES, GRID], ids=lambda workload: workload.name)
def test_json_keeps_a_request_and_names_known_images_by_their_id(workload: Workload) -> None:
    for request in requests_of(workload):
        text = json.dumps(request_to_json(request))
        read = request_from_json(json.loads(text))
        assert (read.prompts, read.grid, read.size) == (
            request.prompts,
            request.grid,
            request.size,
        )
        assert (read.image_id, read.known) == (request.image_id, request.known)
        assert read.image == (b"" if request.known else request.image)
        assert request.known == (len(text) < len(request.image))


@pytest.mark.parametrize(
    "broken", [{"image": "?"}, {"size": [1]}, {"prompts": [{"points": [], "labels": []}]}]
)
def test_broken_json_is_refused(broken: dict[str, object]) -> None:
    body = request_to_json(requests_of(CLICKS)[0])
    with pytest.raises(ContractError, match="request: got"):
        request_from_json({**body, **broken})


def test_masks_survive_json_as_arrays_and_as_run_lengths() -> None:
    mask = np.tri(5, dtype=bool)
    sent = json.dumps(masks_to_json([mask, rle_from_mask(mask)]))
    assert masks_from_json(json.loads(sent)) == [rle_from_mask(mask)] * 2


@pytest.mark.parametrize("workload", [CLICKS, BOXES, GRID], ids=lambda workload: workload.name)
def test_gateway_accepts_the_requests_and_takes_images_whole(workload: Workload) -> None:
    for request in requests_of(workload):
        message = protobuf_of(request)
        check_request(message, Limits())
        assert message.HasField("tile_size") and message.tile_size == 0
        assert message.WhichOneof("image") == ("image_id" if request.known else "image_bytes")
        assert len(message.prompts) == len(request.prompts)
        assert message.everything.points_per_side == request.grid


class Peer(BaseHTTPRequestHandler):
    """Answers requests as `answers` tell: by masks, a refusal, noise, or masks and the end."""

    protocol_version = "HTTP/1.1"
    answers: list[str]
    connections: int
    ended: threading.Semaphore

    def setup(self) -> None:
        super().setup()
        Peer.connections += 1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.answers.pop(0)
        if answer == "noise":
            self.wfile.write(b"noise\r\n\r\n")
        else:
            body = b'{"masks": []}'
            self.send_response(503 if answer == "refusal" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        self.close_connection = answer in ("noise", "masks and the end")

    def log_message(self, *_: object) -> None:
        pass


class PeerServer(ThreadingHTTPServer):
    def shutdown_request(self, request: object) -> None:
        super().shutdown_request(request)
        Peer.ended.release()


@contextmanager
def peer(*answers: str) -> Iterator[int]:
    Peer.answers, Peer.connections, Peer.ended = [*answers], 0, threading.Semaphore(0)
    with PeerServer(("127.0.0.1", 0), Peer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_litserve_client_opens_what_the_server_has_closed_between_two_requests() -> None:
    (request,) = requests_of(CLICKS, 1)
    with peer("masks", "masks and the end", "masks") as port, litserve(port) as send:
        assert send(request) == send(request) == []
        assert Peer.connections == 1
        assert Peer.ended.acquire(timeout=30)
        assert send(request) == []
        assert Peer.connections == 2


def test_litserve_client_fails_for_an_unanswered_request_and_not_for_the_next() -> None:
    (request,) = requests_of(CLICKS, 1)
    with peer("noise", "masks", "refusal", "masks") as port, litserve(port) as send:
        for failure in (BadStatusLine, HTTPException):
            with pytest.raises(failure):
                send(request)
            assert send(request) == []


def test_embeddings_encode_an_image_once_and_evict_the_least_recently_used() -> None:
    encoded: list[bytes] = []
    embeddings = Embeddings(lambda image: encoded.append(image) or len(encoded), size=2)
    first, second, third = requests_of(Workload("new", count=3, side=64))
    assert [embeddings.of(one) for one in (first, second, first, third, first)] == [1, 2, 1, 3, 1]
    known = Request(second.image, second.size, second.prompts, known=True)
    with pytest.raises(ServingError, match="image_id"):
        embeddings.of(known)
    assert len(encoded) == 3


def test_official_segmenter_answers_as_sam_predictor_prompt_by_prompt() -> None:
    sam = noisy_sam().sam
    segmenter, predictor = OfficialSegmenter(sam), SamPredictor(sam)
    for workload in (CLICKS, BOXES):
        request = seen(requests_of(workload, 1)[0])
        masks = segmenter.segment(request)
        predictor.set_image(decode_image(request.image))
        for mask, coords, prompt in zip(
            masks, prompt_arrays(request)[0], request.prompts, strict=True
        ):
            boxed = prompt.box is not None
            expected, _, _ = predictor.predict(
                None if boxed else coords,
                None if boxed else np.ones(1),
                np.array(prompt.box) if boxed else None,
                multimask_output=False,
            )
            assert (mask == expected[0]).mean() > 0.999


def test_official_segmenter_returns_to_known_images() -> None:
    segmenter = OfficialSegmenter(noisy_sam().sam)
    first, second = requests_of(CLICKS)
    expected = [segmenter.segment(request) for request in (first, second)]
    again = [
        segmenter.segment(Request(one.image, one.size, one.prompts, known=True))
        for one in (first, second)
    ]
    assert np.array_equal(expected, again)


def test_onnx_segmenter_answers_as_the_predictor_prompt_by_prompt(tmp_path: Path) -> None:
    publish_tiny_graphs(tmp_path / "onnx")
    segmenter = OnnxSegmenter(tmp_path / "onnx")
    predictor = CpcSamPredictor.from_pretrained(tmp_path / "onnx")
    for workload in (CLICKS, BOXES):
        request = seen(requests_of(workload, 1)[0])
        masks = segmenter.segment(request)
        predictor.set_image(decode_image(request.image), tile_size=0)
        for mask, prompt in zip(masks, request.prompts, strict=True):
            expected, _, _ = predictor.predict(
                prompt.point_coords or None,
                prompt.point_labels or None,
                prompt.box,
                multimask_output=False,
            )
            assert (mask == expected[0]).mean() > 0.999


def test_fast_form_embeds_as_official_sam_within_bfloat16() -> None:
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        expected = noisy_sam().sam.image_encoder(image)
        fast = fast_sam(noisy_sam().sam, torch.device("cpu"), compiled=False)
        found = fast.image_encoder(image)
    assert found.dtype == torch.float32 and fast.image_encoder.img_size == 256
    difference = float((found - expected).norm() / expected.norm())
    assert 0 < difference < 0.02
