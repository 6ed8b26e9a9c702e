"""The playground in Chromium, over the real Triton, gateway and HTTP front."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.http.front import running_front
from serving.gateway.config import GatewayConfig
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.support.servers.playground import Playground, chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium, which ends with this folder: its driver keeps asyncio from tests elsewhere."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(browser: Any, shipped: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    classes = tmp_path_factory.mktemp("classes")
    config = GatewayConfig(triton=shipped.grpc_url, port=0, metrics_port=0, classes=classes)
    with gateway_in_background(config) as started:
        yield started


@pytest.fixture(scope="module")
def url(gateway: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("front") / "stderr"
    with running_front(gateway.address, log) as front:
        yield front.url


@pytest.fixture
def playground(browser: Any, url: str) -> Iterator[Playground]:
    opened = Playground(browser, url, reduced_motion="reduce")
    yield opened
    opened.close()
