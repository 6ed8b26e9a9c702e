"""Scenario `corpus`: hostile callers beside ordinary ones, and what the gateway makes of them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks.chaos.hostile.corpus import NOT_SENT, UNENDED, Raid, Trace, carry_out
from benchmarks.chaos.hostile.ordinary import one_of_each
from benchmarks.chaos.hostile.wire import Target, Wire
from benchmarks.chaos.probe import GatewayProbe, stalls_by_attack
from benchmarks.chaos.services import RunningGateway, gateway_of, memory_below
from benchmarks.chaos.steady import SteadyLoad
from benchmarks.chaos.verdict import (
    BAD,
    KEPT,
    LAG_S,
    SECRET,
    answer_checks,
    log_checks,
    loop_checks,
    memory_checks,
    ordinary_checks,
    times_of,
)
from benchmarks.serving.load import statuses
from benchmarks.serving.report import Check
from benchmarks.serving.stack import cpu_seconds
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ServingError
from serving.gateway.auth.tokens import EDITOR, USER, digest_of
from serving.triton.launch import launch_triton

__all__ = ["CorpusPlan", "run"]

ORDINARY: Final = f"lab-{SECRET}"
HOSTILE: Final = f"mallory-{SECRET}"
TOKENS: Final = {ORDINARY: ("lab", USER), HOSTILE: ("mallory", EDITOR)}
CACHE_BYTES: Final = str(4 << 20)
CAP_BYTES: Final = 4 << 30
"""Address space of the gateway beyond what it has when idle, so that the machine survives."""
WARM_UP_S: Final = 30.0
WARM_UPS: Final = 3
CLIENTS: Final = 2
PAUSE_S: Final = 0.1
NICENESS: Final = 19
"""Of the attackers' process."""


@dataclass(frozen=True)
class CorpusPlan:
    """Extent of the scenario.

    Attributes:
        numbers: of the attacks.
        seed: of the corpus.
        workers: attacks at a time.
        alone_s: seconds of ordinary requests alone, after a warm-up of half of it.
        families: of attacks; all if it is empty.
        patience_s: longest time until the memory should be back.
    """

    numbers: tuple[int, ...]
    seed: int
    workers: int = 8
    alone_s: float = 30.0
    families: tuple[str, ...] = ()
    patience_s: float = 60.0


def run(repository: Path, build: Path, plan: CorpusPlan) -> tuple[dict[str, Any], list[Check]]:
    """Attack a gateway of its own before a Triton of its own.

    Args:
        repository: to serve.
        build: for logs, tokens and classes.
        plan: what is done.

    Returns:
        Figures and checks.
    """
    build.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(build / "classes", ignore_errors=True)
    tokens = build / "tokens.txt"
    lines = (f"{who} {role} {digest_of(token)}\n" for token, (who, role) in TOKENS.items())
    write_atomic(tokens, "".join(lines).encode())
    # The cache is full after the warm-up, so that it does not count as growth.
    options = ("--tokens", tokens, "--classes", build / "classes", "--cache-bytes", CACHE_BYTES)
    with (
        launch_triton(repository, log=build / "triton.log") as triton,
        gateway_of(triton.grpc_url, build, *options) as gateway,
    ):
        return asyncio.run(_run(gateway, plan))


async def _run(gateway: RunningGateway, plan: CorpusPlan) -> tuple[dict[str, Any], list[Check]]:
    # gRPC does not survive a fork, and the attackers must not delay the ordinary clients' loop.
    context = multiprocessing.get_context("spawn")
    # Nor may they take the cores of the service: what their own work costs is nothing that it does.
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=os.nice, initargs=(NICENESS,)
    ) as pool:
        return await _attacked(gateway, plan, pool)


