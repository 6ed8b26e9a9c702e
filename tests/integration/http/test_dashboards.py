"""Queries of the Grafana dashboards, on a real Prometheus that scrapes the running service."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from time import monotonic, sleep
from urllib.request import urlopen

import httpx
import pytest

from benchmarks.http.front import Front
from cpcsam.client import Prompt, SegmentationClient, encode_image
from cpcsam.errors import CpcSamError
from serving.gateway.server import Gateway
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import picture
from tests.support.servers.http_front import base64_of
from tests.support.servers.prometheus import running_prometheus
from tools.dashboards import DASHBOARDS, GPU_ROW

pytestmark = pytest.mark.triton

TIMEOUT_S = 180
RATE_INTERVAL = "10s"
METRIC = re.compile(r"\b(?:cpcsam|nv)_\w+")
PANELS = [
    (f"{board}, {row}, {panel.title}, {legend}", query)
    for board, rows in DASHBOARDS.items()
    for row, panels in rows.items()
    for panel in panels
    for legend, query in panel.queries.items()
    if row != GPU_ROW
]


@pytest.fixture(scope="module")
def pages(http_gateway: Gateway, front: Front, triton: TritonServer) -> dict[str, str]:
    """URLs of `/metrics` by job, as in deploy/prometheus.yml."""
    urls = {"gateway": http_gateway.metrics_url, "http": front.metrics_url}
    return {**urls, "triton": triton.metrics_url}


@pytest.fixture(scope="module")
def prometheus(
    pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a Prometheus that scrapes the service every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, pages, "1s") as client:
        yield client


def ask(http: httpx.Client, grpc_client: SegmentationClient) -> None:
    """Send a request that is answered and one that is refused, by gRPC and by HTTP."""
    image = encode_image(picture())
    prompts = [{"points": [{"x": 3, "y": 2}]}]
    body = {"image_bytes": base64_of(image), "prompts": prompts}
    assert http.post("/v1/segment", json=body).status_code == 200
    assert http.post("/v1/segment", json={**body, "image_bytes": "AAAA"}).status_code == 400
    grpc_client.segment(image, [Prompt.click(3, 2)])
    with pytest.raises(CpcSamError):
        grpc_client.segment(b"no image", [Prompt.click(3, 2)])


def has_values(prometheus: httpx.Client, query: str) -> bool:
    query = query.replace("$__rate_interval", RATE_INTERVAL)
    try:
        response = prometheus.get("/api/v1/query", params={"query": query})
    except httpx.TransportError:  # it is still starting
        return False
    if response.status_code == 503:  # it listens and is not ready
        return False
    answer = response.json()
    assert answer["status"] == "success", f"{query}: {answer['error']}"
    return any(math.isfinite(float(one["value"][1])) for one in answer["data"]["result"])


def metrics_of(query: str) -> set[str]:
    return {re.sub("_(bucket|sum|count)$", "", name) for name in METRIC.findall(query)}


def test_each_panel_shows_the_running_service(
    pages: dict[str, str],
    prometheus: httpx.Client,
    http: httpx.Client,
    http_gateway: Gateway,
) -> None:
    exposed = set()
    for url in pages.values():
        with urlopen(url, timeout=60) as page:
            exposed |= set(re.findall(r"^# TYPE (\w+)", page.read().decode(), re.M))
    exposed = {re.sub("_(bucket|sum|count)$", "", name) for name in exposed}
    unknown = {name for _, query in PANELS for name in metrics_of(query) - exposed}
    assert unknown == set()
    empty = {title: query for title, query in PANELS if not metrics_of(query) & unknown}
    deadline = monotonic() + TIMEOUT_S
    with SegmentationClient(http_gateway.address, timeout_s=60) as grpc_client:
        while empty and monotonic() < deadline:
            ask(http, grpc_client)
            sleep(0.5)
            empty = {
                title: query for title, query in empty.items() if not has_values(prometheus, query)
            }
    assert empty == {}
