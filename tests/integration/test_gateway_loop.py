"""Requests made to stop the gateway's event loop or to fill its memory: neither happens."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from benchmarks.chaos.services import run_delay_s
from cpcsam.artifacts.versions import writing
from cpcsam.client import encode_image
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.common.memory import PERIOD_S
from serving.gateway.scheduling.executors import FEW
from serving.triton.launch import TritonServer
from tests.support.paths import ROOT

pytestmark = pytest.mark.triton

LONG_LAG_S = "0.2"
"""An upper edge of the histogram."""
ATTEMPTS = 3
MAX_GROWTH = 500 << 20
MAX_KEPT = 100 << 20
RETURNED_S = 3 * PERIOD_S
"""Within this, freed memory is back at the system, also where the thread waits for a core."""
LARGEST = 8192
CLICK = pb.Prompt(points=[pb.Point(x=0.5, y=0.5)])
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
"""Of what takes seconds, where other programs keep the cores."""
REFUSED = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT, LATE}


@dataclass(frozen=True)
class Process:
    """A gateway in a process of its own."""

    stub: pb_grpc.SegmentationStub
    channel: grpc.Channel
    metrics_url: str
    pid: int
    classes: Path

    def lags(self) -> int:
        """Times that the loop ran later than `LONG_LAG_S`."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as answer:
            text = answer.read().decode()
        pattern = r"^cpcsam_loop_lag_seconds_{} (\S+)$"
        counts = [
            float(re.search(pattern.format(re.escape(name)), text, re.MULTILINE)[1])  # type: ignore[index]
            for name in ("count", f'bucket{{le="{LONG_LAG_S}"}}')
        ]
        return int(counts[0] - counts[1])

    def delays_s(self) -> dict[int, float]:
        """Seconds for which each thread was ready and had no core."""
        threads = (int(task.name) for task in Path(f"/proc/{self.pid}/task").iterdir())
        return {thread: run_delay_s(self.pid, thread) for thread in threads}

    def memory(self, name: str) -> int:
        """Bytes that the kernel tells of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split(f"{name}:", 1)[1].split()[0]) << 10

    def returns_to_below(self, bound: int) -> bool:
        """Wait until fewer bytes are resident; say whether it came to that."""
        end = time.monotonic() + RETURNED_S
        while self.memory("VmRSS") >= bound:
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True


@pytest.fixture(scope="module")
def gateway(shipped: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    classes = tmp_path_factory.mktemp("classes")
    command = [sys.executable, "-m", "serving.gateway", "--triton", shipped.grpc_url]
    options = {"--port": 0, "--metrics-port": 0, "--classes": classes, "--max-seconds": 20}
    process = subprocess.Popen(
        [*command, *(str(word) for pair in options.items() for word in pair)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address, url = (process.stdout.readline().split()[1] for _ in range(2))
        unlimited = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(address, options=unlimited) as channel:
            stub = pb_grpc.SegmentationStub(channel)
            stub.Segment(pb.SegmentRequest(image_bytes=png(30, 20), prompts=[CLICK]), timeout=300)
            yield Process(stub, channel, url, process.pid, classes)
    finally:
        process.terminate()
        process.communicate(timeout=120)
        process.kill()


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def status_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def clicks_on_a_line(gateway: Process) -> None:
    clicks = [pb.Prompt(points=[pb.Point(x=200 * index, y=0)]) for index in range(256)]
    request = pb.SegmentRequest(image_bytes=png(60_000, 1), tile_size=1, prompts=clicks)
    # It may be answered, as long as others are.
    status_of(lambda: gateway.stub.Segment(request, timeout=3))


def everything_on_a_line(gateway: Process) -> None:
    everything = pb.Everything(points_per_side=1)
    request = pb.SegmentRequest(image_bytes=png(60_000, 1), tile_size=1, everything=everything)
    code = status_of(lambda: gateway.stub.Segment(request, timeout=20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    request.image_bytes = png(2**26, 1)
    code = status_of(lambda: gateway.stub.Segment(request, timeout=20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def class_in_tiny_tiles(gateway: Process) -> None:
    mask = pb.CocoRle(size=pb.Size(height=LARGEST, width=LARGEST), counts="0PPPPP2")
    request = pb.AddClassRequest(
        name="tiny",
        tile_size=1,
        examples=[pb.Example(image_bytes=png(LARGEST, LARGEST), entities=[mask])],
    )
    # All cells are of the class, which leaves no background.
    assert status_of(lambda: gateway.stub.AddClass(request, timeout=60)) in REFUSED


def class_of_huge_masks(gateway: Process) -> None:
    mask = pb.CocoRle(size=pb.Size(height=LARGEST, width=LARGEST), counts="0PPPPP2")
    content = png(LARGEST, LARGEST)
    request = pb.AddClassRequest(
        name="huge", examples=[pb.Example(image_bytes=content, entities=[mask] * 15)] * 4
    )
    assert status_of(lambda: gateway.stub.AddClass(request, timeout=60)) in REFUSED
    request.examples.add(image_bytes=png(100, 100), entities=[mask])
    assert status_of(lambda: gateway.stub.AddClass(request, timeout=60)) in REFUSED


def empty_fields(gateway: Process) -> None:
    call = gateway.channel.unary_unary("/cpcsam.v1.Segmentation/Segment")
    code = status_of(lambda: call(b"\x42\0" * 19_000_000, timeout=30))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def slow_header(gateway: Process) -> None:
    content = b"\xff\xd8\xff" + b"\xe0\0\2\xff" * 2_000_000
    request = pb.SegmentRequest(image_bytes=content, prompts=[CLICK])
    code = status_of(lambda: gateway.stub.Segment(request, timeout=30))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, LATE)


def held_lock(gateway: Process) -> None:
    image = encode_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    with writing(gateway.classes / "everybody"), ThreadPoolExecutor(4 * FEW) as pool:
        request = pb.RemoveClassRequest(name="none")
        waiting = [
            pool.submit(status_of, lambda: gateway.stub.RemoveClass(request, timeout=20))
            for _ in range(4 * FEW)
        ]
        asked = pb.SegmentRequest(image_bytes=image, prompts=[CLICK])
        for _ in range(5):
            gateway.stub.Segment(asked, timeout=20)
            gateway.stub.ListClasses(pb.ListClassesRequest(), timeout=10)
        codes = {each.result() for each in waiting}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize(
    "ask",
    [
        clicks_on_a_line,
        everything_on_a_line,
        class_in_tiny_tiles,
        class_of_huge_masks,
        empty_fields,
        slow_header,
        held_lock,
    ],
)
def test_hostile_request_neither_blocks_the_loop_nor_fills_the_memory(
    gateway: Process, ask: Callable[[Process], None]
) -> None:
    used = gateway.memory("VmRSS")
    for _ in range(ATTEMPTS):
        before, delayed_s = gateway.lags(), gateway.delays_s()
        Path(f"/proc/{gateway.pid}/clear_refs").write_text("5")  # starts the peak anew
        ask(gateway)
        assert gateway.memory("VmHWM") - used < MAX_GROWTH
        # A loop that waits for a core is late as well, or for a thread that holds the interpreter.
        waits_s = (s - delayed_s.get(thread, 0.0) for thread, s in gateway.delays_s().items())
        explained = max(waits_s) // float(LONG_LAG_S)
        if (lags := gateway.lags() - before) <= explained:
            break
    assert lags <= explained
    assert gateway.returns_to_below(used + MAX_KEPT)


def test_memory_of_refused_requests_is_returned(gateway: Process) -> None:
    used = gateway.memory("VmRSS")
    content = b"\x89PNG\r\n\x1a\n" + b"\xff" * (30 << 20)
    request = pb.SegmentRequest(image_bytes=content, prompts=[CLICK])
    for _ in range(8):
        code = status_of(lambda: gateway.stub.Segment(request, timeout=30))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert gateway.returns_to_below(used + MAX_KEPT)
