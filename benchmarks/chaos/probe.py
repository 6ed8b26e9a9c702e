"""Watch of a gateway from outside: how long its event loop answers nothing, and its memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, sleep, time
from types import TracebackType
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.chaos.services import memory_below, run_delay_s
from benchmarks.chaos.steady import channel_options

__all__ = ["GatewayProbe", "Stall", "stalls_by_attack"]

PERIOD_S: Final = 0.01
MEMORY_PERIOD: Final = 4
"""Probes between two samples of the memory."""
TIMEOUT_S: Final = 60.0
NOTED_S: Final = 0.02


@dataclass(frozen=True)
class Stall:
    """A time in which the gateway's loop answered nothing.

    Attributes:
        begin: seconds since the epoch.
        seconds: until health was answered.
        net_s: without the time for which the loop's thread, or the probe's, waited for a core.
    """

    begin: float
    seconds: float
    net_s: float


class GatewayProbe:
    """Thread that asks for health every 10 ms, and samples the gateway's memory.

    The gateway's loop runs in the main thread of its process. A shared core delays answers, too,
    so the kernel's record of how long both threads were ready without a core is subtracted.

    Args:
        address: HOST:PORT of the gateway.
        pid: of its process.
    """

    def __init__(self, address: str, pid: int) -> None:
        self.stalls: list[Stall] = []
        self.peak_bytes = 0
        self.probes = self.unanswered = 0
        self._address, self._pid = address, pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe")

    def __enter__(self) -> GatewayProbe:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; a probe without an answer is waited for."""
        self._stop.set()
        self._thread.join()

    @property
    def longest(self) -> Stall:
        """The stall of the longest net time; of no time if there was none of 20 ms."""
        return max(self.stalls, key=lambda stall: stall.net_s, default=Stall(0, 0, 0))

    def _run(self) -> None:
        with grpc.insecure_channel(self._address, options=channel_options()) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while not self._stop.is_set():
                self._probe(stub)
                if self.probes % MEMORY_PERIOD == 0:
                    self.peak_bytes = max(self.peak_bytes, memory_below(self._pid))
                sleep(PERIOD_S)

    def _probe(self, stub: Any) -> None:
        own = threading.get_native_id()
        begin, started = time(), perf_counter()
        delays = run_delay_s(self._pid) + run_delay_s(os.getpid(), own)
        self.probes += 1
        try:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError:
            self.unanswered += 1
        seconds = perf_counter() - started
        delays = run_delay_s(self._pid) + run_delay_s(os.getpid(), own) - delays
        if seconds > NOTED_S:
            self.stalls.append(Stall(begin, seconds, max(0.0, seconds - delays)))


def stalls_by_attack(
    stalls: Sequence[Stall], traces: Sequence[tuple[str, float, float]], least_s: float
) -> dict[str, float]:
    """Attribute stalls to the attacks that were under way, seconds.

    Args:
        stalls: of the loop.
        traces: name, begin and end of each attack.
        least_s: shorter stalls are left out.

    Returns:
        For each name the longest stall that began during it, the longest first; a name may be there
        by chance, the one that comes again and again is to blame.
    """
    found: dict[str, float] = {}
    for stall in stalls:
        if stall.net_s <= least_s:
            continue
        for name, begin, end in traces:
            if begin <= stall.begin + stall.seconds and stall.begin <= end:
                found[name] = max(found.get(name, 0.0), stall.net_s)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
