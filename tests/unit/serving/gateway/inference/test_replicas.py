"""Replicas of Triton behind one client: choice, retries, probes and recovery."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest

from cpcsam.errors import ServingError
from cpcsam.grpc_errors import UnavailableError
from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.context import RequestContext
from serving.gateway.inference import addresses, replica_health, replicas
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.replicas import ranked
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.inference.triton_responses import Encoded
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.executors import Executors
from tests.support.servers.triton_peer import TritonPeer, dead_step, nothing, silence, triton_peers

(CHUNK,) = chunk_tensors(np.ones((1, 1, 2), np.float32), np.ones((1, 1), np.int32))
KEYS = [f"{index:064x}".encode() for index in range(40)]


class Caller:
    """A gateway's client of Triton, with one request a call."""

    def __init__(self, addresses: str) -> None:
        self.metrics = Metrics()
        self.admission = Admission(Limits(max_queue_s=30), self.metrics)
        self.triton = TritonClient(addresses, self.admission, self.metrics, Executors())

    def context(self) -> RequestContext:
        return RequestContext(
            "id", EVERYBODY, Permit("a"), monotonic() + 60, self.triton.model_info
        )

    async def segment(self, key: bytes) -> Encoded:
        return (await self.triton.segment(key, b"image", CHUNK, 0, self.context()))[1]

    async def decode(self, encoded: Encoded) -> None:
        await self.triton.decode(encoded, CHUNK, 0, self.context())

    def is_up(self, peer: TritonPeer) -> bool:
        return bool(self.value("cpcsam_replica_up", replica=peer.address))

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def caller(*peers: TritonPeer) -> AsyncIterator[Caller]:
    async with triton_peers(*peers) as listed:
        calling = Caller(listed)
        async with calling.triton.replicas.watched():
            yield calling
        for peer in peers:
            peer.before = nothing
            await peer.kill()
        await calling.triton.close()


