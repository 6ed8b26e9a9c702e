"""Quotas of open calls: each kind has a pool of its own, of which a caller gets a share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final
from urllib.parse import unquote

from cpcsam.grpc_errors import FullError
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics

__all__ = ["API", "OpenCalls", "Quota", "host_of", "quotas_of"]

API: Final = "api"
PREFIXES: Final = {
    "watch": "/grpc.health.v1.Health/Watch",
    "health": "/grpc.health.v1.Health/",
    "reflection": "/grpc.reflection.",
}
"""Kinds of calls by the beginning of their method, the longest first; all others are of the API."""
RETRY_S: Final = 1.0


@dataclass(frozen=True)
class Quota:
    """Bounds on the open calls of one kind.

    Attributes:
        total: of all callers together.
        tenant: of a tenant, or without tokens of a connection.
        host: of the connections of one address, for calls that carry no token.
    """

    total: int
    tenant: int
    host: int


def quotas_of(limits: Limits) -> dict[str, Quota]:
    """Return the quota of each kind of calls."""
    each = limits.max_calls_each
    return {
        API: Quota(limits.max_calls, each, 2 * each),
        "watch": Quota(1024, 64, 256),
        "health": Quota(256, 32, 64),
        "reflection": Quota(32, 8, 16),
    }


class OpenCalls:
    """Counts open calls and refuses those beyond a quota; to be used inside one event loop."""

    def __init__(self, quotas: dict[str, Quota], metrics: Metrics) -> None:
        self._quotas = quotas
        self._metrics = metrics
        self._held: dict[str, Counter[str]] = {kind: Counter() for kind in quotas}
        for kind in quotas:
            metrics.open_calls.labels(kind)

    @contextmanager
    def hold(self, method: str, tenant: str | None, peer: str) -> Iterator[None]:
        """Count a call as open while the block runs.

        Args:
            method: full name, such as `/cpcsam.v1.Segmentation/Segment`.
            tenant: of the caller's token; None without one.
            peer: address of its connection, as gRPC names it.

        Raises:
            FullError: the caller, its address or all callers hold as many as they may.
        """
        kind = next((kind for kind, prefix in PREFIXES.items() if method.startswith(prefix)), API)
        quota, held = self._quotas[kind], self._held[kind]
        bounds = {"all callers": quota.total}
        if tenant is None:
            bounds |= {f"connection {peer}": quota.tenant, f"address {host_of(peer)}": quota.host}
        else:
            bounds[f"tenant {tenant}"] = quota.tenant
        for holder, bound in bounds.items():
            if held[holder] >= bound:
                self._metrics.rejected.labels("open_calls").inc()
                raise _full(holder.partition(" ")[0], kind, bound)
        gauge = self._metrics.open_calls.labels(kind)
        held.update(bounds.keys())
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()
            for holder in bounds:
                held[holder] -= 1
                if not held[holder]:
                    del held[holder]  # else the names of all peers would be kept


def host_of(peer: str) -> str:
    """Return whose a peer's address is: an IPv4 address, or the /64 network of an IPv6 address.

    One host has all addresses of such a network to choose from.

    Args:
        peer: as gRPC names it: `ipv4:10.0.0.1:4711` or `ipv6:%5B::1%5D:4711`.
    """
    host = unquote(peer).rpartition(":")[0]
    if not host.startswith("ipv6:"):
        return host
    try:
        return str(IPv6Network((host.removeprefix("ipv6:").strip("[]"), 64), strict=False))
    except ValueError:
        return host


def _full(holder: str, kind: str, bound: int) -> FullError:
    error = FullError.of(
        f"open calls of the {holder}" if holder != "all" else "open calls",
        got=f"{bound} of kind {kind} already",
        expected="fewer at a time",
        fix="end others first, or retry later",
    )
    error.retry_s = RETRY_S
    return error
