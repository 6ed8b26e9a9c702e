"""Triton's own counters and configuration of the steps of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tritonclient.grpc import InferenceServerClient

from benchmarks.capacity.stations import StageTimes
from cpcsam.contract import IMAGE_EMBEDDINGS, IMAGE_ENCODER
from cpcsam.entry_points import DECODE, DECODER, ENSEMBLES, SEGMENT
from export.triton_repository.config import ENSEMBLE_STEPS, Target

__all__ = ["Batches", "TritonCounters", "per_batch", "total"]

Batches = Mapping[int, tuple[int, float]]
"""Number of executions and their seconds, all together, by batch size."""
FLOAT_BYTES = 4


class TritonCounters:
    """Reader of a Triton's counters.

    Args:
        address: HOST:PORT of its gRPC.
    """

    def __init__(self, address: str) -> None:
        self._client = InferenceServerClient(address)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def batches(self) -> dict[str, Batches]:
        """Read what each step has computed so far."""
        ensembles = {spec.name for spec in ENSEMBLES}
        return {
            model.name: {
                each.batch_size: (each.compute_infer.count, each.compute_infer.ns / 1e9)
                for each in model.batch_stats
            }
            for model in self._client.get_inference_statistics().model_stats
            if model.name not in ensembles
        }

    def stages(self) -> dict[str, StageTimes]:
        """Read how each step is configured."""
        return {name: self._stage(name) for name in self.batches()}

    def pipeline(self, kind: str) -> tuple[str, ...]:
        """List the steps that a request passes, in order.

        Args:
            kind: `new` or `follow_up`.
        """
        entry_point = SEGMENT if kind == "new" else DECODE
        target: Target = "cpu" if DECODER.name in self.batches() else "gpu"
        return tuple(step.name for step in ENSEMBLE_STEPS[target][entry_point])

    def embedding_bytes(self) -> int:
        """Read the size of an image's embedding."""
        outputs = self._client.get_model_config(IMAGE_ENCODER.name).config.output
        (dims,) = (each.dims for each in outputs if each.name == IMAGE_EMBEDDINGS.name)
        return FLOAT_BYTES * int(math.prod(dims))

    def _stage(self, name: str) -> StageTimes:
        config = self._client.get_model_config(name).config
        return StageTimes(
            instances=sum(group.count for group in config.instance_group),
            max_batch=config.max_batch_size,
            delay_s=config.dynamic_batching.max_queue_delay_microseconds / 1e6,
        )


def total(batches: Batches) -> tuple[int, float]:
    """Sum the number of executions and their seconds over batch sizes."""
    return sum(runs for runs, _ in batches.values()), sum(s for _, s in batches.values())


def per_batch(
    before: Mapping[str, Batches], after: Mapping[str, Batches]
) -> dict[str, dict[int, float]]:
    """Mean seconds of a batch by step and size between two readings."""
    means: dict[str, dict[int, float]] = {}
    for name, sizes in after.items():
        for size, (runs, seconds) in sizes.items():
            runs_before, seconds_before = before.get(name, {}).get(size, (0, 0.0))
            if runs > runs_before:
                took = (seconds - seconds_before) / (runs - runs_before)
                means.setdefault(name, {})[size] = took
    return means
