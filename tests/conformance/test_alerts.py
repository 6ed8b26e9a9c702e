"""Prometheus rules in promtool: each alert fires on its fault, and none in a healthy hour."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import helm_python
import pytest
import yaml

from cpcsam.entry_points import ENSEMBLES
from serving.common.buckets import BUCKETS_S
from serving.gateway.metrics import Metrics
from serving.gateway.phases import PHASES
from serving.http.metrics import HttpMetrics
from serving.metrics_reference import TRITON
from tests.conformance.test_deploy import run
from tests.support.documentation import Page, module_file
from tests.support.kubernetes import Resource, ci_values, rendered, rendered_ci
from tests.support.paths import ROOT

FOLDER: Final = ROOT / "deploy/prometheus"
TESTS: Final = ROOT / "tests/conformance/alerts.yml"
RUNBOOK: Final = Page(Path("docs/guides/runbook.md"))
HOUR: Final = "x240"
HEALTHY: Final = {
    **{
        f'up{{job="{job}", instance="{job}"}}': "1"
        for job in ("gateway", "http", "prometheus", "triton")
    },
    'cpcsam_request_seconds_count{method="Segment", code="OK"}': "0+1000",
    'cpcsam_request_seconds_count{method="Segment", code="INTERNAL"}': "0+1",
    'cpcsam_request_seconds_count{method="Segment", code="RESOURCE_EXHAUSTED"}': "0+1",
    'cpcsam_request_seconds_sum{method="Segment", code="OK"}': "0+200",
    **{
        f'cpcsam_request_seconds_bucket{{method="Segment", code="OK", le="{le}"}}': f"0+{count}"
        for le, count in (("0.5", 900), ("1.0", 990), ("+Inf", 1000))
    },
    **{
        f'cpcsam_phase_seconds_bucket{{phase="{phase}", le="{le}"}}': f"0+{count}"
        for phase in PHASES
        for le, count in (("0.1", 900), ("+Inf", 1000))
    },
    **{f'cpcsam_phase_seconds_sum{{phase="{phase}"}}': "0+25" for phase in PHASES},
    'cpcsam_http_request_seconds_count{route="/v1/segment", code="200"}': "0+1000",
    'cpcsam_http_request_seconds_count{route="/v1/segment", code="500"}': "0+1",
    'cpcsam_replica_up{job="gateway", instance="gateway", replica="a:8001"}': "1",
    'cpcsam_restarts_total{program="triton", cause="exit"}': "1",
    'cpcsam_rejected_total{reason="in_flight"}': "0+1",
    'cpcsam_rejected_total{reason="open_calls"}': "0",
    'cpcsam_token_file_refused{instance="gateway"}': "0",
    'cpcsam_backlog_seconds{instance="gateway", queue="encode"}': "2",
    'cpcsam_loop_lag_seconds_count{instance="gateway"}': "0+750",
    'cpcsam_loop_lag_seconds_bucket{instance="gateway", le="0.2"}': "0+750",
    'cpcsam_cache_lookups_total{instance="gateway", outcome="hit"}': "0+700",
    'cpcsam_cache_lookups_total{instance="gateway", outcome="miss"}': "0+300",
    'cpcsam_cache_evictions_total{instance="gateway"}': "0+100",
    **{
        f'{name}{{instance="a", model="{model}"}}': value
        for model in ("segment", "decoder")
        for name, value in (
            ("nv_inference_request_success", "0+1000"),
            ("nv_inference_request_failure", "0+1"),
            ("nv_inference_queue_duration_us", "0+5000000"),
            ("nv_inference_count", "0+1000"),
            ("nv_inference_exec_count", "0+500"),
        )
    },
    'nv_pinned_memory_pool_used_bytes{instance="a"}': "1000000",
    'nv_pinned_memory_pool_total_bytes{instance="a"}': "268435456",
}
"""Changes of each series in 15 s: some requests fail, are slow or refused, as always."""


def rules(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / name).read_text()))


def names(file: str, kind: str) -> list[str]:
    return [rule[kind] for group in rules(file)["groups"] for rule in group["rules"]]


ALERTS: Final = names("alerts.yml", "alert")
RECORDS: Final = names("rules.yml", "record")


def promtool(folder: Path, tests: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run unit tests against `rules.yml` and `alerts.yml` of a folder."""
    files = [str(folder / "rules.yml"), str(folder / "alerts.yml")]
    path = folder / "tests.yml"
    path.write_text(yaml.safe_dump({**tests, "rule_files": files}))
    return run("prometheus", "promtool", "test", "rules", str(path))


