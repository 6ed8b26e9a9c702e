"""Traffic between a gateway and its Tritons: the gateway reads from a file which ones to call.

The file lists addresses, the one that new requests go to first. Requests that began with the model
of another keep to it until they end; the gateway's metrics tell when that is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.request import ProxyHandler, build_opener

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ServingError

__all__ = ["Traffic"]

POLL_S: Final = 0.1
SCRAPE_S: Final = 5.0
DIRECTLY: Final = build_opener(ProxyHandler({}))  # not by $http_proxy
ADOPT_S: Final = 60.0
"""Longest time until a gateway calls a Triton that is ready; it may itself be restarting."""


class Traffic:
    """Where one gateway sends its requests.

    Args:
        file: of the addresses, for the gateway's `--triton file://...`.
        metrics_url: of the gateway.
        drain_s: longest time that a request takes.
    """

    def __init__(self, file: Path, metrics_url: str, drain_s: float) -> None:
        self.file = file
        self._metrics_url = metrics_url
        self._drain_s = drain_s

    def send_to(self, *addresses: str) -> None:
        """Let the gateway call these Tritons, the first one for new requests."""
        write_atomic(self.file, "".join(f"{address}\n" for address in addresses).encode())

    def hand_over(self, old: str, new: str, is_alive: Callable[[], bool]) -> bool:
        """Move new requests to another Triton, and wait for those that began with the old one.

        Args:
            old: HOST:PORT of the gRPC of the Triton that is called now.
            new: likewise, of one that is ready.
            is_alive: whether the new one still runs.

        Returns:
            Whether all requests of the old one have ended; False if some outlast their time.

        Raises:
            ServingError: the gateway does not reach the new one, or it ended; the old one is called
                as before.
        """

        def is_up(page: str) -> bool:
            return _value(page, "up", new) == 1

        def is_left(page: str) -> bool:
            # While the new one is down, requests begin with the old one.
            return is_up(page) and not _value(page, "requests", old)

        self.send_to(new, old)
        try:
            self._require(self._wait(is_up, ADOPT_S, is_alive), new)
            is_drained = self._wait(is_left, self._drain_s, is_alive)
            self._require(is_drained or self._wait(is_up, SCRAPE_S, is_alive), new)
        except BaseException:
            self.send_to(old)
            raise
        self.send_to(new)
        self._wait(lambda page: _value(page, "up", old) is None, ADOPT_S, is_alive)
        return is_drained

    def _require(self, is_up: bool, new: str) -> None:
        if not is_up:
            raise ServingError.of(
                f"Triton at {new}",
                got="no traffic from the gateway",
                expected="a gateway that finds it up",
                fix="see the gateway's log",
            )

    def _wait(
        self, condition: Callable[[str], bool], timeout_s: float, is_alive: Callable[[], bool]
    ) -> bool:
        """Wait until the gateway's metrics fulfil a condition; False if they do not in time."""
        deadline = time.monotonic() + timeout_s
        while is_alive() and time.monotonic() < deadline:
            page = self._scrape()
            if page and condition(page):
                return True
            time.sleep(POLL_S)
        return False

    def _scrape(self) -> str:
        """Return the gateway's metrics; nothing while it is restarted."""
        try:
            with DIRECTLY.open(self._metrics_url, timeout=SCRAPE_S) as page:
                return str(page.read().decode())
        except (OSError, HTTPException):
            return ""


def _value(page: str, name: str, replica: str) -> float | None:
    label = re.escape(f'cpcsam_replica_{name}{{replica="{replica}"}}')
    found = re.search(rf"^{label} (\S+)$", page, re.MULTILINE)
    return None if found is None else float(found[1])
