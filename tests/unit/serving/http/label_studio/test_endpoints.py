from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.http.label_studio import endpoints, predictions
from serving.http.label_studio.label_config import LabelConfig, parse_label_config
from tests.support.servers.gateway_peer import peer_gateway
from tests.support.servers.http_front import front_without_gateway, problem_of

CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="mask" toName="image"><Label value="Cell"/></BrushLabels></View>'
)
TASK = {"id": 1, "data": {"image": "/data/upload/1/a.png"}}
CLICK = {
    "id": "a",
    "type": "keypointlabels",
    "from_name": "click",
    "to_name": "image",
    "original_width": 9,
    "original_height": 9,
    "value": {"x": 1, "y": 1, "keypointlabels": ["Cell"]},
}


def body(**members: Any) -> dict[str, Any]:
    return {"tasks": [TASK], "label_config": CONFIG, "params": {"context": None}, **members}


@pytest.mark.parametrize("path", ["health", "setup"])
def test_health_and_setup_without_a_gateway_are_unavailable(path: str) -> None:
    with front_without_gateway() as client:
        method, record = ("GET", None) if path == "health" else ("POST", {"schema": CONFIG})
        answer = client.request(method, f"/label-studio/{path}", json=record)
    assert problem_of(answer)["code"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        ([], "body: got something else"),
        (body(tasks=[]), "tasks: got 0 items"),
        (body(tasks=[1]), "tasks: got 1 items"),
        (body(tasks={}), "tasks: got dict"),
        (body(label_config="<View/>"), "label_config: got no Image"),
        (body(params={"context": {"result": [{}]}}), "original_width: got something else"),
        (body(params={"context": {"result": [CLICK]}}), "got an address, but no Label Studio"),
        (
            body(params={"context": {"result": [CLICK]}}, tasks=[{"id": 1, "data": {}}]),
            "data: got no image 'image'",
        ),
    ],
)
def test_predict_of_something_else_is_refused(record: Any, detail: str) -> None:
    with front_without_gateway() as client:
        answer = client.post("/label-studio/predict", json=record)
    problem = problem_of(answer)
    assert problem["status"] == 400
    assert detail in problem["detail"]


def test_predict_after_the_last_click_was_taken_back_is_empty() -> None:
    with front_without_gateway() as client:
        record = body(params={"context": {"result": [], "draft_id": 1}})
        answer = client.post("/label-studio/predict", json=record)
    assert answer.json()["results"][0]["result"] == []


def test_webhook_notes_annotations_and_refuses_training() -> None:
    with front_without_gateway() as client:
        noted = client.post("/label-studio/webhook", json={"action": "ANNOTATION_CREATED"})
        refused = client.post("/label-studio/webhook", json={"action": "START_TRAINING"})
    assert noted.json() == {"status": "ok"}
    assert problem_of(refused)["code"] == "UNIMPLEMENTED"


def test_labelling_configuration_is_read_and_matched_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loops: list[bool] = []
    search = predictions._searches

    def noted_parse(text: str) -> LabelConfig:
        loops.append(_is_on_a_loop())
        return parse_label_config(text)

    def noted_search(*args: Any) -> Any:
        loops.append(_is_on_a_loop())
        return search(*args)

    monkeypatch.setattr(endpoints, "parse_label_config", noted_parse)
    monkeypatch.setattr(predictions, "_searches", noted_search)
    with peer_gateway() as (address, _), front_without_gateway(gateway=address) as client:
        client.post("/label-studio/setup", json={"schema": CONFIG})
        assert client.post("/label-studio/predict", json=body()).status_code == 400
    assert loops == [False, False, False]


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
