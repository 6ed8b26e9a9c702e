"""Asynchronous client of one Triton or several: inference, health and metadata of the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult

from cpcsam import tracing
from cpcsam.contract import IMAGE, IMAGE_EMBEDDINGS, IMAGE_ENCODER, INPUT_SIZE, MASK_INPUT
from cpcsam.entry_points import (
    CLIP,
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
from cpcsam.grpc_errors import UnavailableError
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.inference.addresses import TritonAddresses
from serving.gateway.inference.call_kinds import kind_of
from serving.gateway.inference.prompt_batches import PromptChunk
from serving.gateway.inference.replica import Replica, is_cancellable
from serving.gateway.inference.replicas import Replicas
from serving.gateway.inference.step_times import call_phases, times_from_result
from serving.gateway.inference.triton_requests import (
    InputTensor,
    bytes_input,
    infer_input,
    mask_outputs,
    message,
    prompt_inputs,
)
from serving.gateway.inference.triton_responses import (
    ChunkMasks,
    Encoded,
    encoded_from_result,
    masks_from_result,
    output,
)
from serving.gateway.metrics import Metrics
from serving.gateway.phases import QUEUE, PhaseClock
from serving.gateway.scheduling.admission import Admission
from serving.gateway.scheduling.concurrency import UncancelledCalls
from serving.gateway.scheduling.executors import Executors

__all__ = ["TritonClient"]

EMBEDDING_OUTPUTS: Final = (IMAGE_EMBEDDINGS.name, INPUT_SIZE.name, ORIGINAL_SIZE.name)
CLOSE_TIMEOUT_S: Final = 10.0
LARGE: Final = 1 << 20
"""Bytes of inputs that are copied in a thread."""


class TritonClient:
    """Inference of one gateway; to be made and used inside one event loop.

    Args:
        addresses: HOST:PORT of Triton's gRPC, several separated by commas, dns:///NAME:PORT or
            file:///PATH.
        admission: grants the turns of calls.
        metrics: shows the state of each Triton.
        executors: build large messages.

    Attributes:
        replicas: the Tritons.

    Raises:
        ConfigError: the addresses cannot be understood.
    """

    def __init__(
        self, addresses: str, admission: Admission, metrics: Metrics, executors: Executors
    ) -> None:
        self.replicas = Replicas(TritonAddresses.parse(addresses), metrics)
        self._admission = admission
        admission.follow(lambda: self.replicas.are_gone)
        self._executors = executors
        self._uncancelled = UncancelledCalls()

    async def close(self) -> None:
        """Wait for running calls, at most `CLOSE_TIMEOUT_S`, and close the connections."""
        await self._uncancelled.finish(CLOSE_TIMEOUT_S)
        await self.replicas.close()

    async def model_info(self, timeout_s: float) -> ModelInfo:
        """Return the metadata of the served model; see `Replicas.model_info`."""
        return await self.replicas.model_info(timeout_s)

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
        outputs = (*mask_outputs(chunk, low_res), *EMBEDDING_OUTPUTS)

        async def attempt(replica: Replica, clock: PhaseClock) -> InferResult:
            result = await self._infer(replica, clock, SEGMENT.name, inputs, outputs, context)
            replica.stored.add(key)
            return result

        result = await self._call(key, context, attempt)
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
        result = await self._decode(encoded, chunk, inputs, mask_outputs(chunk, low_res), context)
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
        result = await self.infer_anywhere(ENCODE.name, inputs, EMBEDDING_OUTPUTS, context)
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
        result = await self.infer_anywhere(IMAGE_ENCODER.name, inputs, outputs, context)
        return output(result, outputs[0])

    async def infer_anywhere(
        self, model: str, inputs: list[InputTensor], outputs: Sequence[str], context: RequestContext
    ) -> InferResult:
        """Call a model that keeps nothing."""
        return await self._call(
            None,
            context,
            lambda replica, clock: self._infer(replica, clock, model, inputs, outputs, context),
            by_clip=model == CLIP.name,
        )

    async def _decode(
        self,
        encoded: Encoded,
        chunk: PromptChunk,
        prompts: Sequence[InputTensor],
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

        embedding = infer_input(IMAGE_EMBEDDINGS.name, encoded.image_embeddings)

        async def attempt(replica: Replica, clock: PhaseClock) -> InferResult:
            infer = partial(
                self._infer, replica, clock, model.name, outputs=outputs, context=context
            )
            return await replica.stored.call(
                encoded.key, lambda: infer(inputs), lambda: infer([*inputs, embedding])
            )

        return await self._call(encoded.key, context, attempt)

    async def _call(
        self,
        key: bytes | None,
        context: RequestContext,
        attempt: Callable[[Replica, PhaseClock], Awaitable[InferResult]],
        *,
        by_clip: bool = False,
    ) -> InferResult:
        """Make a call on a replica, as `Replicas.call`, and count its time by phase."""
        with context.phases.measure(QUEUE) as clock:
            return await self.replicas.call(
                key, context, lambda replica: attempt(replica, clock), by_clip=by_clip
            )

    async def _infer(
        self,
        replica: Replica,
        clock: PhaseClock,
        model: str,
        inputs: list[InputTensor],
        outputs: Sequence[str],
        context: RequestContext,
    ) -> InferResult:
        cancellable = is_cancellable((await context.model()).triton_version)
        kind = kind_of(model, inputs, outputs)
        attributes: dict[str, tracing.Value] = {"server.address": replica.address}
        attributes["cpcsam.triton.prompts"] = kind.prompts
        release = await self._admission.acquire(context.permit, kind, context.deadline)

        async def infer() -> InferResult:
            is_answered: bool | None = False
            try:
                with tracing.span(f"triton {model}", attributes, "CLIENT"):
                    times = replica.times_outputs(model)
                    content = await self._message(model, inputs, (*outputs, *times), context)
                    timeout_s = context.remaining_s if cancellable else None
                    clock.count({QUEUE: 1})
                    started = perf_counter()
                    result = await replica.infer(model, content, timeout_s)
                    spent_s = perf_counter() - started
                    clock.count(call_phases(model, times_from_result(result, times), spent_s))
                is_answered = True
            except UnavailableError:
                is_answered = None
                raise
            finally:
                # Only when Triton is done with the call, or gone.
                release(is_answered=is_answered)
            return result

        return await (infer() if cancellable else self._uncancelled.run(infer()))

    async def _message(
        self,
        model: str,
        inputs: Sequence[InputTensor],
        outputs: Sequence[str],
        context: RequestContext,
    ) -> bytes:
        words = (model, context.request_id, inputs, outputs)
        if sum(tensor.nbytes for tensor in inputs) < LARGE:
            return message(*words)
        return await self._executors.messages.run(context.permit.client, message, *words)
