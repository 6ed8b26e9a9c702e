"""Cancellation of the requests of clients that have disconnected."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CancelOnDisconnect"]


class CancelOnDisconnect:
    """Middleware that cancels a request's task, and so its gRPC call, when its client disconnects.

    Args:
        app: what is cancelled.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Watched(scope, receive, send)
        try:
            await request.begin()
            await self._app(scope, request.receive, request.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not request.gone.is_set() or task is None:
                raise
            scope["state"]["gone"] = True
            task.uncancel()
        finally:
            request.end()


class _Watched:
    """One request, whose connection is watched from the end of its body to that of its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.gone = asyncio.Event()
        self._scope = scope
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._first: Message | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._is_answered = False

    async def begin(self) -> None:
        """Watch a request without a body, which nobody may read, at once."""
        headers = Headers(scope=self._scope)
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            self._first = await self.receive()

    async def receive(self) -> Message:
        if self._first is not None:
            message, self._first = self._first, None
            return message
        if self._watcher is not None:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone.set()
        elif not message.get("more_body", False):
            self._watcher = asyncio.create_task(self._watch())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_answered = True
        await self._send(message)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        if not self._is_answered and self._task is not None:
            self._task.cancel()

    def end(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