async def _attacked(
    gateway: RunningGateway, plan: CorpusPlan, pool: Executor
) -> tuple[dict[str, Any], list[Check]]:
    async with SteadyLoad(gateway.address, CLIENTS, ORDINARY, PAUSE_S) as load:
        await asyncio.gather(load.settle(plan.alone_s / 2), _warm_up(gateway))
        await _raid(gateway, replace(plan, numbers=()), pool)  # starts the process
        spent = cpu_seconds(gateway.pid)
        with GatewayProbe(gateway.address, gateway.pid) as calm:
            alone = await load.settle(plan.alone_s)
        cpu_alone_s = cpu_seconds(gateway.pid) - spent
        idle = memory_below(gateway.pid)
        _cap(gateway.pid)
        before, late = _server_statuses(gateway), _late_ticks(gateway)
        started, spent = time.monotonic(), cpu_seconds(gateway.pid)
        with GatewayProbe(gateway.address, gateway.pid) as probe:
            begun = len(load.seen.outcomes)
            raid = await _raid(gateway, plan, pool)
            beside = load.seen.outcomes[begun:]
        seconds = time.monotonic() - started
        cpu_beside_s = cpu_seconds(gateway.pid) - spent
    after_s, kept = await _memory_afterwards(gateway.pid, idle, plan.patience_s)
    statuses_of_server = _server_statuses(gateway) - before
    figures = {
        "requests": len(raid.traces),
        "seed": plan.seed,
        "seconds": seconds,
        "outcomes": _counts(trace.outcome for trace in raid.traces),
        "bad_by_kind": _counts(
            f"{trace.name} {trace.outcome}"
            for trace in raid.traces
            if trace.outcome.startswith((*BAD, UNENDED, NOT_SENT))
        ),
        "first_bad": {
            trace.name: trace.number for trace in reversed(raid.traces) if trace.outcome in BAD
        },
        "statuses_at_the_gateway": dict(statuses_of_server),
        "longest_stall_s": probe.longest.seconds,
        "longest_stall_alone_s": calm.longest.seconds,
        "stalls_s": stalls_by_attack(probe.stalls, _spans(raid.traces), LAG_S),
        "late_over_50_ms_at_the_gateway": _late_ticks(gateway) - late,
        "health_without_answer": probe.unanswered,
        "idle_bytes": idle,
        "peak_bytes": probe.peak_bytes,
        "bytes_afterwards": kept,
        "seconds_until_memory_was_back": after_s,
        "cpu_s_of_the_gateway_alone": round(cpu_alone_s, 2),
        "cpu_s_of_the_gateway_beside": round(cpu_beside_s, 2),
        "cpu_s_of_the_attackers": round(raid.cpu_s, 2),
        "alone_s": times_of(alone),
        "beside_s": times_of(beside),
        "beside_statuses": statuses(beside),
        "beside_messages": sorted({outcome.message for outcome in beside})[:5],
    }
    checks = answer_checks(len(plan.numbers), raid, statuses_of_server)
    checks += loop_checks(calm, probe)
    checks += memory_checks(probe.peak_bytes, idle, kept)
    checks += ordinary_checks(alone, beside)
    return figures, checks + log_checks(gateway.log, raid.details)


async def _warm_up(gateway: RunningGateway) -> None:
    """Have each kind of request answered, several at a time: all code, threads and helpers start.

    Raises:
        ServingError: one is refused.
    """
    wire = Wire(_target(gateway))
    calls = one_of_each()
    alike = [body for method, body in calls if method == "Segment"][:-1]
    for _ in range(WARM_UPS):
        await asyncio.gather(*(wire.call("Segment", body, WARM_UP_S) for body in alike))
    for method, body in calls:
        status = await wire.call(method, body, WARM_UP_S)
        if status != "OK":
            got = f"{status}: {wire.details}"
            raise ServingError.of(method, got=got, expected="OK", fix=f"see {gateway.log}")


def _target(gateway: RunningGateway) -> Target:
    return Target(gateway.address, urlsplit(gateway.metrics_url).netloc, HOSTILE)


async def _raid(gateway: RunningGateway, plan: CorpusPlan, pool: Executor) -> Raid:
    raid = pool.submit(
        carry_out, _target(gateway), plan.seed, plan.numbers, plan.workers, plan.families
    )
    return await asyncio.wrap_future(raid)


def _cap(process: int) -> None:
    """Limit the address space of the gateway, which then fails alone if it takes too much."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + CAP_BYTES
    resource.prlimit(process, resource.RLIMIT_AS, (limit, limit))


async def _memory_afterwards(process: int, idle: int, patience_s: float) -> tuple[float, int]:
    """Wait until the memory is back, but not for ever; return the seconds and the bytes."""
    started = time.monotonic()
    while (used := memory_below(process)) > KEPT * idle:
        if time.monotonic() - started > patience_s:
            break
        await asyncio.sleep(0.5)
    return time.monotonic() - started, used


def _server_statuses(gateway: RunningGateway) -> Counter[str]:
    """Requests that the gateway has handled, by status."""
    counts: Counter[str] = Counter()
    for sample in _samples(gateway, "cpcsam_request_seconds_count"):
        counts[sample.labels["code"]] += int(sample.value)
    return +counts


def _late_ticks(gateway: RunningGateway) -> int:
    """Times that the gateway's own watchdog found its loop late by more than the bound."""
    ticks = {
        float(sample.labels["le"]): int(sample.value)
        for sample in _samples(gateway, "cpcsam_loop_lag_seconds_bucket")
    }
    return max(ticks.values()) - ticks[LAG_S]


def _samples(gateway: RunningGateway, name: str) -> list[Sample]:
    with urlopen(gateway.metrics_url, timeout=30) as page:
        families = text_string_to_metric_families(page.read().decode())
    return [sample for family in families for sample in family.samples if sample.name == name]


def _counts(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _spans(traces: Sequence[Trace]) -> list[tuple[str, float, float]]:
    return [(trace.name, trace.begin, trace.end) for trace in traces]
