"""Label Studio with the HTTP front as its machine-learning backend, compared with the gateway."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cpcsam.client import Everything, Example, MaskFormat, Prompt, SegmentationClient
from cpcsam.contract import MaskSelection
from demo.scene import load_scene
from serving.gateway.auth.tokens import EDITOR, Token, digest_of, write_tokens
from serving.gateway.config import GatewayConfig
from serving.gateway.run import gateway_in_background
from serving.http.config import HttpConfig
from serving.http.label_studio_config import LabelStudioConfig
from serving.triton.launch import TritonServer
from tests.support.annotators import annotator
from tests.support.paths import ROOT
from tests.support.servers.front_in_thread import http_front
from tests.support.servers.label_studio import LabelStudio, label_studio
from tests.support.servers.label_studio_regions import ask, drawn, filled, masks_of
from training.data.sample import read_pair
from training.evaluation.one_click import iou_score

pytestmark = [pytest.mark.triton, pytest.mark.slow]

GATEWAY_TOKEN = "the-gateway's-own-token"
LABELS = '<Label value="Nucleus"/>'
IMAGE = '<Image name="image" value="$image"/>'
BRUSH = f"""<View>{IMAGE}
  <BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true">{LABELS}</KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels>
</View>"""
POLYGON = BRUSH.replace("BrushLabels", "PolygonLabels")
EVERYTHING = f"""<View>{IMAGE}
  <RectangleLabels name="box" toName="image" model_everything="Nucleus"
    model_points_per_side="12" model_min_iou="0.4" model_min_stability="0.4">{LABELS}
  </RectangleLabels>
</View>"""
SEARCH = Everything(points_per_side=12, min_iou=0.4, min_stability=0.4)


@pytest.fixture(scope="module")
def environment() -> Path:
    return annotator("label-studio")


@pytest.fixture(scope="module")
def studio(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with label_studio(environment, tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    environment: Path, shipped: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a gateway that requires a token."""
    folder = tmp_path_factory.mktemp("gateway")
    write_tokens(folder / "tokens", [Token("lab", EDITOR, digest_of(GATEWAY_TOKEN))])
    config = GatewayConfig(
        triton=shipped.grpc_url,
        port=0,
        metrics_port=0,
        tokens=folder / "tokens",
        classes=folder / "classes",
    )
    with gateway_in_background(config) as running:
        yield running.address


@pytest.fixture(scope="module")
def client(gateway: str) -> Iterator[SegmentationClient]:
    with SegmentationClient(gateway, token=GATEWAY_TOKEN, timeout_s=60) as connected:
        yield connected


@pytest.fixture(scope="module")
def front(gateway: str, studio: LabelStudio) -> Iterator[str]:
    """The address of the backend, which reads images with a personal access token."""
    config = LabelStudioConfig(studio.url, studio.personal_token())
    with http_front(HttpConfig(gateway=gateway, label_studio=config)) as url:
        yield f"{url}/label-studio"


@pytest.fixture(scope="module")
def picture() -> bytes:
    return (ROOT / "docs/images/nuclei.png").read_bytes()


def add_project(studio: LabelStudio, label_config: str, picture: bytes) -> tuple[int, int]:
    """Make a project with one uploaded image; return the numbers of it and of its task."""
    project = studio.call(
        "POST", "/api/projects/", json={"title": "nuclei", "label_config": label_config}
    )["id"]
    files = {"file": ("nuclei of a lab.png", picture, "image/png")}
    studio.call("POST", f"/api/projects/{project}/import", files=files)
    (task,) = studio.call("GET", "/api/tasks/", params={"project": project})["tasks"]
    return project, task["id"]


def add_backend(studio: LabelStudio, project: int, url: str, **changes: str) -> httpx.Response:
    """Connect a backend to a project, which makes Label Studio ask its health and set it up."""
    record = {
        "url": url,
        "project": project,
        "title": "CPC-SAM",
        "is_interactive": True,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "lab",
        "basic_auth_pass": GATEWAY_TOKEN,
    }
    return studio.client.post("/api/ml/", json=record | changes)