@pytest.fixture(autouse=True)
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no silence tell that a replica is gone, so that other signs have to."""
    monkeypatch.setattr(replica_health, "PATIENCE_S", 600.0)
    monkeypatch.setattr(replica_health, "BUSY_PATIENCE_S", 600.0)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def favourite(key: bytes, *peers: TritonPeer) -> TritonPeer:
    address = ranked(key, [peer.address for peer in peers])[0]
    return next(peer for peer in peers if peer.address == address)


async def test_decodes_go_where_their_image_was_encoded() -> None:
    peers = TritonPeer(), TritonPeer(), TritonPeer()
    async with caller(*peers) as calling:
        for key in KEYS:
            await calling.decode(await calling.segment(key))
            assert key in favourite(key, *peers).stored
    assert all(peer.calls["decode"] == peer.calls["segment"] > 0 for peer in peers)
    # None was sent a second time.
    assert sorted(key for peer in peers for key in peer.sent if key in KEYS) == KEYS


async def test_calls_of_one_image_spill_to_an_idle_replica() -> None:
    peers = one, other = TritonPeer(), TritonPeer()
    async with caller(*peers) as calling:
        one.before = other.before = silence
        calls = [asyncio.create_task(calling.segment(KEYS[0])) for _ in range(8)]
        await until(lambda: one.calls["segment"] + other.calls["segment"] == 8)
        assert sorted(peer.calls["segment"] for peer in peers) == [2, 6]
        assert favourite(KEYS[0], *peers).calls["segment"] == 6
        for call in calls:
            call.cancel()


async def test_calls_of_a_killed_replica_are_made_again_on_the_other() -> None:
    peers = TritonPeer(), TritonPeer()
    async with caller(*peers) as calling:
        victim = favourite(KEYS[0], *peers)
        victim.before = silence
        running = [asyncio.create_task(calling.segment(KEYS[0])) for _ in range(2)]
        await until(lambda: victim.calls["segment"] == 2)
        await victim.kill()
        for call in running:
            await call
        assert not calling.is_up(victim) and calling.triton.replicas.is_up
        assert calling.value("cpcsam_retried_calls_total") == 2
        for key in KEYS:
            await calling.segment(key)
        victim.before = nothing
        await victim.start()
        await until(lambda: calling.is_up(victim))
        await calling.segment(KEYS[0])
        assert KEYS[0] in victim.stored


async def test_calls_of_a_killed_single_triton_are_unavailable_until_it_is_back() -> None:
    peer = TritonPeer()
    async with caller(peer) as calling:
        encoded = await calling.segment(KEYS[0])
        peer.before = silence
        running = asyncio.create_task(calling.segment(KEYS[0]))
        await until(lambda: peer.calls["segment"] == 2)
        await peer.kill()
        with pytest.raises(UnavailableError):
            await running
        assert not calling.triton.replicas.is_up
        with pytest.raises(UnavailableError):
            await calling.decode(encoded)
        peer.before = nothing
        await peer.start()
        await until(lambda: calling.is_up(peer))
        await calling.decode(encoded)
        assert peer.sent[-1] == KEYS[0], "the embedding was sent again"


async def test_an_idle_dead_step_is_noticed_and_gives_calls_up() -> None:
    peer = TritonPeer()
    async with caller(peer) as calling:
        peer.before = dead_step
        await until(lambda: not calling.triton.replicas.is_up)
        with pytest.raises(UnavailableError):
            await calling.segment(KEYS[0])


async def test_calls_that_wait_for_a_dead_step_go_to_the_other_replica_at_once() -> None:
    peers = TritonPeer(), TritonPeer()
    async with caller(*peers) as calling:
        victim = favourite(KEYS[0], *peers)
        victim.before = silence
        waiting = asyncio.create_task(calling.segment(KEYS[0]))
        await until(lambda: victim.calls["segment"] == 1)
        victim.before = dead_step
        await calling.segment(KEYS[0])
        await asyncio.wait_for(waiting, 60)
        assert not calling.is_up(victim)


async def test_a_replica_with_one_dead_instance_of_two_does_not_come_back() -> None:
    peer = TritonPeer()
    turns = 0

    async def every_other(request: Any, context: grpc.aio.ServicerContext) -> None:
        nonlocal turns
        turns += 1
        if turns % 2:
            await dead_step(request, context)

    async with caller(peer) as calling:
        peer.before = every_other
        await until(lambda: not calling.is_up(peer))
        probes = peer.probes
        await until(lambda: peer.probes > probes + 6)
        assert not calling.is_up(peer)
        peer.before = nothing
        await until(lambda: calling.is_up(peer))


async def test_failures_of_requests_do_not_eject_a_replica() -> None:
    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(code, "a message about this request")

    peer = TritonPeer()
    async with caller(peer) as calling:
        for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL):
            peer.before = refuse
            with pytest.raises(ServingError if "INTERNAL" in str(code) else Exception):
                await calling.segment(KEYS[0])
            assert calling.is_up(peer)
            peer.before = nothing
        await calling.segment(KEYS[0])


async def test_a_probe_that_waits_behind_calls_is_no_death_and_silence_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_health, "BUSY_PATIENCE_S", 2.0)
    peer = TritonPeer()

    async def probes_wait(request: Any, context: grpc.aio.ServicerContext) -> None:
        await (silence(request, context) if not request.id else asyncio.sleep(0.2))

    async with caller(peer) as calling:
        peer.before = probes_wait
        started = monotonic()
        await asyncio.sleep(1)
        while monotonic() < started + 4:
            await calling.segment(KEYS[0])
            assert calling.is_up(peer)
        peer.before = silence
        hanging = asyncio.create_task(calling.segment(KEYS[0]))
        await until(lambda: not calling.is_up(peer))
        with pytest.raises(UnavailableError):
            await hanging


async def test_calls_stand_for_probes() -> None:
    async with caller(peer := TritonPeer()) as calling:
        before, ends = peer.probes, [monotonic()]
        while ends[-1] < ends[0] + 3.5:
            await calling.segment(KEYS[0])
            ends.append(monotonic())
            await asyncio.sleep(0.1)
        halts = sum(np.diff(ends) // 0.4)  # in which the machine let no call be made in time
        assert peer.probes - before <= 1 + halts, "without calls they would be three"


async def test_probes_pass_through_steps_that_only_a_decode_with_masks_has() -> None:
    async def no_masks(request: Any, context: Any) -> None:
        if request.model_name == "decode_with_mask":
            await dead_step(request, context)

    peer = TritonPeer(target="gpu")
    async with caller(peer) as calling:
        await until(lambda: peer.probes >= 4)
        assert peer.probed["segment"] - peer.probed["decode_with_mask"] in (0, 1)
        peer.before = no_masks
        await until(lambda: not calling.is_up(peer))


async def test_requests_keep_to_replicas_of_their_model() -> None:
    peers = old, new = TritonPeer("old", "1"), TritonPeer("new", "2")
    async with caller(*peers) as calling:
        context = calling.context()
        assert (await context.model()).model_digest == "new"
        for key in KEYS:
            await calling.triton.segment(key, b"", CHUNK, 0, context)
        assert not old.calls and new.calls["segment"] == len(KEYS)
        await new.kill()
        with pytest.raises(UnavailableError):
            await calling.triton.segment(KEYS[0], b"", CHUNK, 0, context)
        assert (await calling.context().model()).model_digest == "old"


async def test_addresses_of_a_name_are_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        assert name == "triton"
        return [(2, 1, 6, "", (host, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(addresses, "DNS_PERIOD_S", 0.1)
    monkeypatch.setattr(replicas, "LEAVE_TIMEOUT_S", 0.5)
    old, new, host = TritonPeer(), TritonPeer(), "127.0.0.1"
    async with triton_peers(old):
        port = old.address.rpartition(":")[2]
        new.address = f"127.0.0.2:{port}"
        await new.start()
        calling = Caller(f"dns:///triton:{port}")
        async with calling.triton.replicas.watched():
            await calling.segment(KEYS[0])
            old.before = silence
            running = asyncio.create_task(calling.segment(KEYS[1]))
            await until(lambda: old.calls["segment"] == 2)
            host = "127.0.0.2"
            await until(lambda: calling.is_up(new))
            await calling.segment(KEYS[2])
            assert new.stored >= {KEYS[2]} and old.calls["segment"] == 2
            await asyncio.wait_for(running, 60)
            assert KEYS[1] in new.stored, "what the old one did not finish was made again"
        old.before = nothing
        await calling.triton.close()
        await new.kill()
