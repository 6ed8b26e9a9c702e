"""Health service of the gateway: it serves while any Triton passes its probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from grpc_health.v1 import health, health_pb2

from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.inference.triton_client import TritonClient

__all__ = ["SERVICE", "publish_health"]

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Segmentation"].full_name


@asynccontextmanager
async def publish_health(
    servicer: health.aio.HealthServicer, triton: TritonClient
) -> AsyncIterator[None]:
    """Publish the health of the server and of its service while the block runs.

    After the block both report NOT_SERVING, so that load balancers send no further requests while
    the running ones are drained.
    """
    await _publish(servicer, triton)
    watcher = asyncio.create_task(_publish_changes(servicer, triton))
    try:
        yield
    finally:
        watcher.cancel()
        await servicer.enter_graceful_shutdown()


async def _publish_changes(servicer: health.aio.HealthServicer, triton: TritonClient) -> None:
    while True:
        await triton.replicas.wait_for_change()
        await _publish(servicer, triton)


async def _publish(servicer: health.aio.HealthServicer, triton: TritonClient) -> None:
    statuses = health_pb2.HealthCheckResponse
    status = statuses.SERVING if triton.replicas.is_up else statuses.NOT_SERVING
    for name in (health.OVERALL_HEALTH, SERVICE):
        await servicer.set(name, status)
