"""Quotas of open calls: of all callers, tenants, connections and addresses."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from cpcsam.grpc_errors import FullError
from serving.gateway.calls.open_calls import OpenCalls, Quota, host_of, quotas_of
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics

METHOD = "/cpcsam.v1.Segmentation/Segment"
QUOTAS = {"api": Quota(5, 2, 3), "watch": Quota(9, 9, 9), "health": Quota(1, 1, 1)}


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:4711", "ipv4:10.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::9]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5Bodd%5D:1", "ipv6:[odd]"),
        ("unix:", "unix"),
    ],
)
def test_host_of_a_peer_has_no_port_and_joins_what_one_host_may_have(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_hold_beyond_a_quota_is_refused_and_frees_its_place() -> None:
    calls = OpenCalls(QUOTAS, Metrics())
    with ExitStack() as stack:
        for port in (1, 1, 2):
            stack.enter_context(calls.hold(METHOD, None, f"ipv4:10.0.0.1:{port}"))
        for peer, holder in (("ipv4:10.0.0.1:1", "connection"), ("ipv4:10.0.0.1:3", "address")):
            with pytest.raises(FullError, match=f"open calls of the {holder}: got [23] of kind"):
                stack.enter_context(calls.hold(METHOD, None, peer))
        for _ in range(2):
            stack.enter_context(calls.hold(METHOD, "lab", "ipv4:10.0.0.1:1"))
        with pytest.raises(FullError, match="open calls: got 5 of kind api already"):
            stack.enter_context(calls.hold(METHOD, "ward", "ipv4:10.0.0.9:1"))
        stack.enter_context(calls.hold("/grpc.health.v1.Health/Check", None, "ipv4:10.0.0.1:1"))
    with calls.hold(METHOD, "ward", "ipv4:10.0.0.9:1"):
        pass
    assert not any(calls._held.values()), "no names of peers stay"


def test_tenant_meets_the_bound_on_requests_before_that_on_calls() -> None:
    limits = Limits(max_in_flight=8)
    quota = quotas_of(limits)["api"]
    assert limits.max_in_flight < quota.tenant < quota.host < quota.total == limits.max_calls
