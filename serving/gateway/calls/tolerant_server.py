"""gRPC server that survives method names which are not UTF-8.

In grpcio's asyncio server (1.85 at least) the loop that accepts calls decodes the name of a method
that is not registered, and ends with the first that is not UTF-8. Here such calls never reach that
loop. All methods that are served are registered, by the code that is generated from .proto files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NoReturn, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

__all__ = ["tolerant_server"]

UNKNOWN: Final = "/unknown"


class _AcceptingServer(cygrpc.AioServer):  # type: ignore[misc]
    """Refuses calls of unregistered methods by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *args: Any) -> None:
        super().__init__(loop, *args)
        self._own_loop = loop
        self._own_interceptors = args[2]
        self._refusals: set[asyncio.Task[None]] = set()

    async def _request_call(self) -> NoReturn:
        while True:
            state = await super()._request_call()
            resolver = cygrpc._MethodResolver([], {})
            # Ends with UNIMPLEMENTED, or as an interceptor refuses it.
            refusal = cygrpc._handle_rpc(
                UNKNOWN, resolver, self._own_interceptors, state, self._own_loop, False
            )
            task = self._own_loop.create_task(
                cygrpc._schedule_rpc_coro(refusal, state, self._own_loop, UNKNOWN)
            )
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)


class _TolerantServer(Server):
    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
    ) -> None:
        # In place of the original's, which would make another server.
        self._loop = cygrpc.get_working_loop()
        self._server = _AcceptingServer(
            self._loop, None, (), tuple(interceptors), tuple(options), None
        )


def tolerant_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]]
) -> grpc.aio.Server:
    """Make a server like `grpc.aio.server`; only registered methods are served.

    Args:
        interceptors: in their order.
        options: channel arguments of gRPC.
    """
    return cast(grpc.aio.Server, _TolerantServer(interceptors, options))
