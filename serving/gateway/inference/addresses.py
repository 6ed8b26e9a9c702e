"""Addresses of Tritons: a fixed list, all that a DNS name stands for, or the lines of a file."""

from __future__ import annotations

import asyncio
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.errors import ConfigError
from serving.common.exposure import address_of

__all__ = ["TritonAddresses"]

DNS: Final = "dns:///"
FILE: Final = "file://"
DNS_PERIOD_S: Final = 5.0
FILE_PERIOD_S: Final = 0.1


@dataclass(frozen=True)
class TritonAddresses:
    """Where the Tritons are.

    Attributes:
        fixed: HOST:PORT of each, if they are listed.
        name: the DNS name whose addresses they have, else empty.
        port: of those.
        file: with a line for each, the preferred one first, which its writer replaces.
    """

    fixed: tuple[str, ...] = ()
    name: str = ""
    port: int = 0
    file: Path | None = None

    @property
    def period_s(self) -> float:
        """Seconds after which they are looked up again; infinite if they are fixed."""
        if self.file is not None:
            return FILE_PERIOD_S
        return DNS_PERIOD_S if self.name else math.inf

    @property
    def source(self) -> str:
        """Name of what is looked up."""
        return self.name if self.file is None else str(self.file)

    @classmethod
    def parse(cls, text: str) -> TritonAddresses:
        """Parse HOST:PORT[,HOST:PORT...], dns:///NAME:PORT or file:///PATH.

        Raises:
            ConfigError: it is neither, or an address stands twice.
        """
        if text.startswith(f"{FILE}/"):
            return cls(file=Path(text.removeprefix(FILE)))
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
            expected="HOST:PORT, several separated by commas, dns:///NAME:PORT or file:///PATH",
            fix="give each address once",
        )

    async def resolve(self, executor: ThreadPoolExecutor) -> tuple[str, ...]:
        """Return HOST:PORT of each Triton, at present.

        Args:
            executor: whose thread asks the DNS or reads the file.

        Raises:
            OSError: the name is unknown, the DNS cannot be reached or the file be read.
        """
        loop = asyncio.get_running_loop()
        if self.file is not None:
            return await loop.run_in_executor(executor, _lines, self.file)
        if not self.name:
            return self.fixed
        return await loop.run_in_executor(executor, lambda: _listed(self.name, self.port))


def _lines(file: Path) -> tuple[str, ...]:
    return tuple(file.read_text().split())


def _listed(name: str, port: int) -> tuple[str, ...]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return tuple(sorted({address_of(str(address[0]), port) for *_, address in found}))
