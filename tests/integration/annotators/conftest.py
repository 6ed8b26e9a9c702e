"""Fixtures for annotation tools and the playground in Chromium: the shipped base, served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.http.front import running_front
from serving.gateway.config import GatewayConfig
from serving.gateway.inference import replica
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.integration.annotators.nuclei import Nuclei, served_nuclei
from tests.support.servers.playground import SIZE, Playground, chromium


@pytest.fixture(scope="package", autouse=True)
def rare_probes() -> Iterator[None]:
    """Let all gateways of this folder probe Triton rarely: a probe encodes an image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "PERIOD_S", 30.0)
        yield


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium, which ends with this folder: its driver keeps asyncio from tests elsewhere."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def context(browser: Any) -> Any:
    """Of the pages of this folder: each in a context of its own would compile its scripts anew."""
    return browser.new_context(viewport=SIZE, reduced_motion="reduce")


@pytest.fixture(scope="package")
def gateway(browser: Any, shipped: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    classes = tmp_path_factory.mktemp("classes")
    config = GatewayConfig(triton=shipped.grpc_url, port=0, metrics_port=0, classes=classes)
    with gateway_in_background(config) as started:
        yield started


@pytest.fixture(scope="package")
def url(gateway: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("front") / "stderr"
    with running_front(gateway.address, log) as front:
        yield front.url


@pytest.fixture
def playground(context: Any, url: str) -> Iterator[Playground]:
    opened = Playground(context, url)
    yield opened
    opened.close()


@pytest.fixture(scope="package")
def nuclei(shipped: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nuclei]:
    """A gateway with a class that tools ask for and none changes."""
    with served_nuclei(shipped, tmp_path_factory.mktemp("nuclei")) as served:
        yield served
