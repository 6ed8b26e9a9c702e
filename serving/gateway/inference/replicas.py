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
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from typing import Final, TypeVar

from cpcsam.grpc_errors import UnavailableError
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.inference.addresses import TritonAddresses
from serving.gateway.inference.replica import Replica
from serving.gateway.inference.triton_responses import no_replica
from serving.gateway.metrics import Metrics

__all__ = ["Replicas", "choose", "favourite", "ranked"]

MAX_ATTEMPTS: Final = 3
"""Replicas that a call is given to in turn; a call that kills them must not get to all."""
BOUND: Final = 1.5
"""Most that a replica may have to do, in multiples of the mean."""
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
        self._preferred = ""
        self._adopt(addresses.fixed)

    @property
    def is_up(self) -> bool:
        """Whether any replica can answer."""
        return any(replica.health.up for replica in self._replicas.values())

    @property
    def are_gone(self) -> bool:
        """Whether every replica was up once and cannot answer now."""
        return all(replica.health.gone.done() for replica in self._replicas.values())

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
        """Return the metadata of the model that new requests are to use.

        It is that of the preferred replica while it is up, where the addresses name one; otherwise
        that of most replicas, or else the newest version.

        Args:
            timeout_s: for asking a replica, as long as none has been up.

        Raises:
            ServingError: or one of its subclasses, as Triton failed.
        """
        preferred = self._replicas.get(self._preferred)
        if preferred is not None and preferred.model is not None:
            return preferred.model
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
        *,
        by_clip: bool = False,
    ) -> T:
        """Make a call of a request, on another replica if one cannot answer.

        Args:
            key: of the image's embedding, if a replica is to keep it.
            context: of the request; every replica that is called serves its model.
            attempt: makes the call; it may run again, so it must be idempotent.
            by_clip: it is one to CLIP's towers, whose embeddings no other towers can compare.

        Raises:
            UnavailableError: no replica can answer.
            CpcSamError: as `attempt`.
        """
        model = await context.model()
        tried: list[Replica] = []
        while True:
            replica = self._choose(key, self._candidates(model, tried, by_clip=by_clip))
            replica.load += 1
            try:
                return await attempt(replica)
            except UnavailableError:
                tried.append(replica)
                left = self._candidates(model, tried, by_clip=by_clip)
                if len(tried) == MAX_ATTEMPTS or not left:
                    raise
                self._metrics.retried_calls.inc()
            finally:
                replica.load -= 1

    def _candidates(
        self, model: ModelInfo, tried: Iterable[Replica], *, by_clip: bool
    ) -> list[Replica]:
        """List the replicas that serve a model; those that were never up only if there is none.

        The same graphs may be served under several version numbers: the model's own goes first.
        """
        left = [replica for replica in self._replicas.values() if replica not in tried]
        if by_clip:  # other towers may be served with the same graphs
            left = [r for r in left if r.model is None or r.model.clip == model.clip]
        same = [r for r in left if r.model and r.model.model_digest == model.model_digest]
        up = [r for r in same if r.model and r.model.model_version == model.model_version] or same
        return up or [r for r in left if not r.health.up and not r.health.gone.done()]

    def _choose(self, key: bytes | None, candidates: Sequence[Replica]) -> Replica:
        if not candidates:
            raise no_replica()
        loads = {replica.address: replica.load for replica in candidates}
        chosen = choose(None if key is None else favourite(key, loads), loads)
        return next(replica for replica in candidates if replica.address == chosen)

    def _adopt(self, addresses: Sequence[str]) -> None:
        """Connect to new addresses, and leave those that are not listed any more."""
        listed = {*addresses}
        if self._addresses.file is not None:
            self._preferred = addresses[0] if addresses else ""
        for address in self._replicas.keys() - listed:
            LOG.info("Triton at %s is not listed any more", address)
            replica = self._replicas.pop(address)
            self._watchers.pop(address).cancel()
            self._metrics.forget_replica(address)
            leaving = asyncio.create_task(replica.close(LEAVE_TIMEOUT_S))
            self._closing.add(leaving)
            leaving.add_done_callback(self._closing.discard)
            self._changed.set()
        for address in sorted(listed - self._replicas.keys()):
            replica = Replica(address, self._metrics, self._changed.set)
            self._replicas[address] = replica
            requests = self._metrics.replica_requests.labels(address)
            self._metrics.follow(requests, partial(self._requests_of, replica))

    def _requests_of(self, replica: Replica) -> int:
        model = replica.model
        return 0 if model is None else self._metrics.requests_of(model.identity)

    def _watch(self) -> None:
        for address, replica in self._replicas.items():
            if address not in self._watchers:
                self._watchers[address] = asyncio.create_task(replica.watch())

    async def _resolve_periodically(self) -> None:
        is_known = True
        while self._addresses.period_s < math.inf:
            await asyncio.sleep(self._addresses.period_s)
            try:
                self._adopt(await self._addresses.resolve(self._resolver))
                is_known = True
            except OSError as error:
                if is_known:
                    source = self._addresses.source
                    LOG.warning("%s: %s; its last addresses stay", source, error.strerror)
                is_known = False
            self._watch()


def ranked(key: bytes, addresses: Iterable[str]) -> list[str]:
    """Rank addresses for a key by rendezvous hashing: without one, the order of others stays."""
    return sorted(addresses, key=lambda address: _score(key, address), reverse=True)


def favourite(key: bytes, addresses: Iterable[str]) -> str:
    """Return the first of the `ranked` addresses."""
    return max(addresses, key=lambda address: _score(key, address))


def choose(
    favourite: str | None, loads: Mapping[str, int], tie: Callable[[], float] = random.random
) -> str:
    """Choose an address, the favourite unless it is much busier than the mean (bounded loads).

    Args:
        favourite: of the call's image; None takes the least busy address.
        loads: calls that each address has to do.
        tie: orders equally busy addresses; without chance, all gateways would choose the same one.
    """
    if favourite is not None:
        if loads[favourite] < math.ceil(BOUND * (sum(loads.values()) + 1) / len(loads)):
            return favourite
    return min(loads, key=lambda address: (loads[address], tie()))


def _score(key: bytes, address: str) -> bytes:
    # One block of the hash, as keys have 64 bytes; a keyed hash would take two.
    return hashlib.blake2b(_hashed(address) + key).digest()


@lru_cache(maxsize=4096)
def _hashed(address: str) -> bytes:
    return hashlib.sha256(address.encode()).digest()


def _number(model: ModelInfo) -> int:
    return int(model.model_version) if model.model_version.isdecimal() else 0
