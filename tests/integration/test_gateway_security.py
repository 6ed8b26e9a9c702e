"""Tokens and TLS of the gateway: refusals, and logs without tokens."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cpcsam.cli.main import main as cli
from cpcsam.client import AsyncSegmentationClient, Prompt, SegmentationClient
from cpcsam.client._channel import Endpoint
from cpcsam.errors import ConfigError
from cpcsam.grpc_errors import AuthenticationError, UnavailableError
from serving import health
from serving.common.tls import TlsFiles, tls_files
from serving.gateway.auth.tokens import USER, digest_of
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from tests.support.servers.gateway_watch import make_certificate

TOKEN = "a-token-of-the-lab-that-no-log-may-show"
WRONG = "a-wrong-token-that-no-log-may-show"
IMAGE = np.zeros((20, 30, 3), np.uint8)
CLICK = [Prompt.click(3, 4)]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    path.write_text(f"lab {USER} {digest_of(TOKEN)}\n")
    return path


@pytest.fixture(scope="module")
def secured(tls: TlsFiles, tokens: Path) -> Iterator[Gateway]:
    """A gateway with tokens and TLS but no Triton: admitted callers get UNAVAILABLE."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        triton = f"127.0.0.1:{unused.getsockname()[1]}"
        config = GatewayConfig(triton=triton, port=0, metrics_port=0, tokens=tokens, tls=tls)
        with gateway_in_background(config) as gateway:
            yield gateway


def client(gateway: Gateway, tls: TlsFiles | None, token: str | None) -> SegmentationClient:
    ca = None if tls is None else tls.certificate
    return SegmentationClient(gateway.address, timeout_s=60, token=token, ca=ca, retry=False)


def test_call_with_a_known_token_is_admitted(secured: Gateway, tls: TlsFiles) -> None:
    with client(secured, tls, TOKEN) as known:
        with pytest.raises(UnavailableError, match="inference server: got none that is ready"):
            known.segment(IMAGE, CLICK)
        assert "token" not in repr(known._methods._endpoint).replace("token=", "")


@pytest.mark.parametrize(("token", "got"), [(None, "no token"), (WRONG, "an unknown token")])
def test_call_without_a_known_token_is_refused(
    secured: Gateway, tls: TlsFiles, token: str | None, got: str
) -> None:
    with client(secured, tls, token) as unknown:
        for call in (unknown.describe, lambda: unknown.segment(IMAGE, CLICK)):
            with pytest.raises(AuthenticationError, match=f"authorization: got {got}"):
                call()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_plain_text_call_to_a_tls_gateway_is_refused(secured: Gateway, token: str | None) -> None:
    with client(secured, None, token) as plain, pytest.raises(UnavailableError):
        plain.describe()


def test_client_with_another_certificate_does_not_trust_the_gateway(
    secured: Gateway, tls: TlsFiles, tmp_path: Path
) -> None:
    with client(secured, make_certificate(tmp_path), TOKEN) as wary:
        with pytest.raises(UnavailableError):
            wary.describe()


def test_clients_may_name_what_the_certificate_is_for(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = make_certificate(tmp_path, addresses=())
    config = GatewayConfig(triton="127.0.0.1:9", port=0, metrics_port=0, tokens=tokens, tls=tls)

    assert Endpoint("x:1", tls_name="localhost").credentials() is not None
    assert Endpoint("x:1").credentials() is None

    async def ask(address: str) -> None:
        ca = tls.certificate
        async with AsyncSegmentationClient(address, ca=ca, tls_name="localhost") as named:
            await named.describe()

    with gateway_in_background(config) as gateway:
        words = ["status", "--address", gateway.address, "--ca", str(tls.certificate)]
        assert cli([*words, "--timeout", "2"]) == 2
        assert "expected a certificate that names this host" in capsys.readouterr().err
        assert cli([*words, "--tls-name", "localhost"]) == 2
        assert "authorization: got no token" in capsys.readouterr().err
        with pytest.raises(AuthenticationError):
            asyncio.run(ask(gateway.address))


def test_reflection_needs_a_token_and_health_does_not(secured: Gateway, tls: TlsFiles) -> None:
    credentials = grpc.ssl_channel_credentials(tls.certificate.read_bytes())
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.secure_channel(secured.address, credentials) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        with pytest.raises(grpc.RpcError) as caught:
            next(info(iter([request]), timeout=60))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        known = (("authorization", f"Bearer {TOKEN}"),)
        assert next(info(iter([request]), timeout=60, metadata=known)).list_services_response


def test_health_command_trusts_the_gateways_certificate_alone_and_needs_no_token(
    secured: Gateway, tls: TlsFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_certificate(tmp_path).certificate
    for certificate, got in (
        (tls.certificate, "NOT_SERVING"),
        (other, ".*certificate verify failed.*"),
        (tls.key, ".*"),
    ):
        words = ["--address", secured.address, "--tls-cert", str(certificate)]
        assert health.main(words) == 2
        assert re.search(f"got {got}, expected", capsys.readouterr().err), certificate
    assert health.main(["--address", secured.address, "--timeout", "1"]) == 2


def test_logs_contain_no_token(
    tokens: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = GatewayConfig(triton="127.0.0.1:9", port=0, metrics_port=0, tokens=tokens)
    with gateway_in_background(config) as gateway:
        for token in (TOKEN, WRONG):
            with (
                client(gateway, None, token) as unknown,
                pytest.raises((UnavailableError, AuthenticationError)),
            ):
                unknown.segment(IMAGE, CLICK, request_id="logged")
    assert "logged" in caplog.text
    assert TOKEN not in caplog.text and WRONG not in caplog.text


def test_status_command_sends_the_token(
    secured: Gateway, tls: TlsFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    options = ["--address", secured.address, "--ca", str(tls.certificate), "--timeout", "10"]
    assert cli(["status", *options, "--token-file", str(file)]) == 2
    assert "inference server: got none that is ready" in capsys.readouterr().err
    assert cli(["status", *options]) == 2
    assert "authorization: got no token" in capsys.readouterr().err


def test_start_with_mismatched_tls_files_is_refused(tls: TlsFiles, tmp_path: Path) -> None:
    other = make_certificate(tmp_path)
    for files in (
        TlsFiles(tls.certificate, other.key),
        TlsFiles(tmp_path / "none.pem", tls.key),
        TlsFiles(tls.key, tls.key),
    ):
        with pytest.raises(ConfigError, match="expected a certificate and its private key"):
            files.credentials()
    with pytest.raises(ConfigError, match="TLS: got --tls-cert alone"):
        tls_files(tls.certificate, None)
