"""Each route of the HTTP front, before a real gateway and Triton, against the gRPC client."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.http.front import Front
from cpcsam.automatic.rle import rle_from_mask
from cpcsam.client import Everything, Prompt, SegmentationClient, encode_image
from serving.gateway.server import Gateway
from tests.integration.gateway.asking import HEIGHT, WIDTH, page_of_reference, picture, types_of
from tests.support.paths import ROOT
from tests.support.servers.http_front import base64_of, problem_of, wait_for_front

pytestmark = pytest.mark.triton

IMAGE = encode_image(picture())
POINT = {"x": 30, "y": 20}
CLICK = {"prompts": [{"points": [POINT]}]}


@pytest.fixture(scope="module")
def grpc_client(http_gateway: Gateway) -> Iterator[SegmentationClient]:
    with SegmentationClient(http_gateway.address, timeout_s=60) as client:
        yield client


def test_segment_by_json_equals_the_grpc_answer(
    http: httpx.Client, grpc_client: SegmentationClient
) -> None:
    body = {"request_id": "one", "image_bytes": base64_of(IMAGE), **CLICK}
    answer = http.post("/v1/segment", json=body)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    record = answer.json()
    expected = grpc_client.segment(IMAGE, [Prompt.click(30, 20)])
    (mask,) = record["results"][0]["masks"]
    theirs = expected.masks[0][0]
    assert mask["score"] == pytest.approx(theirs.score, rel=1e-5)
    assert mask["area"] == theirs.array.sum()
    assert record["request_id"] == "one"
    assert record["original_size"] == {"height": HEIGHT, "width": WIDTH}
    assert record["image_id"] == hashlib.sha256(IMAGE).hexdigest()


def test_segment_by_form_and_by_image_id_give_the_same(http: httpx.Client) -> None:
    def of_form(request: str | tuple[str, str, str]) -> httpx.Response:
        files = {"image": ("a.png", IMAGE, "image/png")}
        if isinstance(request, str):
            return http.post("/v1/segment", files=files, data={"request": request})
        return http.post("/v1/segment", files={**files, "request": request})

    text = json.dumps(CLICK)
    answers = [
        of_form(text),
        of_form(("request.json", text, "application/json")),
        http.post("/v1/segment", json={**CLICK, "image_id": hashlib.sha256(IMAGE).hexdigest()}),
    ]
    results = [answer.json()["results"] for answer in answers]
    assert results[0] == results[1] == results[2]
    assert answers[2].json()["cached"]


def test_answers_carry_the_requests_id(http: httpx.Client) -> None:
    body = {"image_bytes": base64_of(IMAGE), **CLICK}
    answer = http.post("/v1/segment", json=body, headers={"x-request-id": "scan 17"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "scan 17"


def test_id_of_a_body_names_the_request_unless_the_header_does(http: httpx.Client) -> None:
    body = {"image_bytes": base64_of(IMAGE), **CLICK, "request_id": "scan 18"}
    answer = http.post("/v1/segment", json=body)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "scan 18"
    answer = http.post("/v1/segment", json=body, headers={"x-request-id": "job 3"})
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == ("job 3", "scan 18")
    refused = http.post("/v1/segment", json={**body, "prompts": []})
    assert refused.status_code == 400
    assert refused.headers["x-request-id"] == refused.json()["request_id"] == "scan 18"


def test_requests_over_one_connection_do_not_share_an_id(http: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    large = io.BytesIO()
    Image.fromarray(noise).save(large, "PNG")
    assert len(large.getvalue()) > 1 << 16  # more than is read at once
    files = {"image": ("a.png", large.getvalue()), "request": (None, json.dumps(CLICK))}
    first = http.post("/v1/segment", files=files, headers={"x-request-id": "job of one user"})
    ids = [http.get("/v1/classes").headers["x-request-id"] for _ in range(3)]
    assert first.headers["x-request-id"] == "job of one user"
    assert len({*ids}) == 3 and "job of one user" not in ids


@pytest.mark.parametrize("form", ["polygons", "png", "none"])
def test_masks_come_in_each_form(http: httpx.Client, form: str) -> None:
    body = {"image_bytes": base64_of(IMAGE), **CLICK, "mask_format": f"MASK_FORMAT_{form.upper()}"}
    (mask,) = http.post("/v1/segment", json=body).json()["results"][0]["masks"]
    assert ({"polygons", "png", "coco_rle"} & mask.keys()) == ({form} - {"none"})


def test_everything_has_defaults_and_admits_settings(
    http: httpx.Client, grpc_client: SegmentationClient
) -> None:
    settings = {"points_per_side": 4, "min_iou": 0, "min_stability": 0}
    body = {"image_bytes": base64_of(IMAGE), "everything": settings}
    found = http.post("/v1/everything", json=body).json()["results"]
    grid = Everything(points_per_side=4, min_iou=0.0, min_stability=0.0)
    expected = grpc_client.segment(IMAGE, everything=grid)
    assert len(found) == len(expected.masks) > 0
    answer = http.post("/v1/everything", files={"image": ("a.png", IMAGE)})
    assert answer.status_code == 200
    for field, value in (("prompts", CLICK["prompts"]), ("classes", ["x"])):
        body = {"image_bytes": base64_of(IMAGE), field: value}
        assert problem_of(http.post("/v1/everything", json=body))["field"] == field


def test_classes_are_added_used_listed_and_removed(http: httpx.Client) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 20:60] = True
    size = {"height": HEIGHT, "width": WIDTH}
    example = {"entities": [{"size": size, "counts": rle_from_mask(mask).decode()}]}
    request = {"name": "cell / big", "examples": [example], "tile_size": 0}
    files = {"image0": ("a.png", IMAGE)}
    added = http.post("/v1/classes", files=files, data={"request": json.dumps(request)})
    assert added.status_code == 200, added.text
    assert [each["name"] for each in added.json()["classes"]] == ["cell / big"]
    assert http.get("/v1/classes").json() == added.json()
    again = {**request, "examples": [{**example, "image_bytes": base64_of(IMAGE)}]}
    problem = problem_of(http.post("/v1/classes", json=again))
    assert (problem["status"], problem["code"]) == (409, "ALREADY_EXISTS")
    body = {"image_bytes": base64_of(IMAGE), "classes": ["cell / big"]}
    assert http.post("/v1/segment", json=body).status_code == 200
    removed = http.delete("/v1/classes/cell%20%2F%20big")
    assert removed.status_code == 200 and removed.json()["classes"] == []
    assert problem_of(http.delete("/v1/classes/cell%20%2F%20big"))["status"] == 404
    by_text = {"name": "cell", "texts": ["cell", "nucleus"], "negatives": ["debris"]}
    assert http.post("/v1/classes", json=by_text).json()["classes"] == [
        {**by_text, "prototypes": 0}
    ]
    assert http.delete("/v1/classes/cell").json()["classes"] == []


def test_describe_has_limits_as_numbers(http: httpx.Client) -> None:
    record = http.get("/v1/describe").json()
    assert record["limits"]["max_image_bytes"] == 200_000
    assert record["model"]["image_size"] > 0


def test_front_is_live_and_ready(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready"}


def test_metrics_count_by_route_and_phase(http: httpx.Client, front: Front) -> None:
    line = 'cpcsam_http_request_seconds_count{code="200",method="GET",route="/v1/describe"}'
    calls = 'cpcsam_http_phase_seconds_count{phase="gateway"}'
    wait_for_front(front, "cpcsam_http_in_flight_requests", 0)
    before = front.metric(line), front.metric(calls)
    http.get("/v1/describe")
    wait_for_front(front, line, before[0] + 1)
    wait_for_front(front, calls, before[1] + 1)
    http.get("/v2/classes")
    wait_for_front(front, "cpcsam_http_in_flight_requests", 0)
    assert front.metric('cpcsam_http_request_seconds_count{code="404",method="GET",route="other"}')
    assert front.metric("cpcsam_http_held_bytes") == 0
    assert types_of(front.metrics_url) == page_of_reference("HTTP front")


GUIDE = (ROOT / "docs/guides/http.md").read_text()
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.M | re.S)


def test_documented_commands_are_answered(front: Front) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; on Debian: apt-get install curl")
    assert len(COMMANDS) == 3
    for block in COMMANDS:
        script = block.replace("http://127.0.0.1:8080", front.url).replace(
            "curl -s", "curl -s --fail-with-body"
        )
        done = subprocess.run(
            ["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