def healthy_hour() -> dict[str, Any]:
    """No alert fires, and every recording rule has a number."""
    times = [f"{minute}m" for minute in (10, 30, 60)]
    return {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": series, "values": change + HOUR}
                    for series, change in HEALTHY.items()
                ],
                "alert_rule_test": [
                    {"eval_time": time, "alertname": name} for name in {*ALERTS} for time in times
                ],
                "promql_expr_test": [
                    {
                        "expr": f"count({record} >= 0) > bool 0",
                        "eval_time": "60m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for record in RECORDS
                ],
            }
        ],
    }


def write_rules(folder: Path, alerts: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    (folder / "alerts.yml").write_text(yaml.safe_dump(alerts))
    (folder / "rules.yml").write_text(yaml.safe_dump(records))


def test_rules_and_configuration_are_accepted() -> None:
    for command in (("rules", "rules.yml"), ("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = run("prometheus", "promtool", "check", command[0], str(FOLDER / command[1]))
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_on_their_faults() -> None:
    done = run("prometheus", "promtool", "test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_fires_in_a_healthy_hour(tmp_path: Path) -> None:
    write_rules(tmp_path, rules("alerts.yml"), rules("rules.yml"))
    done = promtool(tmp_path, healthy_hour())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("turn", range(max(map(ALERTS.count, ALERTS))))
def test_tests_fail_without_an_alert(turn: int, tmp_path: Path) -> None:
    """One of the alerts with the same name is removed each turn; other names are independent."""
    alerts, left_out, seen = rules("alerts.yml"), set[str](), defaultdict[str, int](int)
    for group in alerts["groups"]:
        kept = []
        for rule in group["rules"]:
            name = rule["alert"]
            if seen[name] == turn:
                left_out.add(name)
            else:
                kept.append(rule)
            seen[name] += 1
        group["rules"] = kept
    tests = dict(yaml.safe_load(TESTS.read_text()))
    tests["tests"] = [
        test
        for test in tests["tests"]
        if left_out & {expected["alertname"] for expected in test["alert_rule_test"]}
    ]
    write_rules(tmp_path, alerts, rules("rules.yml"))
    done = promtool(tmp_path, tests)
    assert done.returncode != 0
    assert left_out <= {*re.findall(r"alertname: (\w+)", done.stdout + done.stderr)}


def test_tests_fail_without_a_recording_rule(tmp_path: Path) -> None:
    write_rules(tmp_path, {"groups": []}, {"groups": []})
    done = promtool(tmp_path, healthy_hour())
    failed = re.findall(r'expr: "count\((\S+) >= 0\)', done.stdout + done.stderr)
    assert sorted(failed) == sorted(RECORDS)


def runbook_of_alerts() -> dict[str, str]:
    """The text of each alert in the runbook."""
    sections = re.split(r"^### (.+)$", RUNBOOK.section("## Alerts"), flags=re.M)[1:]
    return dict(zip(sections[::2], sections[1::2], strict=True))


def queries_of_runbook() -> list[str]:
    """PromQL in what the runbook says to look at."""
    looks = re.findall(r"^- Look: (.*?)^- Do: ", RUNBOOK.text, re.M | re.S)
    spans = [span for look in looks for span in re.findall(r"`([^`]+)`", look)]
    return [span for span in spans if re.search(r"\b(cpcsam_|cpcsam:|nv_|up )", span)]


def test_rules_and_runbook_name_metrics_and_values_of_labels_that_exist() -> None:
    rules_text = "".join((FOLDER / name).read_text() for name in ("rules.yml", "alerts.yml"))
    text = "\n".join([rules_text, *queries_of_runbook()])
    named = set(re.findall(r"(?<![:\w])cpcsam_\w+", text)) - {
        part for record in RECORDS for part in record.split(":")
    }
    metrics, http = Metrics(), HttpMetrics([("/v1/segment", "POST")])
    for of_replica in (metrics.replica_up, metrics.replica_success):
        of_replica.labels("triton:8001")
    exposed = {
        sample.name
        for registry in (metrics.registry, http.registry)
        for metric in registry.collect()
        for sample in metric.samples
    }
    assert named and named <= exposed
    assert {*re.findall(r"\bnv_\w+", text)} - {*":".join(RECORDS).split(":")} <= {*TRITON}
    assert {float(le) for le in re.findall(r'le="([\d.]+)"', text)} <= {*BUCKETS_S, 0.2}
    assert {*re.findall(r"\b(?:phase|method|cpcsam|model):\w+:\w+", text)} <= {*RECORDS}


def test_runbook_has_every_alert_with_its_severity_a_first_look_and_a_remedy() -> None:
    sections = runbook_of_alerts()
    assert list(sections) == list(dict.fromkeys(ALERTS))
    for group in rules("alerts.yml")["groups"]:
        for rule in group["rules"]:
            section = sections[rule["alert"]]
            severity = section.strip().partition(". ")[0].partition(",")[0]
            assert rule["labels"]["severity"] in severity.lower().split(" or "), rule["alert"]
            assert [section.count(f"\n- {part}: ") for part in ("Look", "Do")] == [1, 1]


def test_queries_of_the_runbook_are_accepted(tmp_path: Path) -> None:
    queries = queries_of_runbook()
    assert len(queries) >= len({*ALERTS})
    recorded = [{"record": f"q{index}", "expr": query} for index, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": recorded}]}))
    done = run("prometheus", "promtool", "check", "rules", "--lint=none", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_drills_of_the_runbook_are_tests() -> None:
    drills = re.findall(r"`([\w/.]+)\.py::(\w+)`", RUNBOOK.section("## Incident drills"))
    assert len(drills) > 10
    for path, name in drills:
        file = module_file(path.replace("/", "."))
        assert file, path
        assert re.search(rf"^(async )?def {name}\(", file.read_text(), re.M), name


def scraped_every(interval: str, **values: Any) -> list[Resource]:
    values |= {"serviceMonitor": {"enabled": True, "interval": interval}}
    return rendered(ci_values("gpu") | values)


def test_windows_of_rules_hold_four_samples() -> None:
    text = "".join((FOLDER / name).read_text() for name in ("rules.yml", "alerts.yml"))
    windows = re.findall(r"\[(\d+)([mhd])\]", "\n".join([text, *queries_of_runbook()]))
    shortest = min(int(count) * {"m": 60, "h": 3600, "d": 86400}[unit] for count, unit in windows)
    assert scraped_every(f"{shortest // 4}s")
    for interval in (f"{shortest // 4 + 1}s", f"{shortest * 250 + 1}ms", "1m"):
        with pytest.raises(helm_python.HelmError, match=f"interval: got {interval}, expected at"):
            scraped_every(interval)
    compose = rules("prometheus.yml")["global"]["scrape_interval"]
    assert int(compose.removesuffix("s")) * 4 <= shortest


def queries_of_autoscaler(resources: list[Resource]) -> list[str]:
    [scaled] = [one for one in resources if one["kind"] == "ScaledObject"]
    return [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]


def test_queries_of_the_autoscaler_name_real_metrics() -> None:
    text = " ".join(queries_of_autoscaler(rendered_ci("gpu")))
    named = set(re.findall(r"\bcpcsam_\w+", text))
    assert named and named <= {metric.name for metric in Metrics().registry.collect()}
    [excluded] = re.findall(r'model!~"([^"]+)"', text)
    assert sorted(excluded.split("|")) == sorted(one.name for one in ENSEMBLES)
    services = [one["metadata"]["name"] for one in rendered_ci("gpu") if one["kind"] == "Service"]
    assert {*re.findall(r'service="([^"]+)"', text)} <= {*services}


@pytest.mark.parametrize(("interval", "seconds"), [("500ms", 1), ("15s", 15), ("2m", 120)])
def test_queries_of_the_autoscaler_see_load_although_a_scrape_fails(
    interval: str, seconds: int, tmp_path: Path
) -> None:
    queries = queries_of_autoscaler(scraped_every(interval, prometheusRule={"enabled": False}))
    labels = 'namespace="vision", service="sam-cpcsam'
    step, time = seconds * 10_000_000, f"{seconds}00s"
    series = {
        f'nv_inference_queue_duration_us{{{labels}-triton", model="m"}}': f"0+{step}x98 _ {step}00",
        f'cpcsam_in_flight_requests{{{labels}-gateway"}}': "10x98 _ 10",
    }
    expected = [{"labels": "{}", "value": 10}]
    test = {
        "interval": f"{seconds}s",
        "input_series": [{"series": name, "values": value} for name, value in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": time, "exp_samples": expected} for query in queries
        ],
    }
    write_rules(tmp_path, {"groups": []}, {"groups": []})
    done = promtool(tmp_path, {"evaluation_interval": f"{seconds}s", "tests": [test]})
    assert done.returncode == 0, done.stdout + done.stderr
