"""Triton's count of encoded images, told apart from the gateway's probes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from benchmarks.serving import stack
from benchmarks.serving.stack import EncoderRuns, encoder_runs
from demo.commands import Service
from serving.gateway.metrics import Metrics

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
