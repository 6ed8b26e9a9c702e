"""Health service whose watchers do not depend on each other."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2

__all__ = ["WatchedHealth"]

STATUSES = health_pb2.HealthCheckResponse


class WatchedHealth(health.aio.HealthServicer):
    """gRPC's health service with a `Watch` of its own.

    grpcio-health-checking holds a lock while it writes to a watcher, so that one who does not read
    stops every change of the status; and the first watcher that leaves ends the news of the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self._statuses: dict[str, Any] = {health.OVERALL_HEALTH: STATUSES.SERVING}
        self._changed = asyncio.Event()
        self._ends = False

    async def set(self, service: str, status: Any) -> None:
        """Set the status of a service, a `HealthCheckResponse.ServingStatus`; tell the watchers."""
        await super().set(service, status)
        if not self._ends:
            self._statuses[service] = status
            self._tell()

    async def enter_graceful_shutdown(self) -> None:
        """Set all services to NOT_SERVING for good and end the watches."""
        await super().enter_graceful_shutdown()
        self._ends = True
        self._statuses = dict.fromkeys(self._statuses, STATUSES.NOT_SERVING)
        self._tell()

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> None:
        """Send the status of a service, and each later change of it."""
        sent = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, STATUSES.SERVICE_UNKNOWN)
            if status != sent:
                await context.write(STATUSES(status=status))
                sent = status
            if self._ends:
                return
            await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
