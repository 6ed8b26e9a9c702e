"""Handing traffic over from one Triton to another, as the gateway's metrics tell its progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc.aio
import pytest

from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.inference import replica
from serving.http import gateway as http_gateway
from serving.supervision import traffic
from serving.supervision.traffic import Traffic
from tests.support.servers.gateway_peer import peer_gateway

OLD, NEW = "127.0.0.1:1", "127.0.0.1:2"
Page = Callable[[Sequence[str]], dict[str, int]]
"""Metrics by name and replica, of a gateway that has read these addresses."""


@contextmanager
def gateway(folder: Path, page: Page, drain_s: float) -> Iterator[tuple[Traffic, list[str]]]:
    """Traffic of a gateway that shows a page, and the addresses that it read, each change once."""
    read: list[str] = []

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            text = (folder / "tritons").read_text()
            if read[-1:] != [text]:
                read.append(text)
            values = page(text.split())
            lines = [f"cpcsam_replica_{name} {value}.0\n" for name, value in values.items()]
            self.send_response(200)
            self.end_headers()
            self.wfile.write("".join(lines).encode())

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        moving = Traffic(folder / "tritons", f"http://127.0.0.1:{server.server_port}", drain_s)
        moving.send_to(OLD)
        try:
            yield moving, read
        finally:
            server.shutdown()


def named(name: str, replica: str) -> str:
    return f'{name}{{replica="{replica}"}}'


def test_traffic_leaves_the_old_triton_once_its_requests_have_ended(tmp_path: Path) -> None:
    left = iter([2, 1, 1, 0])

    def page(addresses: Sequence[str]) -> dict[str, int]:
        shown = {named("up", address): 1 for address in addresses}
        if addresses == [NEW, OLD]:
            shown[named("requests", OLD)] = next(left, 0)
        return shown

    with gateway(tmp_path, page, drain_s=60) as (moving, read):
        assert moving.hand_over(OLD, NEW, lambda: True)
    assert read == [f"{NEW}\n{OLD}\n", f"{NEW}\n"]
    assert next(left, None) is None


def test_traffic_leaves_the_old_triton_when_requests_outlast_their_time(tmp_path: Path) -> None:
    def page(addresses: Sequence[str]) -> dict[str, int]:
        up = {named("up", address): 1 for address in addresses}
        return up | {named("requests", address): 1 for address in addresses}

    with gateway(tmp_path, page, drain_s=0.3) as (moving, read):
        assert not moving.hand_over(OLD, NEW, lambda: True)
    assert read == [f"{NEW}\n{OLD}\n", f"{NEW}\n"]


@pytest.mark.parametrize("is_alive", [True, False])
def test_traffic_stays_when_the_new_triton_is_not_reached_or_ends(
    tmp_path: Path, is_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "ADOPT_S", 0.3 if is_alive else 600)

    def page(addresses: Sequence[str]) -> dict[str, int]:
        return {named("up", OLD): 1, named("up", NEW): 0}

    with (
        gateway(tmp_path, page, drain_s=60) as (moving, _),
        pytest.raises(ServingError, match=f"Triton at {NEW}: got no traffic from the gateway"),
    ):
        moving.hand_over(OLD, NEW, lambda: is_alive)
    assert (tmp_path / "tritons").read_text() == f"{OLD}\n"


@pytest.mark.parametrize("options", [replica.CHANNEL_OPTIONS, http_gateway.CHANNEL_OPTIONS])
async def test_calls_inside_the_service_do_not_go_by_a_proxy(
    options: Sequence[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with peer_gateway() as (address, _):
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
            assert (await stub.Describe(pb.DescribeRequest(), timeout=60)).model.size == "vit_t"
    with gateway(tmp_path, lambda addresses: {named("up", OLD): 1}, 60) as (moving, _):
        assert named("up", OLD) in moving._scrape()
