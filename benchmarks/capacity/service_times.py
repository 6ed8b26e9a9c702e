"""Service times: what a request takes alone, step by step, as a JSON file holds it.

`source` tells how and where they were measured, `processors` the capacity of each by name, `stages`
how each step works, `new` and `follow_up` the seconds of requests by step, in the order of steps,
and `embedding_bytes` the size of an image's embedding; `assumed_gpu.json` is an example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from benchmarks.capacity.stations import Capacity, StageTimes
from cpcsam.errors import ConfigError, DataError

__all__ = ["GATEWAY", "TRANSPORT", "ServiceTimes", "read_times"]

GATEWAY: Final = "gateway"
"""Stage of the gateway's own work; one process, so it has one instance a gateway."""
TRANSPORT: Final = "transport"
"""Stage of all that takes time outside of the gateway and of Triton's models."""
Request = Mapping[str, float]
"""Seconds of one request by stage, in the order of the stages."""


@dataclass(frozen=True)
class ServiceTimes:
    """What requests take alone, and how the steps share a machine.

    Attributes:
        source: how and where the times were measured, or that they are assumed.
        processors: capacity by name: cores, or 1 for a GPU, or that by the number of requests in
            flight. Each replica has its own.
        stages: by name; `gateway` and `transport` belong to gateways, all others to each replica.
        new: seconds by stage of requests that bring an image, each as likely as the others.
        follow_up: the same for requests about an image whose embedding is cached, in the same order
            if both were measured for the same prompts.
        embedding_bytes: of one image's embedding.

    Raises:
        ConfigError: a request names an unknown stage, a stage an unknown processor, or there are no
            requests, or a processor has no capacity.
    """

    source: str
    processors: Mapping[str, Capacity]
    stages: Mapping[str, StageTimes]
    new: Sequence[Request]
    follow_up: Sequence[Request]
    embedding_bytes: int

    def __post_init__(self) -> None:
        """Compare the names."""
        for known, names, what in (
            (
                {*self.processors, ""},
                {stage.processor for stage in self.stages.values()},
                "processors",
            ),
            (
                {*self.stages},
                {name for one in (*self.new, *self.follow_up) for name in one}
                | {GATEWAY, TRANSPORT},
                "stages",
            ),
        ):
            if names - known:
                raise ConfigError.of(
                    what, got=sorted(known), expected=sorted(names), fix="name each of them"
                )
        for name, capacity in self.processors.items():
            cores = [*capacity.values()] if isinstance(capacity, Mapping) else [capacity]
            if not cores or not min(cores) > 0:
                raise ConfigError.of(
                    name, got=capacity, expected="a capacity above 0", fix="correct the processor"
                )
        if not self.new or not self.follow_up:
            raise ConfigError.of(
                "new, follow_up", got="no requests", expected="one or more of each", fix="add some"
            )

    def document(self) -> dict[str, Any]:
        """Return what `read_times` reads."""
        return asdict(self)

    def mean_s(self, kind: str) -> dict[str, float]:
        """Return the mean seconds of a request by stage.

        Args:
            kind: `new` or `follow_up`.
        """
        requests: Sequence[Request] = getattr(self, kind)
        return {
            name: sum(one.get(name, 0.0) for one in requests) / len(requests)
            for name in self.stages
        }


def read_times(path: Path) -> ServiceTimes:
    """Read a file of service times.

    Raises:
        DataError: the file is not one.
        ConfigError: as `ServiceTimes` and `StageTimes`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        stages = {name: _stage(stage) for name, stage in document["stages"].items()}
        values = {each.name: document[each.name] for each in fields(ServiceTimes)}
        processors = {name: _capacity(value) for name, value in document["processors"].items()}
        return ServiceTimes(**{**values, "stages": stages, "processors": processors})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError.of(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="service times as `python -m benchmarks.capacity measure` writes them",
            fix="see benchmarks/capacity/service_times.py",
        ) from error


def _stage(stage: dict[str, Any]) -> StageTimes:
    factors = {int(size): float(factor) for size, factor in stage.get("factors", {}).items()}
    return StageTimes(**{**stage, "factors": factors})


def _capacity(value: Any) -> Capacity:
    if not isinstance(value, dict):
        return float(value)
    return dict(sorted((int(requests), float(cores)) for requests, cores in value.items()))
