"""Calls to Triton: the entry points `segment` and `decode`, readiness and description.

Deadlines go with each request, for queues whose policy heeds them. Breaking a call off reaches
Triton only where that is safe: in versions before `CANCELLABLE_SINCE` a race in its gRPC frontend
can end the whole server with a segmentation fault, so calls in work there finish unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cpcsam.contract import (
    DECODE,
    IMAGE_BYTES,
    IMAGE_EMBEDDINGS,
    IMAGE_ENCODER,
    INPUT_SIZE,
    MASK_SELECTION,
    MASKS_RLE,
    ORIGINAL_SIZE,
    POINT_COORDS,
    POINT_LABELS,
    SCORES,
    SEGMENT,
)
from cpcsam.errors import ServingError
from serving.chunks import PromptChunk
from serving.lasting_calls import LastingCalls
from serving.triton_errors import error_of_triton

__all__ = [
    "ChunkMasks",
    "Encoded",
    "FirstAnswer",
    "TritonClient",
    "TritonDescription",
    "is_cancellable",
]

ANSWERS: Final = (MASKS_RLE.name, SCORES.name)
PROBE_TIMEOUT_S: Final = 2.0
CLOSE_TIMEOUT_S: Final = 10.0
CANCELLABLE_SINCE: Final = (2, 58)
UNLIMITED: Final = 2**31 - 1
CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", UNLIMITED),
    ("grpc.max_receive_message_length", UNLIMITED),
    # A Triton that comes back is found within a second rather than within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True)
class ChunkMasks:
    """Answer to one chunk: for each real prompt its M masks.

    Attributes:
        counts: (P, M) COCO run lengths, as bytes.
        scores: (P, M) float32, predicted IoU.
        model_version: of the entry point that answered.
    """

    counts: NDArray[np.object_]
    scores: NDArray[np.float32]
    model_version: str


@dataclass(frozen=True)
class Encoded:
    """An encoded image, as `segment` returns it and `decode` takes it; batch first."""

    image_embeddings: NDArray[Any]
    input_size: NDArray[np.int32]
    original_size: NDArray[np.int32]


@dataclass(frozen=True)
class FirstAnswer:
    """What `segment` answers.

    Attributes:
        masks: of the first chunk.
        original_size: (H, W) of the image as it was decoded; the masks have this size.
        encoded: the encoded image, if it was asked for.
    """

    masks: ChunkMasks
    original_size: tuple[int, int]
    encoded: Encoded | None


@dataclass(frozen=True)
class TritonDescription:
    """What Triton says of itself and of the model.

    Attributes:
        triton_version: of the server.
        model_version: of the entry point `segment`.
        model_size: `vit_t`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the encoder's input.
    """

    triton_version: str
    model_version: str
    model_size: str
    image_size: int


class TritonClient:
    """One connection to a Triton server; to be made and used inside one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = InferenceServerClient(address, channel_args=list(CHANNEL_OPTIONS))
        self._lasting = LastingCalls()
        self._cancellable: bool | None = None

    @property
    def abandoned(self) -> int:
        """Calls that Triton still works on though nobody waits for them."""
        return self._lasting.abandoned

    async def close(self) -> None:
        """Close the connection once the calls in work have ended."""
        await self._lasting.finish(CLOSE_TIMEOUT_S)
        await self._client.close()

    async def ready(self) -> bool:
        """Whether the server answers and has the entry point `segment` loaded."""
        try:
            ready = await self._client.is_model_ready(SEGMENT.name, client_timeout=PROBE_TIMEOUT_S)
        except InferenceServerException:
            ready = False
        if not ready:
            self._cancellable = None  # another version may come back
        return bool(ready)

    async def describe(self, timeout_s: float) -> TritonDescription:
        """Ask for versions and sizes.

        Raises:
            ServingError: or one of its subclasses, for whatever Triton answers instead.
        """
        try:
            server, segment, encoder = await asyncio.gather(
                self._client.get_server_metadata(client_timeout=timeout_s),
                self._client.get_model_metadata(SEGMENT.name, client_timeout=timeout_s),
                self._client.get_model_config(IMAGE_ENCODER.name, client_timeout=timeout_s),
            )
        except InferenceServerException as error:
            raise error_of_triton(error, self._address) from error
        return TritonDescription(
            triton_version=server.version,
            model_version=segment.versions[-1] if segment.versions else "",
            model_size=encoder.config.parameters["model_size"].string_value,
            image_size=encoder.config.input[0].dims[-1],
        )

    async def segment(
        self,
        image_bytes: bytes,
        chunk: PromptChunk,
        mask_selection: int,
        *,
        with_embeddings: bool,
        request_id: str,
        timeout_s: float,
    ) -> FirstAnswer:
        """Encode an image and answer a chunk of prompts.

        Args:
            image_bytes: the encoded image.
            chunk: padded prompts in the original image's frame.
            mask_selection: a value of `MaskSelection`.
            with_embeddings: also return what `decode` needs for further chunks.
            request_id: shown in Triton's log.
            timeout_s: seconds until the answer is of no use.

        Raises:
            ContractError: the image cannot be decoded.
            ServingError: or one of its subclasses, for whatever else Triton answers.
        """
        inputs = [
            _input(IMAGE_BYTES.name, np.array([[image_bytes]], dtype=np.object_)),
            *_prompt_inputs(chunk, mask_selection),
        ]
        outputs = [*ANSWERS, ORIGINAL_SIZE.name]
        if with_embeddings:
            outputs += [IMAGE_EMBEDDINGS.name, INPUT_SIZE.name]
        result = await self._infer(SEGMENT.name, inputs, outputs, request_id, timeout_s)
        original_size = _output(result, ORIGINAL_SIZE.name)
        height, width = (int(side) for side in original_size[0])
        encoded = None
        if with_embeddings:
            encoded = Encoded(
                _output(result, IMAGE_EMBEDDINGS.name),
                _output(result, INPUT_SIZE.name),
                original_size,
            )
        return FirstAnswer(_masks(result, chunk), (height, width), encoded)

    async def decode(
        self,
        encoded: Encoded,
        chunk: PromptChunk,
        mask_selection: int,
        *,
        request_id: str,
        timeout_s: float,
    ) -> ChunkMasks:
        """Answer a further chunk of prompts of an encoded image; see `segment`."""
        inputs = [
            _input(IMAGE_EMBEDDINGS.name, encoded.image_embeddings),
            _input(INPUT_SIZE.name, encoded.input_size),
            _input(ORIGINAL_SIZE.name, encoded.original_size),
            *_prompt_inputs(chunk, mask_selection),
        ]
        return _masks(await self._infer(DECODE.name, inputs, ANSWERS, request_id, timeout_s), chunk)

    async def _infer(
        self,
        model: str,
        inputs: list[InferInput],
        outputs: Sequence[str],
        request_id: str,
        timeout_s: float,
    ) -> InferResult:
        try:
            if self._cancellable is None:
                server = await self._client.get_server_metadata(client_timeout=timeout_s)
                self._cancellable = is_cancellable(server.version)
            call = self._client.infer(
                model,
                inputs,
                outputs=[InferRequestedOutput(name) for name in outputs],
                request_id=request_id,
                timeout=max(1, round(timeout_s * 1e6)),  # in Triton's queues, microseconds
                client_timeout=timeout_s if self._cancellable else None,
            )
            return await (call if self._cancellable else self._lasting.run(call))
        except InferenceServerException as error:
            raise error_of_triton(error, self._address) from error


