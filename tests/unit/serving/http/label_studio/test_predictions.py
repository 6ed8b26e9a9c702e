from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest

from cpcsam.client._channel import Endpoint
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.http.caller import Caller
from serving.http.gateway import Gateway
from serving.http.label_studio import predictions
from serving.http.label_studio.context import Interaction
from serving.http.label_studio.label_config import parse_label_config
from serving.http.label_studio_config import LabelStudioConfig
from serving.http.problems import Problem
from tests.support.servers.gateway_peer import Peer

CONFIG = parse_label_config(
    '<View><Image name="image" value="$image"/>'
    '<RectangleLabels name="box" toName="image"><Label value="Cell"/></RectangleLabels></View>'
)
TASK = {"id": 1, "data": {"image": "data:image/png;base64,AAAA"}}


class Answering:
    """The part of a gateway that a click needs."""

    async def call(self, _: str, request: pb.SegmentRequest, __: Caller) -> pb.SegmentResponse:
        answer = pb.SegmentResponse(original_size=pb.Size(height=9, width=9))
        answer.results.add().masks.add(area=4, score=0.5, box=pb.Box(x1=2, y1=2))
        return answer


def test_interactive_converts_masks_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    convert = predictions.regions_of

    def noted(*args: Any) -> list[dict[str, Any]]:
        threads.append(threading.current_thread())
        return convert(*args)

    monkeypatch.setattr(predictions, "regions_of", noted)
    click = pb.Prompt(points=[pb.Point(x=1, y=1)])
    interaction = Interaction("image", "Cell", (9, 9), "seed", (click,))
    predictor = predictions.Predictor(None)
    gateway, caller = cast("Gateway", Answering()), Caller(None, 1.0, "r")
    found = asyncio.run(predictor.interactive(TASK, interaction, CONFIG, gateway, caller))
    assert found["result"][0]["value"]["rectanglelabels"] == ["Cell"]
    assert threads and threading.main_thread() not in threads


async def test_label_studio_that_hangs_takes_no_thread_of_others() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hanging:
        studio = LabelStudioConfig(f"http://127.0.0.1:{hanging.getsockname()[1]}", "token")
        predictor = predictions.Predictor(studio)
        reads = [
            asyncio.ensure_future(predictor._read(f"/data/upload/1/{number}.png", number))
            for number in range(40)  # more than the event loop has threads
        ]
        await asyncio.sleep(0)
        held = [hanging.accept()[0] for _ in range(predictions.READERS)]
        assert await asyncio.to_thread(str, "parsed") == "parsed"
        assert not any(read.done() for read in reads)
        for read in reads:
            read.cancel()
        for connection in held:
            connection.close()


class SlowPeer(Peer):
    """A peer that takes a moment for each image."""

    def answer(self, request: pb.SegmentRequest) -> pb.SegmentResponse:
        time.sleep(0.4)
        size = pb.Size(height=9, width=9)
        return pb.SegmentResponse(original_size=size, image_id=request.request_id)


async def test_batch_of_several_searches_ends_with_the_time_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictions, "BATCH_S", 0.6)
    controls = "".join(
        f'<{kind} name="{kind}" toName="image" model_everything="a"><Label value="a"/></{kind}>'
        for kind in ("BrushLabels", "PolygonLabels")
    )
    config = parse_label_config(f'<View><Image name="image" value="$image"/>{controls}</View>')
    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_SegmentationServicer_to_server(SlowPeer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gateway = Gateway(Endpoint(f"127.0.0.1:{port}"))
    try:
        with pytest.raises((Problem, grpc.aio.AioRpcError), match=r"got no answer|Deadline"):
            caller = Caller(None, 30.0, "r")
            await predictions.Predictor(None).batch([TASK], config, gateway, caller)
    finally:
        await gateway.close()
        server.stop(None)
