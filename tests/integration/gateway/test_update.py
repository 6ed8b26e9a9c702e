"""A gateway is replaced without a failed request, and classes are restored while gateways run."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cpcsam.artifacts.versions import list_versions
from cpcsam.client import Example, SegmentationClient, encode_image
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.health import SERVICE
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import LIMITS, assert_same, clicks, picture
from tests.support.documentation import Page
from tests.support.paths import ROOT

pytestmark = pytest.mark.triton

CLIENTS = 3
TIMEOUT_S = 60
STATUSES = health_pb2.HealthCheckResponse


class ServiceAddress:
    """An address that leads new connections to one gateway, as a Service of Kubernetes does.

    Attributes:
        target: HOST:PORT where new connections lead; old ones stay where they are.
        open: number of connections by target.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.open = Counter[str]()
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> ServiceAddress:
        self._ends = asyncio.Event()
        self._thread.start()
        self._listens.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.address = "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        self._listens.set()
        await self._ends.wait()
        server.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.target
        self.open[target] += 1
        host, _, port = target.rpartition(":")
        reader_there, writer_there = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_copy(reader, writer_there), _copy(reader_there, writer))
        self.open[target] -= 1


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
def leaving(triton: TritonServer) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in a process of its own, and its address."""
    words = ["--triton", triton.grpc_url, "--port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.gateway", *words, "--max-connection-age", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[1]
    finally:
        process.kill()
        process.communicate()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_gateway_that_is_replaced_fails_no_request(
    leaving: tuple[subprocess.Popen[str], str], gateway: Gateway
) -> None:
    process, address = leaving
    image = picture(90)
    counts, ends, failed = [0] * CLIENTS, threading.Event(), list[Exception]()

    def ask(number: int) -> None:
        with SegmentationClient(service.address, timeout_s=TIMEOUT_S, retry=False) as client:
            while not ends.is_set():
                try:
                    client.segment(image, clicks(1, number))
                except Exception as error:
                    failed.append(error)
                counts[number] += 1

    def wait_for_answers() -> None:
        """Wait until every client has been answered twice more."""
        goals = [count + 2 for count in counts]
        wait_until(lambda: all(count >= goal for count, goal in zip(counts, goals, strict=True)))

    request = pb.SegmentRequest(
        image_bytes=encode_image(image), prompts=[pb.Prompt(points=[pb.Point(x=9, y=9)])]
    )
    asked: queue.Queue[pb.SegmentRequest | None] = queue.Queue()
    with (
        ServiceAddress(address) as service,
        ThreadPoolExecutor(CLIENTS) as pool,
        grpc.insecure_channel(address) as channel,
    ):
        try:
            statuses = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=SERVICE)
            )
            while next(statuses).status != STATUSES.SERVING:
                pass
            accepted = pb_grpc.SegmentationStub(channel).SegmentStream(iter(asked.get, None))
            asked.put(request)
            assert next(accepted).HasField("response")
            running = [pool.submit(ask, number) for number in range(CLIENTS)]
            wait_for_answers()
            assert service.open.keys() == {address}

            # While the container pauses before SIGTERM, callers connect anew, and elsewhere.
            service.target = gateway.address
            wait_until(lambda: service.open[address] == 0 and service.open[gateway.address] > 0)
            process.send_signal(signal.SIGTERM)
            assert next(statuses).status == STATUSES.NOT_SERVING
            asked.put(request)  # after the signal, in a call that was accepted before it
            assert next(accepted).HasField("response")
            assert process.poll() is None, "it waits for the accepted call"
            wait_for_answers()
        finally:
            asked.put(None)
            ends.set()
        assert next(accepted, None) is None
        assert process.wait(TIMEOUT_S) == 0
        for one in running:
            one.result()
    assert failed == []


def test_classes_are_restored_under_running_gateways_as_the_runbook_says(
    triton: TritonServer, tmp_path: Path, rare_probes: None
) -> None:
    page = Page(Path("docs/guides/runbook.md")).section("## Backup and restore of classes")
    backup, restore = re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)
    folder, tenant = tmp_path / "classes", EVERYBODY.tenant
    variables = {"CLASSES": str(folder), "BACKUP": str(tmp_path / "saved"), "TENANT": tenant}

    def follow(script: str) -> None:
        done = subprocess.run(
            ["bash", "-c", script], env=os.environ | variables, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")

    config = GatewayConfig(
        triton=triton.grpc_url, port=0, metrics_port=0, limits=LIMITS, classes=folder
    )
    image = picture(91)
    example = Example.of_masks(image, [image.mean(axis=2) > image.mean()])
    with (
        gateway_in_background(config) as one,
        gateway_in_background(config) as two,
        SegmentationClient(one.address, timeout_s=TIMEOUT_S) as changing,
        SegmentationClient(two.address, timeout_s=TIMEOUT_S) as sharing,
    ):
        added = changing.add_class("cell", [example], tile_size=0)
        before = sharing.segment(image, classes=["cell"])
        assert before.masks
        follow(backup)
        assert changing.remove_class("cell") == sharing.classes() == ()
        changing.add_class("other", [example], tile_size=0)
        follow(restore)
        assert changing.classes() == sharing.classes() == added
        for client in (changing, sharing):
            assert_same(client.segment(image, classes=["cell"]), before)
        assert sharing.remove_class("cell") == changing.classes() == ()
    assert len(list_versions(folder / tenant)) == 1
