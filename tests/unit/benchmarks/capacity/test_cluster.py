"""Simulated clusters conserve requests, depend on their seed, and show what affinity saves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.capacity.__main__ import ASSUMED, main
from benchmarks.capacity.cluster import Cluster, ClusterSize, summary
from benchmarks.capacity.gateway import Arrival
from benchmarks.capacity.service_times import ServiceTimes, read_times
from benchmarks.capacity.workload import Sessions
from cpcsam.errors import ConfigError, DataError

SECONDS = 10.0


@pytest.fixture(scope="module")
def times() -> ServiceTimes:
    return read_times(ASSUMED)


def simulated(times: ServiceTimes, size: ClusterSize, rate: float = 60.0) -> Cluster:
    cluster = Cluster(times, size)
    cluster.follow(Sessions(rate).arrivals(SECONDS, len(times.new)))
    return cluster


def test_every_request_is_answered_or_refused_once(times: ServiceTimes) -> None:
    arrivals = [a for a in Sessions(900.0).arrivals(SECONDS, len(times.new)) if a.at >= 0]
    cluster = simulated(times, ClusterSize(1, 1), 900.0)
    refused = [one for one in cluster.outcomes if not one.is_answered]
    assert len(cluster.outcomes) == len(arrivals)
    assert 0 < len(refused) < len(arrivals)
    # Alone, a new image takes 34.5 or 51.5 ms.
    assert min(one.seconds for one in cluster.outcomes if one.is_answered and not one.is_hit) > 0.03


def test_the_seed_decides_everything(times: ServiceTimes) -> None:
    size = ClusterSize(3, 2, keeps_images=False)
    first, again = simulated(times, size), simulated(times, size)
    assert first.outcomes == again.outcomes != simulated(times, ClusterSize(2, 2)).outcomes


def test_affinity_keeps_follow_ups_in_the_cache(times: ServiceTimes) -> None:
    hits = [
        summary(simulated(times, ClusterSize(4, 4, keeps_images=keeps)).outcomes, 0, SECONDS)
        for keeps in (True, False)
    ]
    assert hits[0]["hit_share"] > 0.95
    assert hits[1]["hit_share"] < 0.8
    assert hits[0]["answers_a_second"] == pytest.approx(60, rel=0.1)


def test_equal_images_in_flight_are_encoded_once(times: ServiceTimes) -> None:
    cluster = Cluster(times)
    cluster.follow([Arrival(0.0, 7, 0)] * 8)
    replica = next(iter(cluster.replicas.values()))
    assert replica.stations["image_encoder"].calls == 1
    assert replica.stations["mask_decoder"].calls == 8


def test_clients_keep_one_request_in_flight_each(times: ServiceTimes) -> None:
    cluster = Cluster(times)
    cluster.repeat(1, lambda: Arrival(0.0, 1, 0), SECONDS)
    # 34.5 ms for the image, then 9 ms each.
    assert len(cluster.outcomes) == pytest.approx((SECONDS - 0.0345) / 0.009, abs=2)


def test_simulate_writes_a_table_and_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rate", "20", "40", "--seconds", "2", "--out", str(tmp_path)]
    assert main(["simulate", *options]) == 0
    assert "ASSUMED" in capsys.readouterr().out
    assert {"simulations.md", "latency.png", "cost.png"} == {p.name for p in tmp_path.iterdir()}


def test_read_times_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    document = json.loads(ASSUMED.read_text())
    file.write_text(json.dumps({**document, "processors": {"cpu": 8}}))
    with pytest.raises(ConfigError, match="processors"):
        read_times(file)
    file.write_text(json.dumps({**document, "stages": {"gateway": {"speed": 1}}}))
    with pytest.raises(DataError, match="speed"):
        read_times(file)
