"""Simulated clusters: gateways and replicas under arrivals, or under repeating clients."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from benchmarks.capacity.gateway import Arrival, Gateway, Outcome, Recent, Replica
from benchmarks.capacity.service_times import GATEWAY, TRANSPORT, ServiceTimes
from benchmarks.capacity.stations import Processor, Station
from cpcsam.errors import ConfigError
from export.triton_repository.config import EMBEDDING_STORE_BYTES
from serving.gateway.limits import Limits

__all__ = ["Cluster", "ClusterSize", "summary"]


@dataclass(frozen=True)
class ClusterSize:
    """Size of a simulated cluster.

    Attributes:
        replicas: Tritons, each with the processors of the service times.
        gateways: each before all replicas.
        is_shared: whether the only gateway runs on the processor of the only replica, and clients
            too, as on one machine; else each gateway has a core of its own.
        keeps_images: whether all requests about an image go to one gateway; else to any.

    Raises:
        ConfigError: one machine cannot hold more than one of each.
    """

    replicas: int = 1
    gateways: int = 1
    is_shared: bool = False
    keeps_images: bool = True

    def __post_init__(self) -> None:
        """Compare the sizes."""
        if self.is_shared and (self.replicas, self.gateways) != (1, 1):
            raise ConfigError.of(
                "is_shared",
                got=f"{self.replicas} replicas, {self.gateways} gateways",
                expected="one of each",
                fix="simulate one of each, or each on a machine of its own",
            )


@dataclass
class Cluster:
    """Gateways and replicas in one simulation.

    Args:
        times: of requests.
        size: of the cluster.
        limits: of each gateway.
        seed: decides all chance.

    Attributes:
        outcomes: of requests, in the order of their ends.
    """

    times: ServiceTimes
    size: ClusterSize = ClusterSize()
    limits: Limits = Limits()
    seed: int = 0
    outcomes: list[Outcome] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Build the stations."""
        self.env = simpy.Environment()
        self._chance = random.Random(self.seed)
        self.processors: list[dict[str, Processor]] = []
        self.replicas: dict[str, Replica] = {}
        for number in range(self.size.replicas):
            self.replicas[f"replica-{number}:8001"] = self._replica()
        favourites: dict[int, str] = {}
        self.gateways = [
            Gateway(
                self.env,
                self.limits,
                self.times,
                self.replicas,
                self._machine(),
                favourites,
                self._chance,
                self.outcomes,
            )
            for _ in range(self.size.gateways)
        ]

    def follow(self, arrivals: Iterable[Arrival], until_s: float = math.inf) -> None:
        """Send requests when they are due (open loop), and run to the end of the last one.

        Args:
            arrivals: in order of time; those before 0 only fill the caches.
            until_s: end of the simulation, if it comes before.
        """

        def send() -> Generator[simpy.Event, Any, None]:
            is_begun = False
            for arrival in arrivals:
                gateway = self.gateway_of(arrival.image)
                if arrival.at < 0:
                    gateway.cached.add(arrival.image)
                    continue
                if not is_begun:
                    is_begun = True
                    for each in self.gateways:
                        each.begin()
                if arrival.at > self.env.now:
                    yield simpy.Timeout(self.env, arrival.at - self.env.now)
                self.env.process(gateway.answer(arrival))

        self.env.process(send())
        self.env.run(None if until_s == math.inf else until_s)

    def repeat(
        self, clients: int, draw: Callable[[], Arrival], seconds: float, pause_s: float = 0.1
    ) -> None:
        """Run clients with one request in flight each (closed loop), and wait for their answers.

        Args:
            clients: number of them.
            draw: draws the next request; its time is ignored.
            seconds: after which no client sends another.
            pause_s: of a client whose request was refused.
        """

        def client() -> Generator[simpy.Event, Any, None]:
            while self.env.now < seconds:
                began = self.env.now
                arrival = draw()
                gateway = self.gateway_of(arrival.image)
                yield self.env.process(gateway.answer(arrival))
                if self.env.now == began:
                    yield simpy.Timeout(self.env, pause_s)

        for _ in range(clients):
            self.env.process(client())
        self.env.run()

    def gateway_of(self, image: int) -> Gateway:
        """Return the gateway of the next request about an image."""
        if self.size.keeps_images:
            return self.gateways[image % len(self.gateways)]
        return self.gateways[int(self._chance.random() * len(self.gateways))]

    def utilisation(self, seconds: float) -> dict[str, float]:
        """Return the busy share of each processor and of the gateways' own process.

        Args:
            seconds: that were simulated.
        """
        shares = {
            name: float(np.mean([each[name].busy_s for each in self.processors]))
            / seconds
            / (max(cores.values()) if isinstance(cores, Mapping) else cores)
            for name, cores in self.times.processors.items()
        }
        own = [gateway.own.busy_s for gateway in self.gateways]
        return {**shares, GATEWAY: float(np.mean(own)) / seconds}

    def mean_batch(self) -> dict[str, float]:
        """Return the mean number of calls in a batch, by step."""
        batches: dict[str, float] = {}
        for name in self.times.stages:
            if name in (GATEWAY, TRANSPORT):
                continue
            stations = [replica.stations[name] for replica in self.replicas.values()]
            executed = sum(station.batches for station in stations)
            batches[name] = sum(station.calls for station in stations) / max(executed, 1)
        return batches

    def _replica(self) -> Replica:
        processors = {
            name: Processor(self.env, cores, self._in_flight)
            for name, cores in self.times.processors.items()
        }
        self.processors.append(processors)
        unlimited = Processor(self.env)
        stations = {
            name: Station(self.env, stage, processors.get(stage.processor, unlimited))
            for name, stage in self.times.stages.items()
            if name not in (GATEWAY, TRANSPORT)
        }
        return Replica(
            stations, Recent(EMBEDDING_STORE_BYTES // max(self.times.embedding_bytes, 1))
        )

    def _in_flight(self) -> float:
        """Requests in flight, of each replica in the mean."""
        return sum(gateway.in_flight for gateway in self.gateways) / len(self.replicas)

    def _machine(self) -> Processor:
        """Return the processor of a gateway."""
        if not self.size.is_shared:
            return Processor(self.env)
        return self.processors[0][self.times.stages[GATEWAY].processor]


def summary(outcomes: Sequence[Outcome], begin_s: float, end_s: float) -> dict[str, float]:
    """Return throughput, shares and latencies of the requests that came in a span.

    Args:
        outcomes: of the simulation.
        begin_s: of the span.
        end_s: of the span; the throughput counts answers in it.
    """
    counted = [one for one in outcomes if begin_s <= one.at < end_s]
    answered = [one for one in counted if one.is_answered]
    follow_ups = [one for one in answered if one.is_follow_up]
    hits = [one for one in follow_ups if one.is_hit]
    ends = sum(begin_s <= one.at + one.seconds < end_s for one in outcomes if one.is_answered)
    seconds = [one.seconds for one in answered] or [math.nan]
    p50, p95, p99 = (float(each) for each in np.percentile(seconds, (50, 95, 99)))
    return {
        "offered_a_second": len(counted) / (end_s - begin_s),
        "answers_a_second": ends / (end_s - begin_s),
        "refused_share": 1 - len(answered) / max(len(counted), 1),
        "p50_s": p50,
        "p95_s": p95,
        "p99_s": p99,
        "hit_share": len(hits) / max(len(follow_ups), 1),
        "resent_share": sum(one.is_resent for one in hits) / max(len(hits), 1),
    }
