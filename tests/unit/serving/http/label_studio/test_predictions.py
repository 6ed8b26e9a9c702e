from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.caller import Caller
from serving.http.gateway import Gateway
from serving.http.label_studio import predictions
from serving.http.label_studio.context import Interaction
from serving.http.label_studio.label_config import parse_label_config

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
