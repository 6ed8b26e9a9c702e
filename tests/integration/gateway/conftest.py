"""Gateway in front of the real Triton, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cpcsam.client import SegmentationClient
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import LIMITS


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, rare_probes: None) -> Iterator[Gateway]:
    config = GatewayConfig(triton=triton.grpc_url, port=0, metrics_port=0, limits=LIMITS)
    with gateway_in_background(config) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[SegmentationClient]:
    with SegmentationClient(gateway.address, timeout_s=60) as connected:
        yield connected
