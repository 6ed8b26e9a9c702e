from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from benchmarks.common.output import publish
from benchmarks.serving import stack
from benchmarks.serving.deadlines import ended_at
from benchmarks.serving.load import Outcome, percentiles, rate, statuses
from benchmarks.serving.ports import answers, listeners, outside_address, processes_below
from benchmarks.serving.report import Check, at_least, at_most, machine, write_report, write_verdict
from benchmarks.serving.stack import EncoderRuns, encoder_runs
from benchmarks.serving.tasks import draw_tasks
from cpcsam.images.reading import decode_image
from demo.commands import Service
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.validation.prompts import check_prompts
from serving.gateway.validation.request import check_request, original_size_of


def outcome(status: str, sent_at: float, seconds: float) -> Outcome:
    return Outcome(0, sent_at, seconds, status, "", None)


def test_tasks_of_equal_seed_are_equal_valid_and_distinct() -> None:
    tasks, again = draw_tasks(24, seed=5), draw_tasks(24, seed=5)
    assert tasks == again
    assert len({task.image_bytes for task in tasks}) == len({task.size for task in tasks}) == 24
    assert len({len(task.prompts) for task in tasks}) > 4
    for task in tasks:
        request = task.request(0)
        check_request(request, Limits())
        assert original_size_of(request.image_bytes, Limits()) == task.size
        check_prompts(request.prompts, task.size, 64)


def test_task_copy_has_other_bytes_and_equal_pixels() -> None:
    for task in draw_tasks(6, seed=6):
        first, second = task.file(1), task.file(2)
        assert first != second
        pixels = [decode_image(file, Limits.max_pixels) for file in (first, second)]
        assert np.array_equal(*pixels) and pixels[0].shape[:2] == task.size


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        (at_most("x", 1.0, 1.0), True),
        (at_most("x", 1.1, 1.0), False),
        (at_least("x", 1.0, 1.0), True),
        (at_least("x", 0.9, 1.0), False),
        (at_most("x", float("nan"), 1.0), False),
        (at_least("x", float("nan"), 1.0), False),
    ],
)
def test_check_holds_within_its_bound(check: Check, holds: bool) -> None:
    assert check.holds is holds
    assert ("**no**" in check.row()) is not holds


def test_rate_counts_answers_over_the_whole_time() -> None:
    outcomes = [outcome("OK", 100, 1), outcome("OK", 101, 3), outcome("UNAVAILABLE", 102, 1)]
    assert rate(outcomes) == pytest.approx(2 / 4)
    assert statuses(outcomes) == {"OK": 2, "UNAVAILABLE": 1}
    assert percentiles(range(101)) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}


def test_ended_at_parses_end_and_status_of_named_requests() -> None:
    log = (
        "2026-11-26 03:53:37,123 INFO serving.gateway.rpc Segment 'cancelled-7': CANCELLED, 20 ms\n"
        "2026-11-26 03:53:38,001 INFO serving.gateway.rpc Segment '': OK, 3.0 ms\n"
        "2026-11-26 03:53:39,500 INFO serving.gateway.rpc Segment 'expiring-8': OK, 3.0 ms\n"
    )
    second = time.mktime((2026, 11, 26, 3, 53, 37, 0, 0, -1))
    assert ended_at(log) == {
        "cancelled-7": (pytest.approx(second + 0.123), "CANCELLED"),
        "expiring-8": (pytest.approx(second + 2.5), "OK"),
    }


def test_listeners_have_their_ports_and_addresses() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as near,
        socket.create_server(
            ("::ffff:127.0.0.1", 0), family=socket.AF_INET6, dualstack_ipv6=True
        ) as mapped,
        socket.create_server(("", 0)) as everywhere,
    ):
        ports = [one.getsockname()[1] for one in (near, mapped, everywhere)]
        found = {one.port: one.address for one in listeners(processes_below(os.getpid()))}
        assert [found[port] for port in ports] == ["127.0.0.1", "127.0.0.1", "0.0.0.0"]
        outside = outside_address()
        assert not outside.startswith("127.0.0.1")
        assert [answers(outside, port) for port in ports] == [False, False, True]


def test_write_report_shows_every_figure_and_failed_check(tmp_path: Path) -> None:
    figures = {"queue_limit_s": 5.0, "latencies_s": [0.1, 0.2, 9.0], "statuses": {"OK": 3}}
    checks = [at_most("p99, seconds", 9.0, 10.0), at_least("batch", 1.5, 2.0)]
    write_verdict(tmp_path, "overload", {"seconds": 1}, machine(), figures, checks)
    report = write_report(tmp_path)
    markdown = report.body()
    assert "| p99, seconds | 9 | ≤ 10 | yes |" in markdown
    assert "| batch | 1.5 | ≥ 2 | **no** |" in markdown
    assert "- statuses: OK 3" in markdown and "latencies_s" not in markdown
    publish(report, tmp_path / "report.md", argparse.Namespace(report=False))
    assert (tmp_path / "report.md").read_text() == markdown
    assert report.plots["latencies"] == (tmp_path / "latencies.png").read_bytes()
    assert (tmp_path / "latencies.png").stat().st_size > 5000
    document = json.loads((tmp_path / "overload.json").read_text())
    assert [check["holds"] for check in document["checks"]] == [True, False]


SERVICE = Service("gateway:1", "triton:1", "http://gateway", "http://triton", 1, Path("log"))


class Stand:
    """Counters of a gateway and a Triton, of which `during` changes some between two reads."""

    def __init__(self, during: Callable[[Stand], None]) -> None:
        self.metrics = Metrics()
        self.images, self.during = 5, during

    def begin_probe(self) -> None:
        self.metrics.probes_in_flight.inc()
        self.images += 1

    def end_probe(self, entry_point: str = "segment") -> None:
        self.metrics.probes.labels(entry_point).inc()
        self.metrics.probes_in_flight.dec()

    def read(self, running: Service, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None, "the gateway has such a series"
        self.during(self)
        return value

    def __call__(self, url: str) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def get_inference_statistics(self, model: str) -> Any:
        counts = SimpleNamespace(inference_count=self.images, execution_count=self.images)
        return SimpleNamespace(model_stats=[counts])


def counted(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> EncoderRuns:
    monkeypatch.setattr(stack, "COUNTED_S", 0.0)
    monkeypatch.setattr(stack, "gateway_metric", stand.read)
    monkeypatch.setattr(stack, "InferenceServerClient", stand)
    return encoder_runs(SERVICE)


@pytest.mark.parametrize("reads_before", range(12))
def test_a_probe_that_ends_between_two_reads_is_no_image(
    reads_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reads_of_probe in range(1, 12):
        reads = 0

        def probe(stand: Stand) -> None:
            nonlocal reads
            reads += 1
            if reads == reads_before + 1:
                stand.begin_probe()
            if reads == reads_before + 1 + reads_of_probe:  # noqa: B023
                stand.end_probe()

        runs = counted(Stand(probe), monkeypatch)
        assert runs == EncoderRuns(5, 5), reads_of_probe


def test_a_probe_of_a_decode_is_not_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(lambda stand: None)
    stand.end_probe("decode_with_mask")
    stand.metrics.probes_in_flight.set(0)
    assert counted(stand, monkeypatch) == EncoderRuns(5, 5)