def connected(studio: LabelStudio, project: int, url: str) -> int:
    """Connect a backend, and return its number."""
    answer = add_backend(studio, project, url)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert found["state"] == "CO"
    assert found["model_version"]
    return int(found["id"])


CLICKS = [
    drawn("keypointlabels", x=62, y=76, width=1),
    drawn("keypointlabels", x=20, y=30, width=1, is_positive=False),
]
CLICK_PROMPT = Prompt(((62.0, 76.0), (20.0, 30.0)), (1, 0))


def test_clicks_become_the_gateways_mask_and_follow_ups_send_no_image(
    studio: LabelStudio, client: SegmentationClient, front: str, picture: bytes
) -> None:
    project, task = add_project(studio, BRUSH, picture)
    backend = connected(studio, project, front)
    before = studio.images_read()
    (region,) = ask(studio, backend, task, CLICKS)
    read = studio.images_read()
    assert read > before
    expected = client.segment(picture, [CLICK_PROMPT], mask_selection=MaskSelection.BEST)
    mask = expected.masks[0][0]
    assert mask.area > 100
    assert (region["type"], region["from_name"]) == ("brushlabels", "brush")
    assert region["value"]["brushlabels"] == ["Nucleus"]
    assert region["score"] == pytest.approx(mask.score, abs=1e-5)
    (found,) = masks_of(studio, [region])
    assert iou_score(found, mask.array) >= 0.99

    (again,) = ask(studio, backend, task, CLICKS[:1])
    assert studio.images_read() == read
    assert again["id"] == region["id"]
    single = client.segment(picture, [Prompt.click(62, 76)], mask_selection=MaskSelection.BEST)
    assert iou_score(masks_of(studio, [again])[0], single.masks[0][0].array) >= 0.99


def test_box_becomes_a_polygon(
    studio: LabelStudio, client: SegmentationClient, front: str, picture: bytes
) -> None:
    project, task = add_project(studio, POLYGON, picture)
    backend = connected(studio, project, front)
    box = drawn("rectanglelabels", x=44, y=60, width=36, height=32)
    (region,) = ask(studio, backend, task, [box])
    expected = client.segment(
        picture, [Prompt(box=(44, 60, 80, 92))], mask_selection=MaskSelection.BEST
    )
    assert region["type"] == "polygonlabels"
    assert iou_score(filled(region), expected.masks[0][0].array) >= 0.9


def test_local_file_is_read_with_a_legacy_token(
    studio: LabelStudio, gateway: str, client: SegmentationClient, picture: bytes
) -> None:
    folder = studio.folder / "files/scans"
    folder.mkdir()
    (folder / "zelle ü.png").write_bytes(picture)
    project = studio.call("POST", "/api/projects/", json={"title": "files", "label_config": BRUSH})[
        "id"
    ]
    storage = studio.call(
        "POST",
        "/api/storages/localfiles",
        json={"project": project, "path": str(folder), "use_blob_urls": True},
    )["id"]
    studio.call("POST", f"/api/storages/localfiles/{storage}/sync")
    (task,) = studio.call("GET", "/api/tasks/", params={"project": project})["tasks"]
    assert "/data/local-files/?d=" in task["data"]["image"]
    config = LabelStudioConfig(studio.url, studio.token)
    with http_front(HttpConfig(gateway=gateway, label_studio=config)) as url:
        backend = connected(studio, project, f"{url}/label-studio/")
        (region,) = ask(studio, backend, task["id"], CLICKS)
    expected = client.segment(picture, [CLICK_PROMPT], mask_selection=MaskSelection.BEST)
    assert iou_score(masks_of(studio, [region])[0], expected.masks[0][0].array) >= 0.99


