"""Time of a request by phase, from the counters of the gateway and of Triton."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.serving.stack import compute_seconds, gateway_metric
from demo.commands import Service
from serving.gateway.phases import PHASES

__all__ = ["TOTAL", "phase_seconds", "snapshot"]

TOTAL: Final = "whole request in the gateway"
LABELS: Final = {"method": "Segment", "code": "OK"}


def snapshot(running: Service) -> dict[str, float]:
    """Read the seconds spent so far by phase; steps in Triton run side by side and overlap."""
    spent = {
        f"phase: {phase}": gateway_metric(running, "cpcsam_phase_seconds_sum", phase=phase)
        for phase in PHASES
    }
    spent[TOTAL] = gateway_metric(running, "cpcsam_request_seconds_sum", **LABELS)
    spent |= {f"Triton: {name}": value for name, value in compute_seconds(running).items()}
    spent["requests"] = gateway_metric(running, "cpcsam_request_seconds_count", **LABELS)
    return spent


def phase_seconds(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Mean seconds of a request by phase between two snapshots, without phases that did not run."""
    spent = {name: after[name] - before[name] for name in after}
    requests = spent.pop("requests")
    return {name: value / requests for name, value in spent.items() if value > 0}
