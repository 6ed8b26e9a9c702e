"""The service as `make serve` runs it, its counters, its model repository or a random one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import urlopen

import torch
from prometheus_client.parser import text_string_to_metric_families
from segment_anything import sam_model_registry
from tritonclient.grpc import InferenceServerClient

from benchmarks.serving.ports import processes_below
from cpcsam.artifacts.manifest import publish
from cpcsam.contract import IMAGE_ENCODER
from cpcsam.entry_points import ENCODE, ENSEMBLES, SEGMENT
from cpcsam.errors import ServingError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.build_sam import EncoderSize, build_sam_with
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from demo.commands import Service, run_stage, serve
from export.graphs.precisions import trace_graphs
from export.triton_repository.publishing import build_repository

__all__ = [
    "EncoderRuns",
    "compute_seconds",
    "cores_of",
    "cpu_seconds",
    "encoder_runs",
    "gateway_metric",
    "random_repository",
    "repository_of",
    "service",
    "shallow_repository",
]

COUNTED_S: Final = 0.5
"""Seconds between an answer and the last counter that includes it."""
ATTEMPTS: Final = 40


@dataclass(frozen=True)
class EncoderRuns:
    """Triton's counters of the encoder.

    Attributes:
        images: number of encoded images.
        batches: number of executed batches.
    """

    images: int
    batches: int

    def since(self, before: EncoderRuns) -> EncoderRuns:
        """Difference to earlier counters."""
        return EncoderRuns(self.images - before.images, self.batches - before.batches)


def encoder_runs(running: Service) -> EncoderRuns:
    """Read the encoder's counters from Triton, without the gateway's probes.

    Raises:
        ServingError: the service is never without a probe, so its images can't be told apart.
    """
    with InferenceServerClient(running.triton) as triton:
        for _ in range(ATTEMPTS):
            before = _probes(running)
            time.sleep(COUNTED_S)
            (model,) = triton.get_inference_statistics(IMAGE_ENCODER.name).model_stats
            if before == _probes(running) and not before.in_flight:
                return EncoderRuns(
                    int(model.inference_count) - before.ended,
                    int(model.execution_count) - before.ended,
                )
    raise ServingError.of(
        "the encoder's counters",
        got=f"a probe at each of {ATTEMPTS} attempts",
        expected="a moment without one",
        fix="measure on a machine that is less busy",
    )


class _Probes(NamedTuple):
    """Number of probes in flight, and of those that have passed through the encoder."""

    in_flight: int
    ended: int


def _probes(running: Service) -> _Probes:
    # In this order: the gateway counts a probe before it takes it off those in flight.
    in_flight = gateway_metric(running, "cpcsam_probes_in_flight")
    ended = (
        gateway_metric(running, "cpcsam_probes_total", entry_point=spec.name)
        for spec in (SEGMENT, ENCODE)
    )
    return _Probes(int(in_flight), int(sum(ended)))


@contextmanager
def cores_of(running: Service) -> Iterator[list[float]]:
    """Yield a list that gets the mean number of cores that the service used in the block."""
    cores: list[float] = []
    started, spent = time.monotonic(), cpu_seconds(running.pid)
    yield cores
    cores.append((cpu_seconds(running.pid) - spent) / (time.monotonic() - started))


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a process and its descendants so far, seconds."""
    ticks = 0
    for process in processes_below(pid):
        with suppress(OSError):  # it has just ended
            # After the name, which may hold spaces; then 11 and 12 are utime and stime.
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def compute_seconds(running: Service) -> dict[str, float]:
    """Compute time of each of Triton's models so far, seconds; ensembles are left out."""
    with InferenceServerClient(running.triton) as triton:
        models = triton.get_inference_statistics().model_stats
    ensembles = {spec.name for spec in ENSEMBLES}
    return {
        model.name: sum(batch.compute_infer.ns for batch in model.batch_stats) / 1e9
        for model in models
        if model.name not in ensembles
    }


def gateway_metric(running: Service, name: str, **labels: str) -> float:
    """Read a sample from the gateway's Prometheus page; 0 if it is missing."""
    with urlopen(running.gateway_metrics_url, timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return next(
        (
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ),
        0.0,
    )


def repository_of(base: Path, build: Path) -> Path:
    """Export a base by the commands of `make export`; unchanged artifacts stay."""
    repository = build / "repository"
    run_stage("Merge", "export.merge", "--base", base, "--out", build / "merged")
    run_stage("Export", "export.to_onnx", "--merged", build / "merged", "--out", build / "onnx")
    run_stage(
        "Publish",
        "export.repository",
        "publish",
        *("--onnx", build / "onnx", "--out", repository),
    )
    return repository


@contextmanager
def service(repository: Path, build: Path, *options: str | Path) -> Iterator[Service]:
    """Run Triton and the gateway on loopback while the block runs."""
    build.mkdir(parents=True, exist_ok=True)
    with serve(
        repository, build / "serve.log", "--triton-log", build / "triton.log", *options
    ) as running:
        yield running


SPREAD = 0.02


def random_repository(model_size: str, image_size: int, build: Path) -> Path:
    """Export random weights in the official checkpoint's layout; they are not compared with torch.

    Args:
        model_size: vit_b, vit_l or vit_h.
        image_size: side S of the encoder's frame.
        build: folder for all that is made.

    Returns:
        The repository.
    """
    build.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    sam = sam_model_registry[model_size]()
    with torch.no_grad():
        for parameter in sam.parameters():
            if not parameter.any():
                parameter.normal_(std=SPREAD)
    torch.save(sam.state_dict(), build / "random.pth")
    del sam
    model = load_base(build / "random.pth", model_size, image_size)
    return _traced_repository(model, model_size, image_size, build)


def shallow_repository(image_size: int, build: Path) -> Path:
    """Export random weights with an encoder of one block, to time all that is around the encoder.

    All tensors are as large as those of vit_b and vit_h.

    Args:
        image_size: side S of the encoder's frame.
        build: folder for all that is made.

    Returns:
        The repository.
    """
    torch.manual_seed(0)
    encoder = EncoderSize(192, 1, 6, (), 14, image_size)
    model = CpcSam(build_sam_with(encoder, image_size)).eval()
    return _traced_repository(model, "vit_t", image_size, build)


def _traced_repository(model: CpcSam, model_size: str, image_size: int, build: Path) -> Path:
    build.mkdir(parents=True, exist_ok=True)
    config = {"model_size": model_size, "image_size": image_size}
    with publish(build / "onnx", "onnx", config=config) as staging:
        trace_graphs(fuse(model), staging, "fp32")
    build_repository(build / "onnx", build / "repository")
    return build / "repository"
