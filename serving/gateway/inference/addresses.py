"""Addresses of Tritons: a fixed list, or all that a DNS name stands for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from cpcsam.errors import ConfigError

__all__ = ["TritonAddresses"]

DNS: Final = "dns:///"


@dataclass(frozen=True)
class TritonAddresses:
    """Where the Tritons are.

    Attributes:
        fixed: HOST:PORT of each, if they are listed.
        name: the DNS name whose addresses they have, else empty.
        port: of those.
    """

    fixed: tuple[str, ...] = ()
    name: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> TritonAddresses:
        """Parse HOST:PORT[,HOST:PORT...] or dns:///NAME:PORT.

        Raises:
            ConfigError: it is neither, or an address stands twice.
        """
        if text.startswith(DNS):
            name, _, port = text.removeprefix(DNS).rpartition(":")
            if name and port.isdecimal() and "," not in name:
                return cls(name=name.strip("[]"), port=int(port))
        else:
            fixed = tuple(address.strip() for address in text.split(","))
            if all(":" in address for address in fixed) and len({*fixed}) == len(fixed):
                return cls(fixed)
        raise ConfigError.of(
            "--triton",
            got=repr(text),
            expected="HOST:PORT, several separated by commas, or dns:///NAME:PORT",
            fix="give each address once",
        )

    async def resolve(self, executor: ThreadPoolExecutor) -> tuple[str, ...]:
        """Return HOST:PORT of each Triton, at present.

        Args:
            executor: whose thread asks the DNS.

        Raises:
            OSError: the name is unknown, or the DNS cannot be asked.
        """
        if not self.name:
            return self.fixed
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, lambda: _listed(self.name, self.port))


def _listed(name: str, port: int) -> tuple[str, ...]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return tuple(sorted({_joined(address) for *_, address in found}))


def _joined(address: Iterable[object]) -> str:
    host, port, *_ = map(str, address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
