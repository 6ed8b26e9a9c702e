"""Asyncio client against the real gateway: results, errors, retries and cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cpcsam.client import Prompt, SegmentationClient
from cpcsam.client.async_client import AsyncSegmentationClient
from cpcsam.errors import ConfigError, ContractError
from cpcsam.grpc_errors import AuthenticationError, DeadlineError, FullError, UnavailableError
from serving.gateway.auth.tokens import USER, digest_of
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.support.servers.gateway_watch import (
    free_port,
    make_certificate,
    metric,
    silent_triton,
    wait_for,
)

CLICK = [Prompt.click(3, 4)]


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, rare_probes: None) -> Iterator[Gateway]:
    config = GatewayConfig(
        triton=triton.grpc_url, port=0, metrics_port=0, limits=Limits(cache_bytes=300_000)
    )
    with gateway_in_background(config) as running:
        yield running


@pytest.fixture(scope="module")
def silent() -> Iterator[Gateway]:
    with silent_triton() as triton:
        config = GatewayConfig(
            triton=triton, port=0, metrics_port=0, limits=Limits(max_in_flight=2)
        )
        with gateway_in_background(config) as running:
            yield running


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[AsyncSegmentationClient]:
    async with AsyncSegmentationClient(gateway.address) as connected:
        yield connected


@pytest.mark.triton
async def test_async_segment_by_many_tasks_equals_the_sync_client(
    gateway: Gateway, client: AsyncSegmentationClient
) -> None:
    prompts = [Prompt.click(5, 6), Prompt(box=(4, 4, 30, 20))]
    many = await asyncio.gather(*(client.segment(picture(seed), prompts) for seed in range(6)))
    with SegmentationClient(gateway.address) as waiting:
        for seed, result in enumerate(many):
            alone = waiting.segment(picture(seed), prompts)
            assert result.image_id == alone.image_id and result.prompts == tuple(prompts)
            for (mine,), (theirs,) in zip(result.masks, alone.masks, strict=True):
                assert mine.score == pytest.approx(theirs.score, rel=1e-4)
                union = (mine.array | theirs.array).sum()
                assert (mine.array & theirs.array).sum() >= 0.999 * union
        assert await client.describe() == waiting.describe()
    assert await client.healthy()
    assert await client.classes() == ()


@pytest.mark.triton
async def test_async_segment_references_a_known_image_and_resends_an_evicted_one(
    client: AsyncSegmentationClient,
) -> None:
    assert not (await client.segment(picture(10), CLICK)).cached
    assert (await client.segment(picture(10), CLICK)).cached
    await client.segment(picture(11), CLICK)  # the cache has room for one
    assert not (await client.segment(picture(10), CLICK)).cached


@pytest.mark.triton
async def test_async_segment_raises_the_errors_of_the_sync_client(
    client: AsyncSegmentationClient,
) -> None:
    with pytest.raises(ContractError, match=r"got \(500, 4\), expected 0 <= x < 70"):
        await client.segment(picture(1), [Prompt.click(500, 4)])
    with pytest.raises(ContractError, match="nowhere.png: got No such file"):
        await client.segment("nowhere.png", CLICK)


async def test_async_describe_retries_until_the_deadline() -> None:
    config = GatewayConfig(triton=f"127.0.0.1:{free_port()}", port=0, metrics_port=0)
    with gateway_in_background(config) as gateway:
        async with AsyncSegmentationClient(gateway.address, timeout_s=60, retry=False) as client:
            with pytest.raises(UnavailableError, match="^inference server: got none"):
                await client.describe()
            assert not await client.healthy()
        async with AsyncSegmentationClient(gateway.address, timeout_s=5) as client:
            # The deadline may also cut an attempt short.
            with pytest.raises((UnavailableError, DeadlineError)):
                await client.describe()
        line = 'cpcsam_request_seconds_count{code="UNAVAILABLE",method="Describe"}'
        assert (metric(gateway, line) or 0) >= 1 + 3


async def test_async_client_without_a_gateway_names_its_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with AsyncSegmentationClient(address, timeout_s=60, retry=False) as client:
        with pytest.raises(UnavailableError, match=f"^{address}: got .*; start it or correct"):
            await client.describe()
        assert not await client.healthy()


async def test_async_segment_keeps_its_deadline(silent: Gateway) -> None:
    async with AsyncSegmentationClient(silent.address, timeout_s=0.5) as client:
        started = time.monotonic()
        with pytest.raises(
            DeadlineError, match="expected an answer within 0.5 s|expected an answer in time"
        ):
            await client.segment(picture(0), CLICK)
        assert time.monotonic() - started >= 0.4
    await asyncio.to_thread(wait_for, silent, "cpcsam_in_flight_requests", 0)


async def within(limit: asyncio.Timeout, call: Awaitable[object]) -> None:
    async with limit:
        await call


async def test_async_segment_when_cancelled_frees_its_permit(silent: Gateway) -> None:
    cancelled = 'cpcsam_request_seconds_count{code="CANCELLED",method="Segment"}'
    before = metric(silent, cancelled) or 0
    async with AsyncSegmentationClient(silent.address, timeout_s=60, retry=False) as client:
        task = asyncio.create_task(client.segment(picture(0), CLICK))
        await asyncio.to_thread(wait_for, silent, "cpcsam_in_flight_requests", 1)
        limit = asyncio.timeout(None)
        timed = asyncio.create_task(within(limit, client.segment(picture(1), CLICK)))
        await asyncio.to_thread(wait_for, silent, "cpcsam_in_flight_requests", 2)
        with pytest.raises(FullError, match="requests in flight: got 2 already"):
            await client.segment(picture(2), CLICK)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        limit.reschedule(asyncio.get_running_loop().time())
        with pytest.raises(TimeoutError):
            await timed
        await asyncio.to_thread(wait_for, silent, "cpcsam_in_flight_requests", 0)
    await asyncio.to_thread(wait_for, silent, cancelled, before + 2)


async def test_async_segment_encodes_images_outside_the_event_loop() -> None:
    threads: list[int] = []

    class Watched(Image.Image):
        def save(self, *args: Any, **options: Any) -> None:
            threads.append(threading.get_ident())
            super().save(*args, **options)

    image = Image.new("RGB", (8, 8))
    image.__class__ = Watched
    address = f"127.0.0.1:{free_port()}"
    async with AsyncSegmentationClient(address, timeout_s=60, retry=False) as client:
        with pytest.raises(UnavailableError):
            await client.segment(image, CLICK)
    assert len(threads) == 1 and threads[0] != threading.get_ident()


async def test_async_client_uses_token_and_certificate(tmp_path: Path) -> None:
    tls, tokens = make_certificate(tmp_path), tmp_path / "tokens.txt"
    tokens.write_text(f"lab {USER} {digest_of('secret')}\n")
    triton = f"127.0.0.1:{free_port()}"
    config = GatewayConfig(triton=triton, port=0, metrics_port=0, tokens=tokens, tls=tls)
    with gateway_in_background(config) as gateway:
        for token, error in (("secret", UnavailableError), ("wrong", AuthenticationError)):
            async with AsyncSegmentationClient(
                gateway.address, timeout_s=60, retry=False, token=token, ca=tls.certificate
            ) as client:
                with pytest.raises(error):
                    await client.describe()


@pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])
def test_async_client_with_invalid_certificates_is_refused_at_once(
    kind: type[Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="got No such file or directory, expected a file of cert"):
        kind(ca=tmp_path / "none.pem")


def test_async_client_made_outside_an_event_loop_works_in_one() -> None:
    client = AsyncSegmentationClient(f"127.0.0.1:{free_port()}", timeout_s=60)

    async def is_healthy() -> bool:
        async with client:
            return await client.healthy()

    assert not asyncio.run(is_healthy())
