"""Listening sockets of processes, read from /proc, and reachability of ports."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "LISTEN",
    "Listener",
    "answers",
    "free_port",
    "listeners",
    "outside_address",
    "processes_below",
]

LISTEN: Final = "0A"
"""State of a socket in /proc/net/tcp."""
MAPPED: Final = bytes(10) + b"\xff\xff"
"""Prefix of an IPv4-mapped IPv6 address."""
ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address of documentation; a UDP socket that is connected to it sends nothing."""


@dataclass(frozen=True, order=True)
class Listener:
    """A TCP socket that accepts connections.

    Attributes:
        port: its number.
        address: at which it listens.
        process: name of the process.
    """

    port: int
    address: str
    process: str


def processes_below(parent: int) -> set[int]:
    """Ids of a process and its descendants."""
    found = {parent}
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        # Processes may end, and their files vanish, while they are read.
        with suppress(OSError):
            for child in children.read_text().split():
                found |= processes_below(int(child))
    return found


def listeners(processes: Collection[int]) -> list[Listener]:
    """Listening TCP sockets of the processes."""
    owners = {}
    for process in processes:
        with suppress(OSError):
            name = Path(f"/proc/{process}/comm").read_text().strip()
            for file in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    owners[os.readlink(file)] = name
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    found = {
        Listener(int(port, 16), _address(address), owners[f"socket:[{row[9]}]"])
        for row in rows
        for address, _, port in [row[1].partition(":")]
        # Columns of /proc/net/tcp: 1 is the local address, 3 the state and 9 the inode.
        if row[3] == LISTEN and f"socket:[{row[9]}]" in owners
    }
    return sorted(found)


def _address(text: str) -> str:
    """Parse an address as the kernel prints it: words of four bytes in native byte order."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    packed = b"".join(words).removeprefix(MAPPED)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def answers(host: str, port: int) -> bool:
    """Return whether a connection is accepted."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def free_port() -> int:
    """A TCP port of loopback that nothing listens at for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outside_address() -> str:
    """This machine's address on its network; without a network, a non-loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])
