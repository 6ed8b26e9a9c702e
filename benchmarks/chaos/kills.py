"""Scenarios `kill-…`: a process of the service dies by SIGKILL under the load of eight clients."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Final

from benchmarks.chaos.services import (
    GATEWAY,
    TRITON,
    gateway_of,
    kill,
    port_of,
    roles_below,
    steps_below,
    supervised,
)
from benchmarks.chaos.steady import Observation, SteadyLoad
from benchmarks.serving.report import Check, at_least, at_most
from cpcsam.errors import ServingError
from serving.triton.launch import launch_triton

__all__ = ["Fault", "checks_of", "kill_gateway", "kill_replica", "kill_steps", "kill_triton"]

HEALTHY_S: Final = 10.0
STEP_HEALTHY_S: Final = 5.0
FALSELY_SERVING_S: Final = 5.0
SETTLE_S: Final = 5.0
QUIET_S: Final = 4.0
"""Without a failure; then the service counts as repaired."""
OBSERVE_S: Final = 30.0
ALLOWED: Final = "UNAVAILABLE"
Result = tuple[dict[str, Any], list[Check]]


@dataclass(frozen=True)
class Fault:
    """A process to kill, and what is tolerated.

    Attributes:
        role: of the process.
        healthy_s: bound of the time until the service is whole.
        failures: number of requests that may fail, by UNAVAILABLE; None is any number.
    """

    role: str
    healthy_s: float = HEALTHY_S
    failures: int | None = None


def kill_steps(repository: Path, build: Path, seed: int, quick: bool = False) -> Result:
    """Kill each Python step of Triton in a service of its own.

    Args:
        repository: to serve.
        build: for logs.
        seed: draws which of a step's instances dies.
        quick: kill the first step alone.

    Returns:
        Figures and checks.
    """
    rng = random.Random(seed)
    figures: dict[str, Any] = {}
    checks: list[Check] = []
    for step in _steps_of(repository)[: 1 if quick else None]:
        with supervised(repository, build / step) as running:
            victim = rng.choice(steps_below(running.pid)[step])
            seen = asyncio.run(_observe(running.gateway, victim))
        fault = Fault(step, STEP_HEALTHY_S)
        figures[step] = _figures(seen)
        checks += checks_of(fault, seen)
    return figures, checks


def kill_triton(repository: Path, build: Path) -> Result:
    """Kill Triton's server; arguments as for `kill_steps`."""
    return _kill_of_service(repository, build, Fault(TRITON))


def kill_gateway(repository: Path, build: Path) -> Result:
    """Kill the gateway that `serving.serve` runs; arguments as for `kill_steps`."""
    return _kill_of_service(repository, build, Fault(GATEWAY))


def kill_replica(repository: Path, build: Path) -> Result:
    """Kill one of two Tritons behind one gateway; nothing restarts it.

    Arguments as for `kill_steps`.
    """
    build.mkdir(parents=True, exist_ok=True)
    with (
        launch_triton(repository, log=build / "triton-0.log") as stays,
        launch_triton(repository, log=build / "triton-1.log") as dies,
        gateway_of(f"{stays.grpc_url},{dies.grpc_url}", build) as running,
    ):
        seen = asyncio.run(_observe(running.address, dies.process.pid))
    return _figures(seen), checks_of(Fault("replica", HEALTHY_S, failures=0), seen)


def _kill_of_service(repository: Path, build: Path, fault: Fault) -> Result:
    with supervised(repository, build) as running:
        found = roles_below(running.pid, port_of(running.gateway)).get(fault.role, [])
        if len(found) != 1:
            raise ServingError.of(
                fault.role, got=f"{len(found)} processes", expected="one", fix="see the logs"
            )
        seen = asyncio.run(_observe(running.gateway, found[0]))
    return _figures(seen), checks_of(fault, seen)


def _steps_of(repository: Path) -> list[str]:
    with launch_triton(repository) as server:
        return sorted(steps_below(server.process.pid))


async def _observe(address: str, victim: int) -> Observation:
    """Load the service, kill a process, and watch until it is whole again."""
    async with SteadyLoad(address) as load:
        before = await load.settle(SETTLE_S)
        if not any(outcome.status == "OK" for outcome in before):
            raise ServingError.of(
                "service",
                got=f"{[outcome.message for outcome in before[:1]]} before the fault",
                expected="answers",
                fix="see the logs",
            )
        seen = load.seen
        seen.fault_at = time()
        kill(victim)
        while (now := time()) < seen.fault_at + OBSERVE_S:
            await asyncio.sleep(0.1)
            # Health is a promise for later requests, so it is given time to be broken.
            if now > seen.fault_at + 2 * QUIET_S and seen.quiet_s(now) > QUIET_S:
                break
    return seen


def _figures(seen: Observation) -> dict[str, Any]:
    succeeded = [outcome for outcome in seen.outcomes if outcome.status == "OK"]
    return {
        "answered": len(succeeded),
        "failed": seen.failed_by_status(),
        "messages": sorted({outcome.message for outcome in seen.failures()})[:5],
        "healthy_after_s": seen.healthy_after_s(),
        "health_serving_while_requests_failed_s": seen.falsely_serving_s(),
        "failed_by_s": [
            round(outcome.sent_at + outcome.seconds - seen.fault_at, 2)
            for outcome in seen.failures()
        ],
    }


def checks_of(fault: Fault, seen: Observation) -> list[Check]:
    """Judge what clients saw of a fault."""
    failed = seen.failed_by_status()
    other = sum(count for status, count in failed.items() if status != ALLOWED)
    what = f"kill of {fault.role}"
    checks = [
        at_least(f"{what}: requests answered", len(seen.outcomes) - sum(failed.values()), 1),
        at_most(f"{what}: seconds to healthy", seen.healthy_after_s(), fault.healthy_s),
        at_most(f"{what}: failures other than {ALLOWED}", other, 0),
        at_most(
            f"{what}: seconds of SERVING while requests failed",
            seen.falsely_serving_s(),
            FALSELY_SERVING_S,
        ),
    ]
    if fault.failures is not None:
        checks.append(at_most(f"{what}: failures", sum(failed.values()), fault.failures))
    return checks
