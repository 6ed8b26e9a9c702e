"""Requests of X-AnyLabeling as requests of the gateway, and masks as its shapes."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.responses import JSONResponse

from cpcsam.polygons import rings_of
from cpcsam.v1 import segmentation_pb2 as pb
from serving.http import x_anylabeling
from serving.http.problems import Problem
from serving.http.x_anylabeling.models import CLASSES, EVERYTHING, PROMPTS, models_of
from serving.http.x_anylabeling.predict import Prediction, shapes_of
from tests.support.servers.gateway_peer import peer_gateway
from tests.support.servers.http_front import front_without_gateway

IMAGE = b"an image file"
URI = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
MARKS = [{"type": "point", "data": [1, 2], "label": 1}]


def prediction(model: str, **params: Any) -> Prediction:
    body = {"model": model, "image": URI, "params": params}
    return Prediction.of_json(body, "r1", ["cell", "nucleus"])


def answered(mask: np.ndarray, **fields: Any) -> pb.SegmentResponse:
    rings = [pb.Ring(coordinates=np.ravel(ring).astype(float)) for ring in rings_of(mask)]
    ys, xs = np.nonzero(mask)
    box = pb.Box(x0=xs.min(), y0=ys.min(), x1=xs.max() + 1, y1=ys.max() + 1)
    answer = pb.Mask(polygons=pb.Polygons(rings=rings), box=box, area=int(mask.sum()), **fields)
    return pb.SegmentResponse(results=[pb.PromptResult(masks=[answer])])


def test_request_of_marks_names_the_image_by_its_hash_and_can_send_it() -> None:
    asked = prediction(PROMPTS, marks=MARKS)
    assert asked.request == pb.SegmentRequest(
        request_id="r1",
        image_id=hashlib.sha256(IMAGE).hexdigest(),
        prompts=[pb.Prompt(points=[pb.Point(x=1.5, y=2.5)])],
        mask_format=pb.MASK_FORMAT_POLYGONS,
    )
    assert asked.with_image().image_bytes == IMAGE and asked.request.image_id


def test_request_of_everything_takes_the_thresholds_that_are_set() -> None:
    asked = prediction(EVERYTHING, conf_threshold=0.5, iou_threshold=0.0).request
    assert asked.everything == pb.Everything(min_iou=0.5) and asked.HasField("everything")


def test_request_of_classes_has_the_filtered_ones_or_all() -> None:
    assert prediction(CLASSES).request.classes == ["cell", "nucleus"]
    asked = prediction(CLASSES, filter_classes=["cell"], conf_threshold=0.25).request
    assert asked.classes == ["cell"] and asked.class_search == pb.ClassSearch(threshold=0.25)


@pytest.mark.parametrize(
    "body, status, field",
    [
        ([], 400, "body"),
        ({"model": PROMPTS, "image": URI, "params": 5}, 400, "params"),
        ({"model": PROMPTS}, 400, "image"),
        ({"model": PROMPTS, "image": "https://example.org/a.png"}, 400, "image"),
        ({"model": PROMPTS, "image": "http://example.org/,AAAA"}, 400, "image"),
        ({"model": "sam", "image": URI}, 404, "model"),
        ({"model": CLASSES, "image": URI, "params": {"filter_classes": [1]}}, 400, "params"),
        ({"model": CLASSES, "image": URI, "params": {"filter_classes": ["\ud800"]}}, 400, "params"),
        ({"model": EVERYTHING, "image": URI, "params": {"conf_threshold": 2}}, 400, "params"),
        pytest.param(
            {"model": EVERYTHING, "image": URI, "params": {"conf_threshold": 10**400}},
            400,
            "params.conf_threshold",
            id="beyond float",
        ),
    ],
    ids=ascii,
)
def test_other_requests_are_refused_with_the_field(body: Any, status: int, field: str) -> None:
    with pytest.raises(Problem) as caught:
        Prediction.of_json(body, "", ["cell"])
    assert caught.value.status == status
    assert caught.value.field is not None and caught.value.field.startswith(field)


def test_parts_of_an_entity_share_a_group_and_close_at_their_first_point() -> None:
    mask = np.zeros((9, 12), bool)
    mask[1:4, 1:4] = mask[5:8, 6:11] = True
    found = shapes_of(prediction(PROMPTS, marks=MARKS), answered(mask, score=1.2))
    assert found["replace"] is False
    assert [shape["group_id"] for shape in found["shapes"]] == [1, 1]
    for shape in found["shapes"]:
        points = shape["points"]
        assert points[0] == points[-1] and points.count(points[0]) == 2
        assert (shape["label"], shape["score"]) == ("AUTOLABEL_OBJECT", 1.0)


def test_polygon_with_holes_returns_to_its_first_point_only_at_its_end() -> None:
    mask = np.ones((7, 20), bool)
    mask[2:4, 2:4] = mask[2:4, 9:12] = mask[3, 15] = False
    (shape,) = shapes_of(prediction(EVERYTHING), answered(mask))["shapes"]
    assert shape["points"].count(shape["points"][0]) == 2
    assert (shape["label"], shape["group_id"]) == ("entity", None)


def test_box_of_an_entity_has_four_corners_and_its_class() -> None:
    mask = np.zeros((9, 12), bool)
    mask[2:5, 3:9] = True
    asked = prediction(CLASSES, current_task="rectangles")
    assert asked.request.mask_format == pb.MASK_FORMAT_NONE
    found = shapes_of(asked, answered(mask, label="cell"))
    (shape,) = found["shapes"]
    assert shape["points"] == [[3, 2], [9, 2], [9, 5], [3, 5]]
    assert shape["label"] == "cell" and found["replace"] is None


def test_models_show_the_servers_thresholds_and_classes_only_where_there_are_some() -> None:
    description = pb.DescribeResponse(
        model=pb.Model(size="vit_t", version="3"),
        everything=pb.Everything(min_iou=0.88, max_box_iou=0.7),
        class_search=pb.ClassSearch(threshold=0.4),
    )
    assert list(models_of(description)) == [PROMPTS, EVERYTHING]
    description.classes.append("cell")
    models = models_of(description)
    values = {widget["name"]: widget["value"] for widget in models[EVERYTHING]["widgets"]}
    assert (values["edit_conf"], values["edit_iou"]) == (0.88, 0.7)
    assert models[CLASSES]["classes"] == ["cell"]
    assert models[PROMPTS]["batch_processing_mode"] is None


def test_answer_is_printed_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    class Noted(JSONResponse):
        def render(self, content: Any) -> bytes:
            threads.append(threading.current_thread())
            return super().render(content)

    monkeypatch.setattr(x_anylabeling, "JSONResponse", Noted)
    picture = io.BytesIO()
    Image.new("RGB", (20, 16)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    with peer_gateway() as (address, _), front_without_gateway(gateway=address) as client:
        record = {"model": EVERYTHING, "image": image}
        answer = client.post("/x-anylabeling/v1/predict", json=record)
        loop = client.portal.call(threading.current_thread)  # type: ignore[union-attr]
    assert len(answer.json()["data"]["shapes"]) == 2
    assert threads and loop not in threads


def test_a_threshold_beyond_all_floats_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        prediction(EVERYTHING, conf_threshold=10**400)
    assert caught.value.status == 400
