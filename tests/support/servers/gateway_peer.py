"""A peer that speaks the API: it takes each box for the entity, less its middle, in every form."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

LOW_RES = np.linspace(-3, 3, 64, dtype="<f4").reshape(8, 8)
CLASSES = ("nucleus", "cell")
ODD_TILE = 7
WARNING = "tile_size: got tiles of 7 pixels, expected tiles of 96; leave it out"


def entity(box: pb.Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The box without its pixel at (x0 + 1, y0 + 1)."""
    mask = np.zeros(size, bool)
    x0, y0, x1, y1 = (int(value) for value in (box.x0, box.y0, box.x1, box.y1))
    mask[y0:y1, x0:x1] = True
    mask[y0 + 1, x0 + 1] = False
    return mask


class Peer(pb_grpc.SegmentationServicer):
    """Answers, and keeps the requests and the parents of their traces.

    `meet` lets so many come before it answers any.
    """

    def __init__(self) -> None:
        self.meet = threading.Barrier(1)
        self.requests: list[pb.SegmentRequest] = []
        self.images: dict[str, bytes] = {}
        self.parents: list[str] = []
        self.classes = CLASSES
        self.model = pb.Model(
            name="segment",
            version="7",
            size="vit_t",
            image_size=256,
            low_res_size=8,
            digest="d" * 64,
            trained_model="t" * 64,
            mask_prompts=True,
            window=96,
            spread=1.5,
            calibrates=True,
        )

    def Segment(self, request: pb.SegmentRequest, context: object) -> pb.SegmentResponse:  # noqa: N802
        self.requests.append(request)
        self.parents += traceparents(context)
        self.meet.wait(120)
        code, message = self.refusal(request)
        if code:
            context.abort(code, message)  # type: ignore[attr-defined]
        return self.answer(request)

    def SegmentStream(  # noqa: N802
        self, requests: Iterator[pb.SegmentRequest], context: object
    ) -> Iterator[pb.SegmentStreamResponse]:
        self.parents += traceparents(context)
        for request in requests:
            self.requests.append(request)
            answer = pb.SegmentStreamResponse(request_id=request.request_id)
            code, message = self.refusal(request)
            if request.request_id == "break":
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")  # type: ignore[attr-defined]
            if code:
                answer.failure.CopyFrom(pb.Failure(code=code.value[0], message=message))
            else:
                answer.response.CopyFrom(self.answer(request))
            yield answer

    def refusal(self, request: pb.SegmentRequest) -> tuple[grpc.StatusCode | None, str]:
        if request.image_id and request.image_id not in self.images:
            return grpc.StatusCode.NOT_FOUND, "image_id: got an unknown one, expected x; send it"
        if request.WhichOneof("image") is None:
            return grpc.StatusCode.INVALID_ARGUMENT, "image: got none, expected one; send it"
        if request.image_bytes == b"broken":
            return grpc.StatusCode.INVALID_ARGUMENT, "image_bytes: got text, expected x; send a PNG"
        return None, ""

    def answer(self, request: pb.SegmentRequest) -> pb.SegmentResponse:
        content = request.image_bytes or self.images[request.image_id]
        image_id = hashlib.sha256(content).hexdigest()
        cached = image_id in self.images
        self.images[image_id] = content
        with Image.open(io.BytesIO(content)) as image:
            size = image.height, image.width
        boxes = [prompt.box for prompt in request.prompts]
        if request.classes or request.HasField("everything"):
            boxes = [pb.Box(x0=1, y0=1, x1=6, y1=5), pb.Box(x0=8, y0=2, x1=12, y1=9)]
        labels = [*request.classes, *[""] * len(boxes)]
        return pb.SegmentResponse(
            request_id=request.request_id,
            original_size=pb.Size(height=size[0], width=size[1]),
            results=[
                pb.PromptResult(
                    masks=[mask_message(box, size, request, label)],
                    found_at=None if request.prompts else pb.Point(x=box.x0, y=box.y0),
                    calibrated_prompt=calibrated(request, index),
                )
                for index, (box, label) in enumerate(zip(boxes, labels, strict=False))
            ],
            model_name="segment",
            model_version="7",
            image_id=image_id,
            cached=cached,
            warnings=[WARNING] if request.tile_size == ODD_TILE else [],
        )

    def ListClasses(  # noqa: N802
        self, request: pb.ListClassesRequest, context: object
    ) -> pb.ListClassesResponse:
        return pb.ListClassesResponse(classes=[pb.ClassInfo(name=name) for name in self.classes])

    def Describe(self, request: pb.DescribeRequest, context: object) -> pb.DescribeResponse:  # noqa: N802
        return pb.DescribeResponse(
            model=self.model,
            limits=pb.Limits(max_clicks=1024, stream_window=4, max_seconds=60.5),
            mask_formats=[0, 1, 2, 3],
            everything=pb.Everything(points_per_side=32, min_iou=0.5),
            class_search=pb.ClassSearch(threshold=0.25),
            tile_overlap=0.125,
            classes=self.classes,
        )


