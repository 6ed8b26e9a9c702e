"""Scenario `mixed`: concurrent requests change no answer, and share the encoder's batches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from tqdm import tqdm
from tritonclient.grpc.aio import InferenceServerClient

from benchmarks.serving.load import (
    Outcome,
    answered,
    connections,
    percentiles,
    rate,
    repeating,
    statuses,
)
from benchmarks.serving.logits import logits_of, probe
from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.stack import compute_seconds, cores_of, encoder_runs, gateway_metric
from benchmarks.serving.tasks import draw_tasks
from cpcsam.v1 import segmentation_pb2 as pb
from demo.commands import Service

__all__ = ["PATIENT", "run"]

TASKS: Final = 64
PROBES: Final = 1
"""Clients that request logits from Triton itself at the same time."""
REPEATED: Final = 0.25
"""Share of the requests whose image the gateway may know; the others bring a new file."""
TIMEOUT_S: Final = 120.0
PATIENT: Final = ("--max-seconds", f"{TIMEOUT_S:g}", "--max-queue", "30")
"""Options of the service, so that a busy machine refuses nobody here."""
FULL: Final = "RESOURCE_EXHAUSTED"
SCORES: Final = 1e-4


def run(running: Service, clients: int, seconds: float) -> tuple[dict[str, Any], list[Check]]:
    """Send every request alone, then all concurrently.

    Args:
        running: the service.
        clients: number of concurrent clients.
        seconds: duration of the load.

    Returns:
        Figures and checks.
    """
    return asyncio.run(_run(running, clients, seconds))


async def _run(
    running: Service, clients: int, seconds: float
) -> tuple[dict[str, Any], list[Check]]:
    tasks = draw_tasks(TASKS, seed=0)
    copies = iter(range(1, 10**9))  # 0 is the copy that is repeated
    rng = random.Random(0)

    def draw(_: int) -> tuple[int, pb.SegmentRequest]:
        index = rng.randrange(len(tasks))
        copy = 0 if rng.random() < REPEATED else next(copies)
        return index, tasks[index].request(copy)

    async with connections(running.gateway, clients) as stubs:
        alone = [
            # New copies, so that the answers to compare with come from no cache.
            await answered(stubs[0], index, task.request(next(copies)), TIMEOUT_S)
            for index, task in enumerate(tqdm(tasks, desc="alone"))
        ]
        async with InferenceServerClient(running.triton) as triton:
            logits = [await logits_of(triton, task) for task in tqdm(tasks, desc="logits alone")]
            before, computed = encoder_runs(running), compute_seconds(running)
            with cores_of(running) as cores:
                outcomes, differences = await asyncio.gather(
                    repeating(stubs, draw, seconds, TIMEOUT_S),
                    probe(triton, tasks, logits, seconds, PROBES),
                )
    encoder = encoder_runs(running).since(before)
    compute = {name: value - computed[name] for name, value in compute_seconds(running).items()}
    complete = [outcome for outcome in outcomes if outcome.response is not None]
    other = sum(outcome.status not in ("OK", FULL) for outcome in outcomes)
    worst = [_worst(outcome, alone[outcome.label]) for outcome in complete]
    ious, scores = ([pair[index] for pair in worst] for index in range(2))
    figures = {
        "requests": len(outcomes),
        "statuses": statuses(outcomes),
        "cores_that_it_got": cores[0],
        "answers_a_second": rate(outcomes),
        "prompts_answered": sum(len(tasks[outcome.label].prompts) for outcome in complete),
        "latency_s": percentiles([outcome.seconds for outcome in complete]),
        "latency_alone_s": percentiles([outcome.seconds for outcome in alone]),
        "image_sides": [min(min(t.size) for t in tasks), max(max(t.size) for t in tasks)],
        "masks_identical_share": float(np.mean([iou == 1 for iou in ious])),
        "mask_iou_min": min(ious),
        "score_difference_max": max(scores),
        "logit_answers": len(differences),
        "logit_relative_difference_max": max(differences),
        "encoder": asdict(encoder),
        "encoder_mean_batch": encoder.images / encoder.batches,
        "compute_share": {name: value / sum(compute.values()) for name, value in compute.items()},
        "cache_lookups": {
            name: gateway_metric(running, "cpcsam_cache_lookups_total", outcome=name)
            for name in ("hit", "miss", "joined")
        },
    }
    return figures, [
        at_most("requests neither answered nor refused as too many", other, 0),
        at_least("least mask IoU with the answer computed alone", min(ious), 0.999),
        at_most("largest difference of a score", max(scores), SCORES),
        at_most("largest relative difference of logits", max(differences), 1e-4),
    ]


def _worst(outcome: Outcome, alone: Outcome) -> tuple[float, float]:
    """Least mask IoU and largest difference of a score between two answers to a task."""
    assert outcome.response is not None and alone.response is not None
    mine, theirs = _masks(outcome.response), _masks(alone.response)
    pairs = list(zip(mine, theirs, strict=True))
    ious = [_iou(first, second) for first, second in pairs]
    return min(ious), max(abs(first.score - second.score) for first, second in pairs)


def _masks(response: pb.SegmentResponse) -> Sequence[pb.Mask]:
    return [mask for result in response.results for mask in result.masks]


def _iou(first: pb.Mask, second: pb.Mask) -> float:
    if first.coco_rle == second.coco_rle:
        return 1.0
    a, b = _pixels(first), _pixels(second)
    if a.shape != b.shape:
        return 0.0
    return float((a & b).sum() / (a | b).sum())


def _pixels(mask: pb.Mask) -> NDArray[np.bool_]:
    size = [mask.coco_rle.size.height, mask.coco_rle.size.width]
    decoded: NDArray[np.uint8] = coco_mask.decode({"size": size, "counts": mask.coco_rle.counts})
    return decoded.astype(bool)
