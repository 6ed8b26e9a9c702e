"""Verdict on the corpus: what hostile callers may cost the others, and what a log may hold."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.chaos.hostile.corpus import NOT_SENT, UNENDED, Raid
from benchmarks.chaos.probe import GatewayProbe
from benchmarks.serving.load import Outcome, percentiles
from benchmarks.serving.report import Check, at_least, at_most

__all__ = [
    "BAD",
    "KEPT",
    "LAG_S",
    "SECRET",
    "LogFindings",
    "answer_checks",
    "log_checks",
    "loop_checks",
    "memory_checks",
    "ordinary_checks",
    "read_log",
    "times_of",
]

BAD: Final = ("INTERNAL", "UNKNOWN")
"""Statuses that no caller may bring about."""
BELOW: Final = ("tcp.", "http2.")
"""Families whose broken HTTP/2 gRPC itself answers, by statuses that no server chooses."""
LAG_S: Final = 0.05
"""Longest time for which a request may block the event loop."""
PEAK_BYTES: Final = 1 << 30
KEPT: Final = 1.05
"""Memory when all is over, of the memory before."""
SLOWER: Final = 3.0
SECRET: Final = "SECRET-token"
"""End of every token of the scenario."""
SECRETS: Final = ("FORGED-SECRET", SECRET)
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


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


def times_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Percentiles of the seconds of successful requests; none without any."""
    answered = [outcome.seconds for outcome in outcomes if outcome.status == "OK"]
    return percentiles(answered) if answered else {}


def answer_checks(count: int, raid: Raid, at_server: Counter[str]) -> list[Check]:
    """Judge the answers to so many attacks, and those that the gateway counted by status."""
    outcomes = Counter(trace.outcome for trace in raid.traces)
    bad = sum(trace.outcome in BAD and not trace.name.startswith(BELOW) for trace in raid.traces)
    unsent = sum(count for name, count in outcomes.items() if name.startswith(NOT_SENT))
    return [
        at_least("hostile requests carried out", len(raid.traces), count),
        at_most("hostile requests that could not be sent", unsent, 0),
        at_most("hostile requests without an end", outcomes[UNENDED], 0),
        at_most("answers INTERNAL or UNKNOWN to calls", bad, 0),
        at_most("INTERNAL or UNKNOWN at the gateway", sum(at_server[name] for name in BAD), 0),
    ]


def loop_checks(calm: GatewayProbe, probe: GatewayProbe) -> list[Check]:
    """Judge the probe beside hostile callers by the one without them."""
    # What other programs cost is in both, as the kernel's record covers two threads of several.
    bound = LAG_S + calm.longest.net_s
    return [
        at_most("longest stall of the loop, ms", 1e3 * probe.longest.net_s, 1e3 * bound),
        at_most("health checks without an answer", probe.unanswered, 0),
    ]


def memory_checks(peak: int, idle: int, kept: int) -> list[Check]:
    """Judge the memory at its peak and when all is over, bytes."""
    return [
        at_most("peak memory above idle, MiB", (peak - idle) / 2**20, PEAK_BYTES / 2**20),
        at_most("memory a minute later, of idle", kept / idle if kept else float("nan"), KEPT),
    ]


def ordinary_checks(alone: Sequence[Outcome], beside: Sequence[Outcome]) -> list[Check]:
    """Judge ordinary requests beside hostile ones by those alone."""
    slow = times_of(beside).get("p99", float("nan")) / times_of(alone).get("p99", float("nan"))
    failed = sum(outcome.status != "OK" for outcome in beside)
    return [
        at_most("p99 of ordinary requests beside, of alone", slow, SLOWER),
        at_most("ordinary requests that failed beside", failed, 0),
    ]


def log_checks(log: Path, details: set[str]) -> list[Check]:
    """Judge the log of the gateway and the messages that callers got."""
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
