"""Scenario `corpus`: hostile callers beside ordinary ones, and what the gateway makes of them."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.chaos.hostile.corpus import NOT_SENT, UNENDED, Raid, Trace, carry_out
from benchmarks.chaos.hostile.wire import Target
from benchmarks.chaos.probe import GatewayProbe, stalls_by_attack
from benchmarks.chaos.processes import memory_bytes
from benchmarks.chaos.stacks import RunningGateway, gateway_of
from benchmarks.chaos.steady import SteadyLoad
from benchmarks.serving.load import Outcome, percentiles, statuses
from benchmarks.serving.report import Check, at_least, at_most
from cpcsam.artifacts.manifest import write_atomic
from serving.gateway.auth.tokens import EDITOR, USER, digest_of
from serving.triton.launch import launch_triton

__all__ = ["CorpusPlan", "LogFindings", "read_log", "run"]

TOKENS: Final = {"ordinary": ("lab", USER), "hostile-SECRET-token": ("mallory", EDITOR)}
BAD: Final = ("INTERNAL", "UNKNOWN")
LAG_S: Final = 0.05
PEAK_BYTES: Final = 1 << 30
CAP_BYTES: Final = 4 << 30
"""Address space of the gateway beyond what it has when idle, so that the machine survives."""
KEPT: Final = 1.05
PATIENCE_S: Final = 60.0
SLOWER: Final = 3.0
CLIENTS: Final = 2
PAUSE_S: Final = 0.1
SECRETS: Final = ("FORGED-SECRET", *TOKENS)
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


@dataclass(frozen=True)
class CorpusPlan:
    """Extent of the scenario.

    Attributes:
        numbers: of the attacks.
        seed: of the corpus.
        workers: attacks at a time.
        alone_s: seconds of ordinary requests alone, after a warm-up of half of it.
        families: of attacks; all if it is empty.
    """

    numbers: tuple[int, ...]
    seed: int
    workers: int = 8
    alone_s: float = 30.0
    families: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogFindings:
    """What must not be in a log.

    Attributes:
        tracebacks: number of them.
        secrets: number of lines with a token.
        controls: number of lines with control characters.
        forged: number of lines that begin as a caller chose.
    """

    tracebacks: int
    secrets: int
    controls: int
    forged: int


def read_log(text: str) -> LogFindings:
    """Count what must not be in a gateway's log."""
    lines = text.split("\n")
    return LogFindings(
        tracebacks=sum("Traceback (most recent call last)" in line for line in lines),
        secrets=sum(any(secret in line for secret in SECRETS) for line in lines),
        controls=sum(bool(CONTROLS.search(line)) for line in lines),
        forged=sum(line.lstrip().startswith("FORGED-LINE") for line in lines),
    )


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
    tokens = build / "tokens.txt"
    lines = (f"{who} {role} {digest_of(token)}\n" for token, (who, role) in TOKENS.items())
    write_atomic(tokens, "".join(lines).encode())
    options = ("--tokens", tokens, "--classes", build / "classes")
    with (
        launch_triton(repository, log=build / "triton.log") as triton,
        gateway_of(triton.grpc_url, build, *options) as gateway,
    ):
        return asyncio.run(_run(gateway, plan))


async def _run(gateway: RunningGateway, plan: CorpusPlan) -> tuple[dict[str, Any], list[Check]]:
    async with SteadyLoad(gateway.address, CLIENTS, "ordinary", PAUSE_S) as load:
        await load.settle(plan.alone_s / 2)  # warm-up: models, caches and allocators
        alone = await load.settle(plan.alone_s)
        idle = memory_bytes(gateway.pid)
        _cap(gateway.pid)
        before = _server_statuses(gateway)
        started = time.monotonic()
        with GatewayProbe(gateway.address, gateway.pid) as probe:
            begun = len(load.seen.outcomes)
            raid = await _raid(gateway, plan)
            beside = load.seen.outcomes[begun:]
        seconds = time.monotonic() - started
    after_s, kept = await _memory_afterwards(gateway.pid, idle)
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
        "stalls_s": stalls_by_attack(probe.stalls, _spans(raid.traces), LAG_S),
        "health_without_answer": probe.unanswered,
        "idle_bytes": idle,
        "peak_bytes": probe.peak_bytes,
        "bytes_afterwards": kept,
        "seconds_until_memory_was_back": after_s,
        "alone_s": _times(alone),
        "beside_s": _times(beside),
        "beside_statuses": statuses(beside),
        "beside_messages": sorted({outcome.message for outcome in beside})[:5],
    }
    checks = _checks(plan, raid, probe, statuses_of_server)
    checks += _memory_checks(probe.peak_bytes, idle, kept)
    checks += _ordinary_checks(alone, beside)
    return figures, checks + _log_checks(gateway.log, raid.details)


