"""Bound on the memory of the requests that are worked on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cpcsam.grpc_errors import FullError

__all__ = ["HeldBytes"]

SMALL: Final = 1 << 20
"""Bytes of a request that always has room: there are few enough, and it shall not wait for others'
large ones."""


class HeldBytes:
    """Budget of the bytes of large requests, of which one client has half at most.

    To be used inside one event loop.

    Args:
        most: bytes of all requests.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, client: str, size: int) -> Iterator[None]:
        """Count a request while the block runs, or refuse it at once.

        Args:
            client: who sent it.
            size: of the request in bytes.

        Raises:
            FullError: there is no room.
        """
        counted = 0 if size <= SMALL else size
        for held, most in (
            (self._held.total(), self._most),
            (self._held[client], self._most // 2),
        ):
            # A request alone may be larger than its part.
            if held and held + counted > most and counted:
                raise FullError.of(
                    "requests in flight",
                    got=f"{held} bytes already",
                    expected=f"at most {most} with this one of {size}",
                    fix="try again in a moment",
                )
        self._held[client] += counted
        try:
            yield
        finally:
            self._held[client] -= counted
            if not self._held[client]:
                del self._held[client]
