"""Watchers of the health service: news for all, whatever the others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.gateway.health_watch import WatchedHealth
from tests.support.servers.raw_http2 import RawConnection

STATUSES = health_pb2.HealthCheckResponse
REQUEST = health_pb2.HealthCheckRequest()


@asynccontextmanager
async def served(servicer: WatchedHealth) -> AsyncIterator[tuple[str, health_pb2_grpc.HealthStub]]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield address, health_pb2_grpc.HealthStub(channel)
    finally:
        await server.stop(None)


async def test_watchers_hear_changes_beside_one_that_left_and_one_that_does_not_read() -> None:
    servicer = WatchedHealth()
    async with served(servicer) as (address, stub):
        with RawConnection(address, window=0) as unread:
            unread.call("/grpc.health.v1.Health/Watch", b"")
            left, stays = stub.Watch(REQUEST), stub.Watch(REQUEST)
            for watch in (left, stays):
                assert (await watch.read()).status == STATUSES.SERVING
            left.cancel()
            for status in (STATUSES.NOT_SERVING, STATUSES.SERVING):
                await asyncio.wait_for(servicer.set(health.OVERALL_HEALTH, status), 60)
                assert (await asyncio.wait_for(stays.read(), 60)).status == status


async def test_shutdown_tells_watchers_and_ends_them() -> None:
    servicer = WatchedHealth()
    async with served(servicer) as (_, stub):
        known, unknown = stub.Watch(REQUEST), stub.Watch(health_pb2.HealthCheckRequest(service="x"))
        assert (await known.read()).status == STATUSES.SERVING
        assert (await unknown.read()).status == STATUSES.SERVICE_UNKNOWN
        await servicer.enter_graceful_shutdown()
        await servicer.set(health.OVERALL_HEALTH, STATUSES.SERVING)
        assert (await known.read()).status == STATUSES.NOT_SERVING
        for watch in (known, unknown):
            assert await asyncio.wait_for(watch.read(), 60) is grpc.aio.EOF
        assert (await stub.Check(REQUEST)).status == STATUSES.NOT_SERVING
