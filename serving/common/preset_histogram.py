"""Histogram whose series exist from the start, but for the buckets of those that are empty."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

__all__ = ["PresetHistogram"]


class PresetHistogram(Collector):
    """Histogram with labels that shows an empty series for each expected combination of them.

    A rate needs a series that was 0 before, else the first failures of a kind raise no alert. Of
    combinations that were never observed the page has the sum, the count, the last bucket and that
    of the objective only: all the buckets of each would take tens of milliseconds of every scrape.

    Args:
        name: of the metric.
        documentation: shown as its help.
        labelnames: names of the labels.
        buckets: upper edges.
        expected: values of the labels, in order, of each expected combination.
        registry: registers it.
        objective: upper edge of the bucket that rules read.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        buckets: Sequence[float],
        expected: Iterable[Sequence[str]],
        registry: CollectorRegistry,
        objective: float | None = None,
    ) -> None:
        self.buckets = tuple(buckets)
        self._names = tuple(labelnames)
        edges = (inf,) if objective is None else (objective, inf)
        self._edges = [floatToGoString(edge) for edge in edges]  # type: ignore[no-untyped-call]
        self._expected: Collection[tuple[str, ...]] = [tuple(values) for values in expected]
        self._histogram = Histogram(name, documentation, labelnames, buckets=buckets, registry=None)
        registry.register(self)

    def labels(self, *values: str) -> Histogram:
        """Return the histogram of one combination of labels."""
        return self._histogram.labels(*values)

    def collect(self) -> Iterable[Metric]:
        """Return the metric with all expected series."""
        for metric in self._histogram.collect():
            name = metric.name
            seen = {
                tuple(sample.labels[label] for label in self._names)
                for sample in metric.samples
                if sample.name == f"{name}_count"
            }
            for values in self._expected:
                if values not in seen:
                    labels = dict(zip(self._names, values, strict=True))
                    for edge in self._edges:
                        metric.add_sample(f"{name}_bucket", {**labels, "le": edge}, 0.0)
                    metric.add_sample(f"{name}_count", labels, 0.0)
                    metric.add_sample(f"{name}_sum", labels, 0.0)
            yield metric
