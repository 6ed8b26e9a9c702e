"""A simulated gateway: places, turns, the embedding cache, and the choice of a replica.

The rules are those of `serving.gateway`: a bounded number of requests in flight, turns in groups
for calls that encode and for calls that only decode, refusals of requests that would wait too long,
an LRU cache with single-flight, and rendezvous hashing with bounded loads, by the gateway's own
functions. It has one tenant and no deadlines.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import simpy

from benchmarks.capacity.service_times import GATEWAY, TRANSPORT, ServiceTimes
from benchmarks.capacity.stations import Processor, Station
from serving.gateway.inference.replicas import choose, favourite
from serving.gateway.limits import GROUPS, Limits
from serving.gateway.scheduling.admission import MARGIN
from serving.gateway.scheduling.call_queue import LEAST_CALLS, SMOOTHING, TRITON_SHARE

__all__ = ["Arrival", "Gateway", "Outcome", "Replica"]

Steps = Generator[simpy.Event, Any, None]
OUTSIDE: Final = (GATEWAY, TRANSPORT)
"""Stages that are no step of a replica."""


class Arrival(NamedTuple):
    """A request.

    Attributes:
        at: seconds.
        image: number of its image.
        row: of the service times.
        is_follow_up: whether the client names a known image and sends none.
    """

    at: float
    image: int
    row: int
    is_follow_up: bool = False


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        at: seconds, of its arrival.
        seconds: until the answer.
        is_answered: False if it was refused.
        is_follow_up: as in `Arrival`.
        is_hit: whether the gateway knew the embedding.
        is_resent: whether the embedding had to be sent to a replica that did not keep it.
    """

    at: float
    seconds: float
    is_answered: bool
    is_follow_up: bool
    is_hit: bool = False
    is_resent: bool = False


