"""Status of a stream as the gateway sent it.

Where a message meets the end of its stream, gRPC's asyncio reports INTERNAL in place of the status
that it has just received (grpcio 1.85; github.com/grpc/grpc/issues/36066).
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

__all__ = ["FirstStatus"]

T = TypeVar("T")


class FirstStatus:
    """Notes the status with which a call of `grpc.aio` first ends.

    Args:
        call: that has just begun.
    """

    def __init__(self, call: Any) -> None:
        self._error: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def instead_of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return the error of the noted status if the given one is INTERNAL; else the given one."""
        is_internal = error.code() is grpc.StatusCode.INTERNAL
        return self._error if is_internal and self._error is not None else error

    def _note(self, call: Any) -> None:
        if self._error is None and (code := _result(call.code())) is not grpc.StatusCode.OK:
            metadata = _result(call.trailing_metadata())
            self._error = grpc.aio.AioRpcError(
                code, grpc.aio.Metadata(), metadata, _result(call.details())
            )


def _result(known: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine has no need to wait for."""
    try:
        known.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("the call has ended")
