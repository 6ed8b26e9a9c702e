"""Write the Grafana dashboards of deploy/grafana/dashboards, which the deployment provisions.

    python -m tools.dashboards
    python -m tools.dashboards --out DIR

A panel is a title, a unit and PromQL queries by legend; the Grafana Foundation SDK makes Grafana's
JSON of them. A test compares the files with what is written here, and another runs each query on a
Prometheus that scrapes the running service.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import Final

from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

from cpcsam.commands import parser_of, run_command

__all__ = ["DASHBOARDS", "GPU_ROW", "Panel", "dashboard_text", "main"]

PROG: Final = "python -m tools.dashboards"
OUT: Final = Path(__file__).resolve().parents[1] / "deploy/grafana/dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
WIDTH, HEIGHT = 8, 8
GPU_ROW: Final = "GPU (empty without one)"
RATE: Final = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """A chart over time.

    Attributes:
        title: above it.
        unit: of the values, as Grafana names it.
        queries: PromQL by legend, in which `{{label}}` stands for a label's value.
    """

    title: str
    unit: str
    queries: Mapping[str, str]


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}[{RATE}]))"


def _quantiles(histogram: str, by: str, where: str = "") -> dict[str, str]:
    """Return a query for each quantile of a histogram, whose name is without `_bucket`."""
    rates = _rate(f"{histogram}_bucket", f"le, {by}", where)
    return {
        f"{name} {{{{{by}}}}}": f"histogram_quantile({value}, {rates})"
        for name, value in QUANTILES.items()
    }


def _per(numerator: str, denominator: str, by: str) -> str:
    return f"{_rate(numerator, by)} / {_rate(denominator, by)}"


OVERVIEW: Final[Mapping[str, Sequence[Panel]]] = {
    "Traffic": (
        Panel("Requests", "reqps", {"{{method}}": _rate("cpcsam_request_seconds_count", "method")}),
        Panel(
            "Failed requests, by status",
            "reqps",
            {"{{code}}": _rate("cpcsam_request_seconds_count", "code", '{code!="OK"}')},
        ),
        Panel("Prompts", "cps", {"{{instance}}": _rate("cpcsam_prompts_total", "instance")}),
    ),
    "Latency": (
        Panel(
            "Answered requests, by method",
            "s",
            _quantiles("cpcsam_request_seconds", "method", '{code="OK"}'),
        ),
        Panel("Phases of Segment", "s", _quantiles("cpcsam_phase_seconds", "phase")),
        Panel(
            "Mean time in each phase",
            "s",
            {"{{phase}}": _per("cpcsam_phase_seconds_sum", "cpcsam_phase_seconds_count", "phase")},
        ),
    ),
    "Saturation": (
        Panel("Requests in flight", "short", {"{{instance}}": "cpcsam_in_flight_requests"}),
        Panel("Work that Triton still has to do", "s", {"{{queue}}": "cpcsam_backlog_seconds"}),
        Panel(
            "Refused requests, by reason",
            "reqps",
            {"{{reason}}": _rate("cpcsam_rejected_total", "reason")},
        ),
        Panel("Open calls", "short", {"{{kind}}": "sum by (kind) (cpcsam_open_calls)"}),
        Panel("Delay of the event loop", "s", _quantiles("cpcsam_loop_lag_seconds", "instance")),
        Panel(
            "Unusable token file",
            "bool_yes_no",
            {"{{instance}}": "cpcsam_token_file_refused"},
        ),
    ),
    "Cache of embeddings": (
        Panel(
            "Look-ups, by outcome",
            "ops",
            {"{{outcome}}": _rate("cpcsam_cache_lookups_total", "outcome")},
        ),
        Panel("Size", "bytes", {"{{instance}}": "cpcsam_cache_bytes"}),
        Panel(
            "Evictions", "ops", {"{{instance}}": _rate("cpcsam_cache_evictions_total", "instance")}
        ),
    ),
    "Replicas of Triton": (
        Panel("Up", "bool_yes_no", {"{{replica}}": "min by (replica) (cpcsam_replica_up)"}),
        Panel(
            "Time since the last success",
            "s",
            {"{{replica}}": "time() - cpcsam_replica_last_success_timestamp_seconds"},
        ),
        Panel(
            "Calls made again, and probes",
            "ops",
            {
                "made again": _rate("cpcsam_retried_calls_total", "instance"),
                "probes": _rate("cpcsam_probes_total", "instance"),
            },
        ),
    ),
    "HTTP front": (
        Panel(
            "Requests, by route and status",
            "reqps",
            {"{{route}} {{code}}": _rate("cpcsam_http_request_seconds_count", "route, code")},
        ),
        Panel("Latency", "s", _quantiles("cpcsam_http_request_seconds", "route")),
        Panel("Phases", "s", _quantiles("cpcsam_http_phase_seconds", "phase")),
        Panel("Requests in flight", "short", {"{{instance}}": "cpcsam_http_in_flight_requests"}),
        Panel("Bodies in memory", "bytes", {"{{instance}}": "cpcsam_http_held_bytes"}),
        Panel(
            "Refused requests, by reason",
            "reqps",
            {"{{reason}}": _rate("cpcsam_http_rejected_total", "reason")},
        ),
    ),
}

TRITON: Final[Mapping[str, Sequence[Panel]]] = {
    "Models": (
        Panel("Requests", "reqps", {"{{model}}": _rate("nv_inference_request_success", "model")}),
        Panel(
            "Failures",
            "reqps",
            {"{{model}} {{reason}}": _rate("nv_inference_request_failure", "model, reason")},
        ),
        Panel(
            "Mean batch",
            "short",
            {"{{model}}": _per("nv_inference_count", "nv_inference_exec_count", "model")},
        ),
    ),
    "Time of a request in a model": (
        Panel(
            "Queue",
            "µs",
            {
                "{{model}}": _per(
                    "nv_inference_queue_duration_us", "nv_inference_request_success", "model"
                )
            },
        ),
        Panel(
            "Computation",
            "µs",
            {
                "{{model}}": _per(
                    "nv_inference_compute_infer_duration_us",
                    "nv_inference_request_success",
                    "model",
                )
            },
        ),
        Panel(
            "Waiting requests",
            "short",
            {"{{model}}": "sum by (model) (nv_inference_pending_request_count)"},
        ),
    ),
    "Machine": (
        Panel("CPU utilization", "percentunit", {"{{instance}}": "nv_cpu_utilization"}),
        Panel("Memory of the machine", "bytes", {"{{instance}}": "nv_cpu_memory_used_bytes"}),
        Panel(
            "Pool of pinned memory",
            "bytes",
            {
                "used {{instance}}": "nv_pinned_memory_pool_used_bytes",
                "size {{instance}}": "nv_pinned_memory_pool_total_bytes",
            },
        ),
    ),
    GPU_ROW: (
        Panel("Utilization", "percentunit", {"{{gpu_uuid}}": "nv_gpu_utilization"}),
        Panel(
            "Memory",
            "bytes",
            {
                "used {{gpu_uuid}}": "nv_gpu_memory_used_bytes",
                "size {{gpu_uuid}}": "nv_gpu_memory_total_bytes",
            },
        ),
        Panel("Power", "watt", {"{{gpu_uuid}}": "nv_gpu_power_usage"}),
    ),
}

DASHBOARDS: Final[Mapping[str, Mapping[str, Sequence[Panel]]]] = {
    "overview": OVERVIEW,
    "triton": TRITON,
}
"""Panels by row of each dashboard, by the name of its file."""


def dashboard_text(name: str) -> str:
    """Return a dashboard of `DASHBOARDS` as JSON."""
    board = (
        Dashboard(f"CPC-SAM {name}")
        .uid(f"cpcsam-{name}")
        .tags(["cpcsam"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
    )
    number = count(1)
    for title, panels in DASHBOARDS[name].items():
        board.with_row(Row(title).id(next(number)))
        for panel in panels:
            board.with_panel(_time_series(panel).id(next(number)))
    content = json.loads(json.dumps(board.build(), cls=JSONEncoder, sort_keys=True))
    lines = ",\n".join(json.dumps(panel) for panel in content.pop("panels"))
    return f'{{"panels": [\n{lines}\n],\n{json.dumps(content)[1:]}\n'


def _time_series(panel: Panel) -> TimeSeries:
    series = (
        TimeSeries()
        .title(panel.title)
        .unit(panel.unit)
        .datasource(SOURCE)
        .min(0)
        .span(WIDTH)
        .height(HEIGHT)
        .legend(VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM))
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for name, (legend, query) in zip(ascii_uppercase, panel.queries.items(), strict=False):
        target = Dataquery().expr(query).legend_format(legend).range().ref_id(name)
        series.with_target(target)
    return series


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = "folder of the JSON files (deploy/grafana/dashboards)"
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=text)
    return run_command(parser, _write, argv)


def _write(args: argparse.Namespace) -> None:
    for name in DASHBOARDS:
        (args.out / f"{name}.json").write_text(dashboard_text(name))


if __name__ == "__main__":
    sys.exit(main())
