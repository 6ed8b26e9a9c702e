"""A peer that speaks Triton's gRPC: it keeps embeddings, counts calls, and fails on demand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc import service_pb2_grpc as triton_grpc
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import serialize_byte_tensor

from cpcsam.clip.preprocess import ClipInfo, Preprocess
from cpcsam.contract import IMAGE_EMBEDDINGS, IMAGE_ENCODER, INPUT_SIZE
from cpcsam.entry_points import (
    AREAS,
    BBOXES,
    CLIP,
    CLIP_EMBEDDINGS,
    CLIP_INFO,
    DECODER,
    EMBEDDING_STORE,
    IMAGE_KEY,
    MASKS_RLE,
    ORIGINAL_SIZE,
    POSTPROCESS,
    PREPROCESS,
    SCORES,
    STABILITY,
    times_output,
)
from export.triton_repository.config import RepositoryConfig, Target, model_configs
from serving.gateway.inference.probe import KEY

NUMBERS = {"float32": "FP32", "float64": "FP64", "int32": "INT32"}
TIMED = (PREPROCESS.name, IMAGE_ENCODER.name, EMBEDDING_STORE.name, POSTPROCESS.name)
DEAD_STEP = "in ensemble 'segment', Stub process 'image_encoder_0_0' is not healthy."
Before = Callable[[triton_pb.ModelInferRequest, Any], Awaitable[None]]


async def nothing(request: triton_pb.ModelInferRequest, context: Any) -> None:
    """Answer at once."""


class TritonPeer(triton_grpc.GRPCInferenceServiceServicer):
    """Its model has `digest`; `before` runs before each answer and may wait or abort.

    With `clip` it also has the model `clip`, of towers of that digest.
    """

    def __init__(
        self,
        digest: str = "digest",
        version: str = "1",
        target: Target = "cpu",
        clip: str | None = None,
    ) -> None:
        self.configs = model_configs(RepositoryConfig("vit_t", 256, target, model_digest=digest))
        if clip is not None:
            facts = ClipInfo("tiny", clip, 2, 1.0, 77, Preprocess(32, (0.5,) * 3, (0.5,) * 3))
            self.configs[CLIP.name] = ModelConfig(name=CLIP.name)
            self.configs[CLIP.name].parameters[CLIP_INFO].string_value = facts.to_json()
        self.version = version
        self.before: Before = nothing
        self.stored: set[bytes] = set()
        self.calls: Counter[str] = Counter()
        self.probed: Counter[str] = Counter()
        self.sent: list[bytes] = []
        self.address = "127.0.0.1:0"

    @property
    def probes(self) -> int:
        return self.probed.total()

    async def start(self) -> None:
        """Serve at its address again, with an empty store."""
        self.stored.clear()
        options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1))
        self.server = grpc.aio.server(options=options)
        triton_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        port = self.server.add_insecure_port(self.address)
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self.server.start()

    async def kill(self) -> None:
        await self.server.stop(None)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return triton_pb.ServerMetadataResponse(name="triton", version="2.51.0")

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return triton_pb.ModelMetadataResponse(name=request.name, versions=[self.version])

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return triton_pb.ModelReadyResponse(ready=request.name in self.configs)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return triton_pb.ModelConfigResponse(config=self.configs[request.name])

    async def ModelInfer(  # noqa: N802
        self, request: triton_pb.ModelInferRequest, context: Any
    ) -> triton_pb.ModelInferResponse:
        given = dict(
            zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True)
        )
        key = given.get(IMAGE_KEY.name, b"")[4:]  # after its length
        if key == KEY:
            self.probed[request.model_name] += 1
        else:
            self.calls[request.model_name] += 1
        await self.before(request, context)
        if key and (request.model_name == "segment" or IMAGE_EMBEDDINGS.name in given):
            self.stored.add(key)
            self.sent.append(key)
        elif key and key not in self.stored:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                "image_key: got a key without an embedding, expected one of an earlier call; x",
            )
        response = triton_pb.ModelInferResponse(model_name=request.model_name, model_version="1")
        for name in (output.name for output in request.outputs):
            array = outputs()[name]
            kind = NUMBERS.get(str(array.dtype), "BYTES")
            response.outputs.add(name=name, datatype=kind, shape=array.shape)
            raw = serialize_byte_tensor(array).item() if kind == "BYTES" else array.tobytes()
            response.raw_output_contents.append(raw)
        return response


def outputs() -> dict[str, np.ndarray]:
    """One empty mask, an embedding, and steps of a millisecond."""
    times = np.array([[1.001, 1.002, 1.003]])
    return {
        **{times_output(step).name: times[:, :2] for step in TIMED},
        times_output(DECODER.name).name: times,
        MASKS_RLE.name: np.full((1, 1, 1), b"0", object),
        SCORES.name: np.ones((1, 1, 1), np.float32),
        STABILITY.name: np.ones((1, 1, 1), np.float32),
        AREAS.name: np.zeros((1, 1, 1), np.int32),
        CLIP_EMBEDDINGS.name: np.ones((1, 1, 2), np.float32),
        BBOXES.name: np.zeros((1, 1, 1, 4), np.int32),
        IMAGE_EMBEDDINGS.name: np.zeros((1, 256, 16, 16), np.float32),
        INPUT_SIZE.name: np.full((1, 2), 256, np.int32),
        ORIGINAL_SIZE.name: np.full((1, 2), 8, np.int32),
    }


async def dead_step(request: Any, context: Any) -> None:
    """What Triton answers for a Python step whose process was killed."""
    await context.abort(grpc.StatusCode.INTERNAL, DEAD_STEP)


async def silence(request: Any, context: Any) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def triton_peers(*peers: TritonPeer) -> AsyncIterator[str]:
    """Start peers and yield their addresses, separated by commas."""
    try:
        for peer in peers:
            await peer.start()
        yield ",".join(peer.address for peer in peers)
    finally:
        for peer in peers:
            await peer.kill()
