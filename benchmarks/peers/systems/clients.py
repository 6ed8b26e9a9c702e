"""Clients of the served systems: LitServe over HTTP, Triton alone and the gateway over gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from select import select
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from benchmarks.peers.load.drive import Send
from benchmarks.peers.load.workloads import Request
from benchmarks.peers.systems.segmenters import MIN_IOU, MIN_STABILITY, prompt_arrays
from benchmarks.peers.systems.wire import masks_from_json, request_to_json
from benchmarks.serving.load import APART
from cpcsam.client._protobuf import segment_request
from cpcsam.client.requests import Everything, Question
from cpcsam.contract import INPUT_SIZE, POINT_COORDS, POINT_LABELS, MaskSelection
from cpcsam.entry_points import (
    DECODE,
    IMAGE_BYTES,
    IMAGE_KEY,
    MASK_SELECTION,
    MASKS_RLE,
    ORIGINAL_SIZE,
    SEGMENT,
)
from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.inference.prompt_batches import PromptChunk, chunk_tensors

__all__ = ["TritonCaller", "gateway", "litserve", "protobuf_of"]

TIMEOUT_S: Final = 600.0
HTTP_OK: Final = 200
SIZES: Final = (INPUT_SIZE.name, ORIGINAL_SIZE.name)


@contextmanager
def litserve(port: int) -> Iterator[Send]:
    """Connect to the app of `litserve_app` on loopback, and keep the connection.

    It is opened anew after a failure, and where the server has closed it between two requests.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def send(request: Request) -> Sequence[bytes]:
        body = json.dumps(request_to_json(request))
        # Between two requests nothing but a connection's end can be read.
        if connection.sock and select([connection.sock], [], [], 0)[0]:
            connection.close()
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException):
            connection.close()
            raise
        if response.status != HTTP_OK:
            raise HTTPException(f"{response.status}: {content[:200].decode(errors='replace')}")
        return masks_from_json(json.loads(content)["masks"])

    try:
        yield send
    finally:
        connection.close()


def protobuf_of(request: Request) -> pb.SegmentRequest:
    """Return a request as the gateway's client sends it; images are taken whole, as by peers."""
    grid = None
    if request.grid:
        grid = Everything(
            points_per_side=request.grid, min_iou=MIN_IOU, min_stability=MIN_STABILITY
        )
    question = Question(
        request.image,
        request.prompts,
        mask_selection=MaskSelection.SINGLE,
        everything=grid,
        tile_size=0,
    )
    message = segment_request(question)
    if request.known:
        message.image_id = request.image_id
    else:
        message.image_bytes = request.image
    return message


@contextmanager
def gateway(address: str) -> Iterator[Send]:
    """Connect to the gateway by a socket of its own, as another client would."""
    with grpc.insecure_channel(address, options=APART) as channel:
        stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]

        def send(request: Request) -> Sequence[bytes]:
            try:
                response = stub.Segment(protobuf_of(request), timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                failure = ServingError(error.details())
                failure.status = error.code().name  # type: ignore[attr-defined]
                raise failure from error
            return [result.masks[0].coco_rle.counts.encode() for result in response.results]

        yield send


@dataclass
class TritonCaller:
    """Callers of Triton without the gateway, who name known images by their keys.

    Attributes:
        address: HOST:PORT of Triton's gRPC.
    """

    address: str
    _known: dict[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)

    @contextmanager
    def connect(self) -> Iterator[Send]:
        """Connect by a socket of its own."""
        with InferenceServerClient(self.address, channel_args=list(APART)) as client:
            yield lambda request: self._send(client, request)

    def _send(self, client: InferenceServerClient, request: Request) -> Sequence[bytes]:
        if request.grid:
            raise ServingError.of(
                "Triton", got="a grid", expected="prompts", fix="ask the gateway for everything"
            )
        chunks = chunk_tensors(*prompt_arrays(request))
        key = {IMAGE_KEY.name: np.array([[request.image_id.encode()]], object)}
        masks: list[bytes] = []
        if request.image_id not in self._known:
            chunk, *chunks = chunks
            image = {IMAGE_BYTES.name: np.array([[request.image]], object)}
            inputs = {**key, **image, **_prompts(chunk)}
            result = _infer(client, SEGMENT.name, inputs, [MASKS_RLE.name, *SIZES])
            self._known[request.image_id] = {name: result[name] for name in SIZES}
            masks = _masks(chunk, result)
        for chunk in chunks:
            inputs = {**key, **self._known[request.image_id], **_prompts(chunk)}
            masks += _masks(chunk, _infer(client, DECODE.name, inputs, [MASKS_RLE.name]))
        return masks


def _prompts(chunk: PromptChunk) -> dict[str, NDArray[Any]]:
    return {
        POINT_COORDS.name: chunk.point_coords,
        POINT_LABELS.name: chunk.point_labels,
        MASK_SELECTION.name: np.zeros((1, 1), np.int32),
    }


def _masks(chunk: PromptChunk, result: Mapping[str, NDArray[Any]]) -> list[bytes]:
    return [bytes(counts) for counts in result[MASKS_RLE.name][0, : chunk.count, 0]]


def _infer(
    client: InferenceServerClient,
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
) -> dict[str, NDArray[Any]]:
    tensors = []
    for name, array in inputs.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    wanted = [InferRequestedOutput(name) for name in outputs]
    result = client.infer(model, tensors, outputs=wanted, client_timeout=TIMEOUT_S)
    return {name: result.as_numpy(name) for name in outputs}
