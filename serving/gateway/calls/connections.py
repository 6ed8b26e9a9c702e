"""End of connections whose client has stopped reading.

gRPC for Python can neither withdraw a response that a client does not read nor cancel its call; it
keeps both until the connection ends. So the connection is ended, unless anything goes on over it: a
link may be slow, and a proxy may carry many clients over one connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

__all__ = ["close_when_unread"]

BYTES_ACKED: Final = 120
"""Offset in Linux's `struct tcp_info` of tcpi_bytes_acked, 8 bytes."""
MIN_BYTES: Final = 4096
"""A connection over which less goes in a period is unread; pings alone take less."""


async def close_when_unread(peer: str, seconds: float) -> bool:
    """Watch the connection with a peer until it takes nothing more, and end it then.

    Args:
        peer: as gRPC names it: `ipv4:10.0.0.1:4711` or `ipv6:%5B::1%5D:4711`.
        seconds: for which it may take nothing.

    Returns:
        Whether it was ended; False if this process has no such connection.
    """
    connection = _connection_with(peer)
    if connection is None:
        return False
    with connection:
        taken = _taken(connection)
        while True:
            await asyncio.sleep(seconds)
            before, taken = taken, _taken(connection)
            if taken - before < MIN_BYTES:
                with suppress(OSError):  # it has just ended by itself
                    connection.shutdown(socket.SHUT_RDWR)
                return True


def _connection_with(peer: str) -> socket.socket | None:
    """Find a TCP connection of this process by its peer, and duplicate its file descriptor."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    if not port.isdecimal():
        return None
    address = host.strip("[]"), int(port)
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # files are closed while they are listed
            number = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(number))
            name: object = None
            with suppress(OSError):  # a listening socket has no peer
                name = connection.getpeername()
            # gRPC listens at IPv4 addresses by sockets of IPv6, too.
            if isinstance(name, tuple) and (name[0].removeprefix("::ffff:"), name[1]) == address:
                return connection
            connection.close()
    return None


def _taken(connection: socket.socket) -> int:
    """Return the bytes that the peer has acknowledged."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
    number: int = struct.unpack_from("Q", information, BYTES_ACKED)[0]
    return number
