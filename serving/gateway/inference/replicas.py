"""Several Tritons: choice by image affinity, retries and the state of all.

Rendezvous hashing gives each image a favourite among the replicas that are up, since that one keeps
its embedding. Loads are bounded: a favourite that is much busier than the others is spared, and the
call goes to the least busy one. gRPC's own policies know neither images nor dead steps.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from cpcsam.grpc_errors import UnavailableError
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.inference.addresses import TritonAddresses
from serving.gateway.inference.replica import Replica
from serving.gateway.inference.triton_responses import no_replica
from serving.gateway.metrics import Metrics

__all__ = ["Replicas", "ranked"]

MAX_ATTEMPTS: Final = 3
"""Replicas that a call is given to in turn; a call that kills them must not get to all."""
BOUND: Final = 1.5
"""Most that a replica may have to do, in multiples of the mean."""
RESOLVE_PERIOD_S: Final = 5.0
FIRST_CHECK_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0
LEAVE_TIMEOUT_S: Final = 10.0
LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Replicas:
    """The Tritons of one gateway; to be made and used inside one event loop.

    Args:
        addresses: where they are.
        metrics: shows their states and counts retries.
    """

    def __init__(self, addresses: TritonAddresses, metrics: Metrics) -> None:
        self._addresses = addresses
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._resolver = ThreadPoolExecutor(1, "dns")
        self._replicas: dict[str, Replica] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._adopt(addresses.fixed)

    @property
    def is_up(self) -> bool:
        """Whether any replica can answer."""
        return any(replica.health.up for replica in self._replicas.values())

    async def wait_for_change(self) -> None:
        """Wait until a replica went up or down since the last call."""
        await self._changed.wait()
        self._changed.clear()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Probe the replicas while the block runs; their states are known before it begins."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(FIRST_CHECK_S):
                self._adopt(await self._addresses.resolve(self._resolver))
        self._watch()
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CHECK_S):
                for replica in [*self._replicas.values()]:
                    await replica.wait_until_checked()
        resolving = asyncio.create_task(self._resolve_periodically())
        try:
            yield
        finally:
            resolving.cancel()
            for watcher in self._watchers.values():
                watcher.cancel()

    async def close(self) -> None:
        """Wait for probes and calls that still run, a moment, and close the connections."""
        closing = [replica.close(CLOSE_TIMEOUT_S) for replica in self._replicas.values()]
        await asyncio.gather(*closing, *self._closing)
        self._resolver.shutdown(wait=False, cancel_futures=True)

    async def model_info(self, timeout_s: float) -> ModelInfo:
        """Return the metadata of the model that most replicas serve, else of the newest version.

        Args:
            timeout_s: for asking a replica, as long as none has been up.

        Raises:
            ServingError: or one of its subclasses, as Triton failed.
        """
        models = [r.model for r in self._replicas.values() if r.model is not None]
        if models:
            counts = Counter(model.model_digest for model in models)
            return max(models, key=lambda model: (counts[model.model_digest], _number(model)))
        for replica in self._replicas.values():
            if not replica.health.gone.done():
                return await replica.fetch_model(timeout_s)
        raise no_replica()

    async def call(
        self,
        key: bytes | None,
        context: RequestContext,
        attempt: Callable[[Replica], Awaitable[T]],
    ) -> T:
        """Make a call of a request, on another replica if one cannot answer.

        Args:
            key: of the image's embedding, if a replica is to keep it.
            context: of the request; every replica that is asked serves its model.
            attempt: makes the call; it may run again, so it must be idempotent.

        Raises:
            UnavailableError: no replica can answer.
            CpcSamError: as `attempt`.
        """
        digest = (await context.model()).model_digest
        tried: list[Replica] = []
        while True:
            replica = self._choose(key, digest, tried)
            replica.load += 1
            try:
                return await attempt(replica)
            except UnavailableError:
                tried.append(replica)
                if len(tried) == MAX_ATTEMPTS or not self._candidates(digest, tried):
                    raise
                self._metrics.retried_calls.inc()
            finally:
                replica.load -= 1

    def _candidates(self, digest: str, tried: Iterable[Replica]) -> list[Replica]:
        """List the replicas that serve a model; those that were never up only if there is none."""
        left = [replica for replica in self._replicas.values() if replica not in tried]
        up = [r for r in left if r.model is not None and r.model.model_digest == digest]
        return up or [r for r in left if not r.health.up and not r.health.gone.done()]

    def _choose(self, key: bytes | None, digest: str, tried: Iterable[Replica]) -> Replica:
        candidates = self._candidates(digest, tried)
        if not candidates:
            raise no_replica()
        by_address = {replica.address: replica for replica in candidates}
        if key is not None:
            favourite = by_address[ranked(key, by_address)[0]]
            calls = sum(replica.load for replica in candidates) + 1
            if favourite.load < math.ceil(BOUND * calls / len(candidates)):
                return favourite
        return min(candidates, key=lambda replica: replica.load)

    def _adopt(self, addresses: Iterable[str]) -> None:
        """Connect to new addresses, and leave those that are not listed any more."""
        listed = {*addresses}
        for address in self._replicas.keys() - listed:
            LOG.info("Triton at %s is not listed any more", address)
            replica = self._replicas.pop(address)
            self._watchers.pop(address).cancel()
            self._metrics.replica_up.remove(address)
            self._metrics.replica_success.remove(address)
            leaving = asyncio.create_task(replica.close(LEAVE_TIMEOUT_S))
            self._closing.add(leaving)
            leaving.add_done_callback(self._closing.discard)
            self._changed.set()
        for address in sorted(listed - self._replicas.keys()):
            self._replicas[address] = Replica(address, self._metrics, self._changed.set)

    def _watch(self) -> None:
        for address, replica in self._replicas.items():
            if address not in self._watchers:
                self._watchers[address] = asyncio.create_task(replica.watch())

    async def _resolve_periodically(self) -> None:
        is_known = True
        while self._addresses.name:
            await asyncio.sleep(RESOLVE_PERIOD_S)
            try:
                self._adopt(await self._addresses.resolve(self._resolver))
                is_known = True
            except OSError as error:
                if is_known:
                    name = self._addresses.name
                    LOG.warning("%s: %s; its last addresses stay", name, error.strerror)
                is_known = False
            self._watch()


def ranked(key: bytes, addresses: Iterable[str]) -> list[str]:
    """Rank addresses for a key by rendezvous hashing: without one, the order of others stays."""

    def score(address: str) -> bytes:
        return hashlib.blake2b(key, key=hashlib.sha256(address.encode()).digest()).digest()

    return sorted(addresses, key=score, reverse=True)


def _number(model: ModelInfo) -> int:
    return int(model.model_version) if model.model_version.isdecimal() else 0
