"""HTTP fronts before gateways of the real Triton, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.http.front import Front, running_front
from serving.gateway.auth.tokens import EDITOR, USER, digest_of
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import LIMITS

TOKEN = "a-token-of-a-user-that-no-log-may-show"
EDIT_TOKEN = "a-token-of-an-editor-that-no-log-may-show"


@pytest.fixture(scope="session")
def http_gateway(
    triton: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway without tokens, whose classes can be changed."""
    config = GatewayConfig(
        triton=triton.grpc_url,
        port=0,
        metrics_port=0,
        limits=LIMITS,
        classes=tmp_path_factory.mktemp("classes"),
    )
    with gateway_in_background(config) as running:
        yield running


@pytest.fixture(scope="session")
def front(http_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The front of that gateway, which takes bodies of a MiB."""
    log = tmp_path_factory.mktemp("front") / "log"
    with running_front(http_gateway.address, log, "--max-body-bytes", str(2**20)) as running:
        yield running
    assert "Traceback" not in log.read_text()


@pytest.fixture
def http(front: Front) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=front.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a token of a user and one of an editor."""
    folder = tmp_path_factory.mktemp("guarded")
    tokens = folder / "tokens.txt"
    lines = ((USER, TOKEN), (EDITOR, EDIT_TOKEN))
    tokens.write_text("".join(f"lab {role} {digest_of(token)}\n" for role, token in lines))
    config = GatewayConfig(
        triton=triton.grpc_url,
        port=0,
        metrics_port=0,
        limits=LIMITS,
        tokens=tokens,
        classes=folder / "classes",
    )
    with gateway_in_background(config) as running:
        yield running


@pytest.fixture(scope="module")
def guarded_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded-front") / "log"


@pytest.fixture(scope="module")
def guarded_front(guarded: Gateway, guarded_log: Path) -> Iterator[Front]:
    """The front of that gateway, which listens on all addresses."""
    with running_front(guarded.address, guarded_log, "--host", "0.0.0.0") as running:
        yield running