def is_cancellable(version: str) -> bool:
    """Whether a Triton of this version survives that calls are broken off."""
    numbers = version.split(".")[:2]
    return all(map(str.isdigit, numbers)) and tuple(map(int, numbers)) >= CANCELLABLE_SINCE


def _prompt_inputs(chunk: PromptChunk, mask_selection: int) -> list[InferInput]:
    return [
        _input(POINT_COORDS.name, chunk.point_coords),
        _input(POINT_LABELS.name, chunk.point_labels),
        _input(MASK_SELECTION.name, np.array([[mask_selection]], np.int32)),
    ]


def _input(name: str, array: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _output(result: InferResult, name: str) -> NDArray[Any]:
    array: NDArray[Any] | None = result.as_numpy(name)
    if array is None:
        raise ServingError.of(
            name,
            got="no such output from Triton",
            expected="the outputs of the tensor contract",
            fix="make the model repository anew with this version",
        )
    return array


def _masks(result: InferResult, chunk: PromptChunk) -> ChunkMasks:
    """Drop the batch dimension and the padding prompts."""
    return ChunkMasks(
        counts=_output(result, MASKS_RLE.name)[0, : chunk.count],
        scores=_output(result, SCORES.name)[0, : chunk.count],
        model_version=result.get_response().model_version,
    )