def traceparents(context: Any) -> list[str]:
    return [value for name, value in context.invocation_metadata() if name == "traceparent"]


def calibrated(request: pb.SegmentRequest, index: int) -> pb.Prompt | None:
    """A prompt with its points and its box a pixel to the right, or as it was given."""
    if not request.prompts:
        return None
    prompt, step = request.prompts[index], 0 if request.without_calibration else 1
    box = prompt.box
    return pb.Prompt(
        points=[pb.Point(x=p.x + step, y=p.y, background=p.background) for p in prompt.points],
        box=pb.Box(x0=box.x0 + step, y0=box.y0, x1=box.x1 + step, y1=box.y1)
        if prompt.HasField("box")
        else None,
    )


def mask_message(
    box: pb.Box, size: tuple[int, int], request: pb.SegmentRequest, label: str
) -> pb.Mask:
    array = entity(box, size)
    mask = pb.Mask(score=0.75, box=box, area=int(array.sum()), stability=0.5, label=label)
    if request.mask_format == pb.MASK_FORMAT_COCO_RLE:
        counts = coco_mask.encode(np.asfortranarray(array, np.uint8))["counts"].decode()
        mask.coco_rle.CopyFrom(
            pb.CocoRle(size=pb.Size(height=size[0], width=size[1]), counts=counts)
        )
    elif request.mask_format == pb.MASK_FORMAT_PNG:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        mask.png = file.getvalue()
    elif request.mask_format == pb.MASK_FORMAT_POLYGONS:
        x, y = box.x0 + 1, box.y0 + 1
        outer = [box.x0, box.y0, box.x1, box.y0, box.x1, box.y1, box.x0, box.y1]
        hole = [x, y, x, y + 1, x + 1, y + 1, x + 1, y]
        mask.polygons.rings.extend([pb.Ring(coordinates=outer), pb.Ring(coordinates=hole)])
    if request.return_low_res_masks:
        mask.low_res_mask.logits = LOW_RES.tobytes()
        if request.tile_size:
            mask.low_res_mask.part.CopyFrom(pb.Box(x1=request.tile_size, y1=request.tile_size))
    return mask


@contextmanager
def peer_gateway(
    peer: Peer | None = None, address: str = "127.0.0.1:0", *, is_healthy: bool = True
) -> Iterator[tuple[str, Peer]]:
    """Its address, and the peer."""
    peer = peer or Peer()
    server = grpc.server(ThreadPoolExecutor(8))
    pb_grpc.add_SegmentationServicer_to_server(peer, server)
    servicer = health.HealthServicer()
    status = health_pb2.HealthCheckResponse
    servicer.set("", status.SERVING if is_healthy else status.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}", peer
    finally:
        peer.meet.abort()
        server.stop(None).wait()
