"""Budget of bytes: bounded in all and by client, with room for small requests."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from cpcsam.grpc_errors import FullError
from serving.gateway.scheduling.held_bytes import SMALL, HeldBytes

LARGE = 40 << 20


def test_hold_bounds_all_requests_and_those_of_a_client() -> None:
    held = HeldBytes(4 * LARGE)
    with ExitStack() as running:
        for client in ("lab", "lab", "ward"):
            running.enter_context(held.hold(client, LARGE))
        with (
            pytest.raises(FullError, match=f"got {2 * LARGE} bytes already, expected at most"),
            held.hold("lab", SMALL + 1),
        ):
            pytest.fail("more than half for one client")
        running.enter_context(held.hold("ward", LARGE))
        with (
            pytest.raises(FullError, match=f"got {4 * LARGE} bytes already, expected at most"),
            held.hold("other", SMALL + 1),
        ):
            pytest.fail("more than all")
        for client in ("lab", "other"):
            running.enter_context(held.hold(client, SMALL))
    with held.hold("other", 5 * LARGE):
        pass


def test_hold_is_given_back_by_a_failure() -> None:
    held = HeldBytes(LARGE)
    for _ in range(3):
        with pytest.raises(ValueError, match="failed"), held.hold("lab", LARGE):
            raise ValueError("failed")