async def _raid(gateway: RunningGateway, plan: CorpusPlan) -> Raid:
    metrics = urlsplit(gateway.metrics_url).netloc
    target = Target(gateway.address, metrics, [*TOKENS][1])
    # gRPC does not survive a fork, and the attackers must not delay the ordinary clients' loop.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        raid: Future[Raid] = pool.submit(
            carry_out, target, plan.seed, plan.numbers, plan.workers, plan.families
        )
        return await asyncio.wrap_future(raid)


def _cap(process: int) -> None:
    """Limit the address space of the gateway, which then fails alone if it takes too much."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + CAP_BYTES
    resource.prlimit(process, resource.RLIMIT_AS, (limit, limit))


async def _memory_afterwards(process: int, idle: int) -> tuple[float, int]:
    """Wait until the memory is back, at most a minute; return the seconds and the bytes."""
    started = time.monotonic()
    while (used := memory_bytes(process)) > KEPT * idle:
        if time.monotonic() - started > PATIENCE_S:
            break
        await asyncio.sleep(0.5)
    return time.monotonic() - started, used


def _server_statuses(gateway: RunningGateway) -> Counter[str]:
    """Requests that the gateway has handled, by status."""
    with urlopen(gateway.metrics_url, timeout=30) as page:
        families = text_string_to_metric_families(page.read().decode())
    counts: Counter[str] = Counter()
    for family in families:
        for sample in family.samples:
            if sample.name == "cpcsam_request_seconds_count":
                counts[sample.labels["code"]] += int(sample.value)
    return counts


def _counts(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _spans(traces: Sequence[Trace]) -> list[tuple[str, float, float]]:
    return [(trace.name, trace.begin, trace.end) for trace in traces]


def _times(outcomes: Sequence[Outcome]) -> dict[str, float]:
    answered = [outcome.seconds for outcome in outcomes if outcome.status == "OK"]
    return percentiles(answered) if answered else {}


def _checks(
    plan: CorpusPlan, raid: Raid, probe: GatewayProbe, at_server: Counter[str]
) -> list[Check]:
    outcomes = Counter(trace.outcome for trace in raid.traces)
    unsent = sum(count for name, count in outcomes.items() if name.startswith(NOT_SENT))
    return [
        at_least("hostile requests carried out", len(raid.traces), len(plan.numbers)),
        at_most("hostile requests that could not be sent", unsent, 0),
        at_most("hostile requests without an end", outcomes[UNENDED], 0),
        at_most("answers INTERNAL or UNKNOWN", sum(outcomes[status] for status in BAD), 0),
        at_most("INTERNAL or UNKNOWN at the gateway", sum(at_server[name] for name in BAD), 0),
        at_most("longest stall of the loop, ms", 1e3 * probe.longest.net_s, 1e3 * LAG_S),
        at_most("health checks without an answer", probe.unanswered, 0),
    ]


def _memory_checks(peak: int, idle: int, kept: int) -> list[Check]:
    return [
        at_most("peak memory above idle, MiB", (peak - idle) / 2**20, PEAK_BYTES / 2**20),
        at_most("memory a minute later, of idle", kept / idle if kept else float("nan"), KEPT),
    ]


def _ordinary_checks(alone: Sequence[Outcome], beside: Sequence[Outcome]) -> list[Check]:
    slow = _times(beside).get("p99", float("nan")) / _times(alone).get("p99", float("nan"))
    failed = sum(outcome.status != "OK" for outcome in beside)
    return [
        at_most("p99 of ordinary requests beside, of alone", slow, SLOWER),
        at_most("ordinary requests that failed beside", failed, 0),
    ]


def _log_checks(log: Path, details: set[str]) -> list[Check]:
    text = log.read_text(errors="replace")
    found = read_log(text)
    here = str(Path.cwd()), sys.prefix, str(log.parent)
    return [
        at_most("tracebacks in the log", found.tracebacks, 0),
        at_most("lines of the log with a secret", found.secrets, 0),
        at_most("lines of the log with control characters", found.controls, 0),
        at_most("lines of the log that a caller forged", found.forged, 0),
        at_most(
            "messages to callers with a path of the server",
            sum(any(path in detail for path in here) for detail in details),
            0,
        ),
    ]
