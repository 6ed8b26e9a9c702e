"""X-AnyLabeling's own client against the HTTP front, and its shapes against the gateway's masks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import uvicorn

from cpcsam.client import Mask, Prompt
from serving.http.app import create_app
from serving.http.config import HttpConfig
from serving.http.x_anylabeling import PREFIX
from tests.integration.annotators.nuclei import NUCLEUS, Nuclei, run_in
from tests.support.annotators import annotator
from tests.support.polygons import filled
from training.evaluation.one_click import iou_score

# Of run_x_anylabeling.py; its client truncates coordinates, so the centres of pixels are meant.
CLICK = Prompt.click(60.5, 40.5)
REFINED = Prompt(((60.5, 40.5), (5.5, 5.5)), (1, 0), (20.0, 20.0, 100.0, 90.0))


@contextmanager
def http_front(gateway: str) -> Iterator[str]:
    """Serve the HTTP front of a gateway in a thread, and yield its URL."""
    config = uvicorn.Config(create_app(HttpConfig(gateway=gateway)), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    assert server.started
    (listener,) = server.servers[0].sockets
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def shown(nuclei: Nuclei) -> dict[str, Any]:
    """What the client gets from the front, by what it asked for."""
    environment = annotator("x-anylabeling")
    with http_front(nuclei.address) as url:
        found: dict[str, Any] = run_in(
            environment,
            "run_x_anylabeling.py",
            *(url + PREFIX, nuclei.path),
            QT_QPA_PLATFORM="offscreen",
            HOME=str(nuclei.path.parent),
        )
    return found


def polygons_of(answer: dict[str, Any]) -> list[np.ndarray]:
    return [np.array(shape["points"]) for shape in answer["shapes"] if shape["type"] == "polygon"]


def first_mask(nuclei: Nuclei, prompt: Prompt) -> Mask:
    mask = nuclei.client.segment(nuclei.image, [prompt]).masks[0][0]
    assert mask.area > 0
    return mask


def test_client_is_offered_a_model_for_each_kind_of_request(shown: dict[str, Any]) -> None:
    models = shown["models"]
    assert list(models) == ["cpcsam-prompts", "cpcsam-everything", "cpcsam-classes"]
    assert models["cpcsam-classes"]["classes"] == [NUCLEUS]
    assert shown["batch"] is None


@pytest.mark.parametrize("name, prompt", [("click", CLICK), ("refined", REFINED)])
def test_client_shows_the_gateways_mask_of_marks(
    nuclei: Nuclei, shown: dict[str, Any], name: str, prompt: Prompt
) -> None:
    mask, answer = first_mask(nuclei, prompt), shown[name]
    assert iou_score(filled(polygons_of(answer), mask.size), mask.array) >= 0.98
    assert answer["replace"] is False
    for shape in answer["shapes"]:
        assert shape["label"] == "AUTOLABEL_OBJECT" and shape["closed"]
        assert shape["score"] == pytest.approx(min(mask.score, 1), abs=1e-3)
    assert (len(answer["shapes"]) > 1) == any(shape["group_id"] for shape in answer["shapes"])


def test_client_shows_the_box_of_a_mask_where_rectangles_are_chosen(
    nuclei: Nuclei, shown: dict[str, Any]
) -> None:
    x0, y0, x1, y1 = first_mask(nuclei, REFINED).box
    (shape,) = shown["box"]["shapes"]
    assert shape["type"] == "rectangle"
    assert shape["points"] == [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def test_client_shows_the_entities_of_classes(nuclei: Nuclei, shown: dict[str, Any]) -> None:
    result = nuclei.client.segment(nuclei.image, classes=[NUCLEUS])
    union = np.any([mask.array for (mask,) in result.masks], axis=0)
    polygons = polygons_of(shown["classes"])
    assert len(polygons) >= len(result.masks) > 1
    assert iou_score(filled(polygons, result.original_size), union) >= 0.98
    assert {shape["label"] for shape in shown["classes"]["shapes"]} == {NUCLEUS}


def test_client_is_told_of_refused_requests(shown: dict[str, Any]) -> None:
    no_marks, unknown = shown["messages"]
    assert "400" in no_marks and "400" in unknown
    assert shown["nothing"]["shapes"] == shown["unknown"]["shapes"] == []
