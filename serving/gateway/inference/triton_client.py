"""Asynchronous client of Triton: inference, readiness and metadata of the model.

Each request carries its deadline, after which Triton drops it from its queues. Cancellation of a
call is forwarded only to a Triton that supports it: in versions before `CANCELLABLE_SINCE` a race
in its gRPC frontend can crash the server, so their calls run to completion with the result dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from cpcsam.contract import (
    IMAGE,
    IMAGE_EMBEDDINGS,
    IMAGE_ENCODER,
    INPUT_SIZE,
    MASK_INPUT,
)
from cpcsam.entry_points import (
    DECODE,
    DECODE_WITH_MASK,
    ENCODE,
    IMAGE_BYTES,
    IMAGE_KEY,
    ORIGINAL_SIZE,
    SCORES,
    SEGMENT,
    SELECTED_LOW_RES_MASKS,
)
from cpcsam.images.options import INTENSITY, Intensity
from cpcsam.scale import Scale
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.inference.prompt_batches import PromptChunk
from serving.gateway.inference.stored_keys import StoredKeys
from serving.gateway.inference.triton_requests import (
    bytes_input,
    infer_input,
    mask_outputs,
    prompt_inputs,
)
from serving.gateway.inference.triton_responses import (
    ChunkMasks,
    Encoded,
    encoded_from_result,
    error_from_triton,
    masks_from_result,
    output,
)
from serving.gateway.scheduling.admission import Admission
from serving.gateway.scheduling.concurrency import UncancelledCalls

__all__ = ["TritonClient", "is_cancellable"]

EMBEDDING_OUTPUTS: Final = (IMAGE_EMBEDDINGS.name, INPUT_SIZE.name, ORIGINAL_SIZE.name)
PROBE_TIMEOUT_S: Final = 2.0
CLOSE_TIMEOUT_S: Final = 10.0
CANCELLABLE_SINCE: Final = (2, 58)
UNLIMITED: Final = 2**31 - 1
CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", UNLIMITED),
    ("grpc.max_receive_message_length", UNLIMITED),
    # Reconnects to a restarted Triton within a second rather than two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class TritonClient:
    """Connection to a Triton server; to be made and used inside one event loop.

    Args:
        address: HOST:PORT of its gRPC.
        admission: grants the turns of calls.
    """

    def __init__(self, address: str, admission: Admission) -> None:
        self._address = address
        self._admission = admission
        self._client = InferenceServerClient(address, channel_args=list(CHANNEL_OPTIONS))
        self._uncancelled = UncancelledCalls()
        self._stored = StoredKeys()
        self._model_info: ModelInfo | None = None

    async def close(self) -> None:
        """Wait for running calls, at most `CLOSE_TIMEOUT_S`, and close the connection."""
        await self._uncancelled.finish(CLOSE_TIMEOUT_S)
        await self._client.close()

    async def ready(self) -> bool:
        """Return whether the server answers and has the entry point `segment` loaded."""
        try:
            ready = await self._client.is_model_ready(SEGMENT.name, client_timeout=PROBE_TIMEOUT_S)
        except InferenceServerException:
            ready = False
        if not ready:
            self._model_info = None  # it may return with another version or model
        return bool(ready)

    async def model_info(self, timeout_s: float) -> ModelInfo:
        """Return the metadata of the served model, cached until Triton was not ready.

        Args:
            timeout_s: of each request for it.

        Raises:
            ServingError: or one of its subclasses, as Triton failed.
        """
        if self._model_info is None:
            self._model_info = await self._fetch_model_info(timeout_s)
        return self._model_info

    async def _fetch_model_info(self, timeout_s: float) -> ModelInfo:
        try:
            server, segment, encoder, mask_prompts = await asyncio.gather(
                self._client.get_server_metadata(client_timeout=timeout_s),
                self._client.get_model_metadata(SEGMENT.name, client_timeout=timeout_s),
                self._client.get_model_config(IMAGE_ENCODER.name, client_timeout=timeout_s),
                self._client.is_model_ready(DECODE_WITH_MASK.name, client_timeout=timeout_s),
            )
        except InferenceServerException as error:
            raise error_from_triton(error, self._address) from error
        reported = {key: value.string_value for key, value in encoder.config.parameters.items()}
        digest = reported["model_digest"]
        stated = reported.get(INTENSITY)
        return ModelInfo(
            triton_version=server.version,
            model_version=segment.versions[-1] if segment.versions else "",
            model_size=reported["model_size"],
            image_size=encoder.config.input[0].dims[-1],
            model_digest=digest,
            trained_model=reported["trained_model"] or digest,
            mask_prompts=bool(mask_prompts),
            scale=Scale(int(reported["window"]) or None, float(reported["spread"]))
            if "spread" in reported
            else None,
            intensity=Intensity.parse(stated) if stated else Intensity(),
        )

    async def segment(
        self,
        key: bytes,
        image_bytes: bytes,
        chunk: PromptChunk,
        mask_selection: int,
        context: RequestContext,
        *,
        low_res: bool = False,
    ) -> tuple[ChunkMasks, Encoded]:
        """Encode an image and decode a chunk of prompts without masks, in one call.

        Args:
            key: name of the embedding in Triton.
            image_bytes: the image file.
            chunk: padded prompts in the original image's frame.
            mask_selection: a value of `MaskSelection`.
            context: of the request.
            low_res: also return the logits.

        Returns:
            The masks, and the embedding for further chunks.

        Raises:
            ContractError: the image cannot be decoded.
            ServingError: or one of its subclasses, as Triton failed.
        """
        inputs = [
            bytes_input(IMAGE_BYTES.name, image_bytes),
            bytes_input(IMAGE_KEY.name, key),
            *prompt_inputs(chunk, mask_selection),
        ]
        outputs = (*mask_outputs(low_res), *EMBEDDING_OUTPUTS)
        result = await self._infer(SEGMENT.name, inputs, outputs, context)
        self._stored.add(key)
        return masks_from_result(result, chunk, low_res), encoded_from_result(result, key)

    async def decode(
        self,
        encoded: Encoded,
        chunk: PromptChunk,
        mask_selection: int,
        context: RequestContext,
        *,
        low_res: bool = False,
        thresholds: Sequence[float] | None = None,
    ) -> ChunkMasks:
        """Decode a chunk of prompts, with masks or without, of an encoded image; see `segment`.

        Masks below the thresholds, `mask_thresholds` of the contract, are empty.
        """
        inputs = prompt_inputs(chunk, mask_selection, thresholds)
        result = await self._decode(encoded, chunk, inputs, mask_outputs(low_res), context)
        return masks_from_result(result, chunk, low_res)

    async def decode_logits(
        self, encoded: Encoded, chunk: PromptChunk, mask_selection: int, context: RequestContext
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode a chunk of prompts to low-resolution logits only.

        Returns:
            low_res_masks (P, M, 4G, 4G) float32 logits and scores (P, M) float32, predicted IoU.
        """
        outputs = (SELECTED_LOW_RES_MASKS.name, SCORES.name)
        inputs = prompt_inputs(chunk, mask_selection)
        result = await self._decode(encoded, chunk, inputs, outputs, context)
        masks, scores = (output(result, name)[0, : chunk.count] for name in outputs)
        return masks, scores

    async def encode(self, key: bytes, image_bytes: bytes, context: RequestContext) -> Encoded:
        """Encode an image file; see `segment`."""
        inputs = [bytes_input(IMAGE_BYTES.name, image_bytes)]
        result = await self._infer(ENCODE.name, inputs, EMBEDDING_OUTPUTS, context)
        return encoded_from_result(result, key)

    async def encode_frame(
        self, image: NDArray[np.uint8], input_size: NDArray[np.int32], context: RequestContext
    ) -> NDArray[Any]:
        """Encode an image in the encoder's frame.

        Args:
            image: (1, 3, S, S) uint8.
            input_size: (1, 2) int32, (H, W) without the padding.
            context: of the request.
        """
        inputs = [infer_input(IMAGE.name, image), infer_input(INPUT_SIZE.name, input_size)]
        outputs = (IMAGE_EMBEDDINGS.name,)
        return output(await self._infer(IMAGE_ENCODER.name, inputs, outputs, context), outputs[0])

    async def _decode(
        self,
        encoded: Encoded,
        chunk: PromptChunk,
        prompts: Sequence[InferInput],
        outputs: Sequence[str],
        context: RequestContext,
    ) -> InferResult:
        """Decode by the embedding's key, or send the embedding if Triton does not keep it."""
        inputs = [
            bytes_input(IMAGE_KEY.name, encoded.key),
            infer_input(INPUT_SIZE.name, encoded.input_size),
            infer_input(ORIGINAL_SIZE.name, encoded.original_size),
            *prompts,
        ]
        model = DECODE
        if chunk.mask_input is not None:
            model = DECODE_WITH_MASK
            inputs.append(infer_input(MASK_INPUT.name, chunk.mask_input))

        async def send() -> InferResult:
            embedding = infer_input(IMAGE_EMBEDDINGS.name, encoded.image_embeddings)
            return await self._infer(model.name, [*inputs, embedding], outputs, context)

        return await self._stored.call(
            encoded.key, lambda: self._infer(model.name, inputs, outputs, context), send
        )

    async def _infer(
        self, model: str, inputs: list[InferInput], outputs: Sequence[str], context: RequestContext
    ) -> InferResult:
        cancellable = is_cancellable((await context.model()).triton_version)
        release = await self._admission.acquire(context.permit)

        async def infer() -> InferResult:
            try:
                return await self._client.infer(
                    model,
                    inputs,
                    outputs=[InferRequestedOutput(name) for name in outputs],
                    request_id=context.request_id,
                    # A client timeout is a cancellation too.
                    client_timeout=context.remaining_s if cancellable else None,
                )
            except InferenceServerException as error:
                raise error_from_triton(error, self._address) from error
            finally:
                release()  # only when Triton is done with the call

        return await (infer() if cancellable else self._uncancelled.run(infer()))


def is_cancellable(version: str) -> bool:
    """Return whether Triton of this version survives the cancellation of calls."""
    numbers = version.split(".")[:2]
    return all(map(str.isdigit, numbers)) and tuple(map(int, numbers)) >= CANCELLABLE_SINCE
