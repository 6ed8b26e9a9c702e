"""HTTP endpoint of the metrics: its page, other requests, and clients that never finish."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cpcsam.errors import ServingError
from serving.common import metrics_server as module
from serving.common.metrics_server import serve_metrics
from serving.gateway.metrics import Metrics

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


async def send(port: int, data: bytes) -> bytes:
    """What is answered until the server has said all; the client says no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


async def test_serve_metrics_shows_counts_and_frees_its_port() -> None:
    metrics = Metrics()
    metrics.request_seconds.labels("Segment", "OK").observe(0.012)
    metrics.prompts.inc(3)
    metrics.rejected.labels("in_flight").inc()
    async with serve_metrics(metrics.registry, "127.0.0.1", 0) as port:
        text = (await send(port, GET)).decode()
        with pytest.raises(ServingError, match=rf"metrics port: got 127.0.0.1:{port}"):
            async with serve_metrics(Metrics().registry, "127.0.0.1", port):
                pytest.fail("two servers share a port")
    for line in (
        'cpcsam_request_seconds_bucket{code="OK",le="0.01",method="Segment"} 0.0',
        'cpcsam_request_seconds_bucket{code="OK",le="0.015",method="Segment"} 1.0',
        'cpcsam_request_seconds_count{code="OK",method="Segment"} 1.0',
        "cpcsam_in_flight_requests 0.0",
        "cpcsam_prompts_total 3.0",
        'cpcsam_rejected_total{reason="in_flight"} 1.0',
        'cpcsam_rejected_total{reason="open_calls"} 0.0',
    ):
        assert line in text.splitlines()
    async with serve_metrics(Metrics().registry, "127.0.0.1", port) as again:
        assert again == port


async def test_what_gauges_follow_is_read_in_the_event_loop_for_each_page() -> None:
    metrics, threads = Metrics(), []

    def backlog_s() -> float:
        threads.append(threading.current_thread())
        return 1.5 * len(threads)

    metrics.follow(metrics.backlog_seconds.labels("decode"), backlog_s)
    async with serve_metrics(metrics.registry, "127.0.0.1", 0, metrics.refresh) as port:
        pages = [await send(port, GET) for _ in range(2)]
    for page, value in zip(pages, (b"1.5", b"3.0"), strict=True):
        assert b'cpcsam_backlog_seconds{queue="decode"} ' + value in page
    assert threads == [threading.current_thread()] * 2


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", b"405"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 1000 + b"\r\n", b"431"),
        (b"\x16\x03\x01 TLS to a plain port\r\n\r\n", b"400"),
    ],
)
async def test_request_is_answered_with_its_status(data: bytes, status: bytes) -> None:
    async with serve_metrics(Metrics().registry, "127.0.0.1", 0) as port:
        assert (await send(port, data)).split(b" ")[1].startswith(status)


async def test_connection_answers_several_requests() -> None:
    async with serve_metrics(Metrics().registry, "127.0.0.1", 0) as port:
        assert (await send(port, GET * 3)).count(b"HTTP/1.1 200") == 3


async def test_page_is_written_beside_the_loop() -> None:
    threads: list[threading.Thread] = []

    class Noting(Collector):
        def collect(self) -> Iterable[Metric]:
            threads.append(threading.current_thread())
            return []

    registry = CollectorRegistry()
    registry.register(Noting())
    threads.clear()
    async with serve_metrics(registry, "127.0.0.1", 0) as port:
        await send(port, GET)
    assert threads and threading.current_thread() not in threads


async def test_many_requests_leave_the_loop_to_others() -> None:
    metrics = Metrics()
    async with serve_metrics(metrics.registry, "127.0.0.1", 0) as port:
        answers = asyncio.gather(*(send(port, GET) for _ in range(20)))
        started, busy = time.perf_counter(), time.process_time()
        assert all(b" 200 " in answer for answer in await answers)
        busy, passed = time.process_time() - busy, time.perf_counter() - started
    assert busy < 0.6 * passed  # a quarter, and what the clients take


async def test_half_sent_requests_hold_one_thread_and_shut_no_scrape_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REQUEST_S", 600.0)  # only later connections end them
    before = threading.active_count()
    async with serve_metrics(Metrics().registry, "127.0.0.1", 0) as port:
        half = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        for _, writer in half:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        assert b" 200 " in await send(port, GET)
        assert threading.active_count() <= before + 1
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in half]
        async with asyncio.timeout(60):
            while sum(not end.done() for end in ended) >= module.MAX_CONNECTIONS:
                await asyncio.sleep(0.01)
        for end, (_, writer) in zip(ended, half, strict=True):
            end.cancel()
            writer.close()
        await asyncio.gather(*ended, return_exceptions=True)


async def test_endless_header_is_not_read() -> None:
    async with serve_metrics(Metrics().registry, "127.0.0.1", 0) as port:
        with pytest.raises(ConnectionError):
            await send(port, b"GET /metrics HTTP/1.1\r\nHost: " + b"x" * 2_000_000)


async def test_unfinished_request_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_S", 0.2)
    async with serve_metrics(Metrics().registry, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\n")
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