def test_tasks_are_pre_annotated_by_classes(
    studio: LabelStudio, client: SegmentationClient, front: str, picture: bytes
) -> None:
    scene = load_scene(ROOT / "weights/vit_t")
    sample = read_pair(scene.image_path, scene.instances_path)
    image, labels = sample.image[:200, :200], sample.instances[:200, :200]
    masks = [labels == number for number in np.unique(labels) if number]
    client.add_class("nucleus", [Example.of_masks(image, masks)])
    project, task = add_project(studio, BRUSH, picture)
    connected(studio, project, front)
    studio.call(
        "POST",
        "/api/dm/actions",
        params={"id": "retrieve_tasks_predictions", "project": project},
        json={"selectedItems": {"all": True, "excluded": []}},
    )
    (prediction,) = studio.call("GET", "/api/predictions/", params={"task": task})
    expected = client.segment(picture, classes=["nucleus"])
    wanted = [mask for masks in expected.masks for mask in masks]
    assert len(wanted) > 1
    found = masks_of(studio, prediction["result"])
    assert len(found) == len(wanted)
    for mask, one in zip(wanted, found, strict=True):
        assert iou_score(one, mask.array) >= 0.99
    model = client.describe()
    assert prediction["model_version"] == f"{model.model_name}-{model.model_version}"
    assert prediction["score"] == pytest.approx(np.mean([mask.score for mask in wanted]), abs=1e-4)


@pytest.mark.parametrize("method", ["NONE", "BASIC_AUTH"])
def test_backend_without_the_token_is_refused(
    studio: LabelStudio, front: str, picture: bytes, method: str
) -> None:
    project, _ = add_project(studio, BRUSH, picture)
    answer = add_backend(studio, project, front, auth_method=method, basic_auth_pass="another")
    assert answer.status_code == 400
    assert "authentication parameters were either not provided or are incorrect" in answer.text


def test_predict_everything_and_orientation_of_a_data_uri(
    gateway: str, client: SegmentationClient, picture: bytes
) -> None:
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.crop((0, 0, 128, 96)).convert("RGB").save(file, "JPEG", quality=95, exif=exif)
    data = base64.b64encode(file.getvalue()).decode()
    body = {
        "tasks": [{"id": 1, "data": {"image": f"data:image/jpeg;base64,{data}"}}],
        "label_config": EVERYTHING,
        "params": {"context": None},
    }
    with http_front(HttpConfig(gateway=gateway)) as url:
        answer = httpx.post(
            f"{url}/label-studio/predict", json=body, auth=("lab", GATEWAY_TOKEN), timeout=60
        )
    ((prediction,),) = answer.json()["results"]
    expected = client.segment(file.getvalue(), everything=SEARCH, mask_format=MaskFormat.NONE)
    boxes = [mask.box for masks in expected.masks for mask in masks]
    assert boxes
    found = [
        (v["x"] * 0.96, v["y"] * 1.28, (v["x"] + v["width"]) * 0.96, (v["y"] + v["height"]) * 1.28)
        for v in (region["value"] for region in prediction["result"])
    ]
    assert np.allclose(found, boxes, atol=1e-3)
    sizes = {(one["original_width"], one["original_height"]) for one in prediction["result"]}
    assert sizes == {(96, 128)}


@pytest.mark.parametrize(
    ("image", "status", "detail"),
    [
        ("http://127.0.0.1:1/data/a.png", 400, "an address elsewhere"),
        ("/api/current-user/whoami", 400, "an address elsewhere"),
        ("/data/upload/1/none.png", 502, "Label Studio: got status 500"),
        ("data:image/png;base64,bm8gaW1hZ2U=", 400, "image"),
    ],
)
def test_predict_image_that_is_not_read_is_refused(
    front: str, image: str, status: int, detail: str
) -> None:
    task = {"id": 1, "data": {"image": image}}
    body = {"tasks": [task], "label_config": EVERYTHING, "params": {}}
    answer = httpx.post(f"{front}/predict", json=body, auth=("lab", GATEWAY_TOKEN), timeout=60)
    assert answer.status_code == status, answer.text
    assert detail in answer.json()["detail"]