class Recent:
    """Images of which embeddings are kept; the least recently used one makes room (LRU)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._images: OrderedDict[int, None] = OrderedDict()

    def __iter__(self) -> Iterator[int]:
        return iter(self._images)

    def take(self, image: int) -> bool:
        """Return whether an image is there, and note that it was used."""
        if image not in self._images:
            return False
        self._images.move_to_end(image)
        return True

    def add(self, image: int) -> None:
        """Keep an image."""
        self._images[image] = None
        if len(self._images) > self._size:
            self._images.popitem(last=False)


@dataclass
class Replica:
    """One Triton: its steps by name, and the embeddings that it keeps."""

    stations: Mapping[str, Station]
    stored: Recent


class Turns:
    """Permits of one queue of calls to Triton, granted in order and in groups while many wait."""

    def __init__(self, env: simpy.Environment, limits: Limits) -> None:
        self._env = env
        self._limits = limits
        self._waiters: deque[simpy.Event] = deque()
        self._permits = limits.max_concurrent
        self._running = 0
        self._mean_s = 0.0

    @property
    def wait_s(self) -> float:
        """Expected seconds until the turn of a further call, as `CallQueue.outlook` has them."""
        ahead = len(self._waiters) + self._running
        return max(ahead - self._permits, 0) * self._mean_s

    def acquire(self) -> simpy.Event:
        """Return an event that happens when it is the call's turn."""
        turn = simpy.Event(self._env)
        self._waiters.append(turn)
        self._grant()
        return turn

    def release(self, seconds: float, together: int) -> None:
        """End a turn.

        Args:
            seconds: that the call took.
            together: calls that ran when it began, itself included.
        """
        weight = SMOOTHING if self._mean_s else 1.0
        self._mean_s += weight * (seconds / together - self._mean_s)
        fitting = int(TRITON_SHARE * self._limits.max_queue_s / max(self._mean_s, 1e-6))
        self._permits = min(max(fitting, LEAST_CALLS), self._limits.max_concurrent)
        self._running -= 1
        self._grant()

    @property
    def running(self) -> int:
        """Number of calls that have their turn."""
        return self._running

    def _grant(self) -> None:
        free = self._permits - self._running
        if free < min(len(self._waiters), max(1, self._permits // GROUPS)):
            return
        for _ in range(min(free, len(self._waiters))):
            self._running += 1
            self._waiters.popleft().succeed()


@dataclass
class Gateway:
    """One gateway before all replicas.

    Args:
        env: the simulation.
        limits: of the gateway.
        times: of requests.
        replicas: by address.
        machine: processor of the gateway's own work.
        favourites: addresses by image, shared by gateways, as hashing takes long.
        chance: breaks ties.
        outcomes: gets what became of each request.

    Attributes:
        in_flight: number of requests that were taken and are not answered.
    """

    env: simpy.Environment
    limits: Limits
    times: ServiceTimes
    replicas: Mapping[str, Replica]
    machine: Processor
    favourites: dict[int, str]
    chance: random.Random
    outcomes: list[Outcome]
    in_flight: int = field(init=False, default=0)
    cached: Recent = field(init=False)
    own: Station = field(init=False)

    def __post_init__(self) -> None:
        """Open the queues."""
        self.cached = Recent(self.limits.cache_bytes // max(self.times.embedding_bytes, 1))
        self.own = Station(self.env, self.times.stages[GATEWAY], self.machine)
        self._transport = Station(self.env, self.times.stages[TRANSPORT], self.machine)
        self._encoding, self._decoding = Turns(self.env, self.limits), Turns(self.env, self.limits)
        self._flights: dict[int, simpy.Event] = {}
        self._loads = dict.fromkeys(self.replicas, 0)

    def begin(self) -> None:
        """Make the replicas keep the embeddings that are cached, as if they had encoded them."""
        for image in self.cached:
            self.replicas[self._favourite(image)].stored.add(image)

    def answer(self, arrival: Arrival) -> Steps:
        """Answer a request, or refuse it."""
        began = self.env.now
        image = arrival.image
        is_hit = self.cached.take(image) or image in self._flights
        turns = self._decoding if is_hit else self._encoding
        refused = self.in_flight >= self.limits.max_in_flight
        if refused or MARGIN * turns.wait_s > self.limits.max_queue_s:
            self.outcomes.append(Outcome(began, 0.0, False, arrival.is_follow_up))
            return
        self.in_flight += 1
        row = (self.times.follow_up if is_hit else self.times.new)[arrival.row]
        if not is_hit:
            self._flights[image] = simpy.Event(self.env)
        yield self.own.run(row.get(GATEWAY, 0.0))
        if is_hit and image in self._flights:
            yield self._flights[image]
        yield turns.acquire()
        is_resent = yield from self._call(turns, image, row, is_hit)
        if not is_hit:
            self.cached.add(image)
            self._flights.pop(image).succeed()
        yield self._transport.run(row.get(TRANSPORT, 0.0))
        self.in_flight -= 1
        self.outcomes.append(
            Outcome(began, self.env.now - began, True, arrival.is_follow_up, is_hit, is_resent)
        )

    def _call(
        self, turns: Turns, image: int, row: Mapping[str, float], is_hit: bool
    ) -> Generator[simpy.Event, Any, bool]:
        """Run the steps of a call; return whether the embedding had to be sent along."""
        address = choose(self._favourite(image), self._loads, self.chance.random)
        replica = self.replicas[address]
        self._loads[address] += 1
        began, together = self.env.now, turns.running
        is_resent = not replica.stored.take(image) and is_hit
        replica.stored.add(image)
        for name, seconds in row.items():
            if name not in OUTSIDE and seconds:
                yield replica.stations[name].run(seconds)
        self._loads[address] -= 1
        turns.release(self.env.now - began, together)
        return is_resent

    def _favourite(self, image: int) -> str:
        if image not in self.favourites:
            self.favourites[image] = favourite(str(image).encode(), self.replicas)
        return self.favourites[image]
