"""Scenario `followup`: an image is encoded once, and further requests about it are cheap."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import replace
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from benchmarks.serving.load import Outcome, connections, percentiles, send
from benchmarks.serving.report import Check, at_most
from benchmarks.serving.stack import encoder_runs
from benchmarks.serving.tasks import Task, draw_prompts, draw_tasks
from cpcsam.contract import MaskSelection
from cpcsam.v1 import segmentation_pb2 as pb
from demo.commands import Service

__all__ = ["IMAGE_SIZE", "PATIENT", "run"]

IMAGE_SIZE: Final = 1024
IMAGES: Final = 4
SEED: Final = 5
"""Of images that no other scenario sends, whose embeddings the gateway may still hold."""
FOLLOW_UPS: Final = 10
"""Further requests about each image: half of them send the file again, half its image_id."""
TOGETHER: Final = 8
TIMEOUT_S: Final = 600.0
PATIENT: Final = ("--max-seconds", f"{TIMEOUT_S:g}", "--max-queue", f"{TIMEOUT_S:g}")
"""Options of the service, so that a busy machine refuses nothing while time is measured."""
SHARE: Final = 1 / 20


def run(running: Service, *, ratio: bool) -> tuple[dict[str, Any], list[Check]]:
    """Segment new images, and each again, by one click per request.

    Args:
        running: the service.
        ratio: check the time of follow-ups against its bound.

    Returns:
        Figures and checks.
    """
    return asyncio.run(_run(running, ratio))


async def _run(running: Service, ratio: bool) -> tuple[dict[str, Any], list[Check]]:
    rng = np.random.default_rng(SEED)
    tasks = draw_tasks(IMAGES + 1, seed=SEED)
    first: list[Outcome] = []
    again: list[Outcome] = []
    async with connections(running.gateway, TOGETHER) as stubs:
        await send(stubs[0], 0, _click(tasks[-1], rng).request(1), TIMEOUT_S)  # warms up
        start = encoder_runs(running)
        for index, task in enumerate(tqdm(tasks[:-1], desc="images")):
            first.append(await send(stubs[0], index, _click(task, rng).request(0), TIMEOUT_S))
            for turn in range(FOLLOW_UPS):
                request = _click(task, rng).request(0)
                if turn % 2 and first[-1].response is not None:
                    request = pb.SegmentRequest(
                        image_id=first[-1].response.image_id, prompts=request.prompts
                    )
                again.append(await send(stubs[0], index, request, TIMEOUT_S))
        encoded = encoder_runs(running).since(start)
        before = encoder_runs(running)
        # A copy that was never sent, so that all of these miss the cache at once.
        together = await asyncio.gather(
            *(send(stub, 0, _click(tasks[0], rng).request(2), TIMEOUT_S) for stub in stubs)
        )
        joined = encoder_runs(running).since(before)
    outcomes = [*first, *again, *together]
    cached = [outcome.response is not None and outcome.response.cached for outcome in again]
    seconds = [[outcome.seconds for outcome in part] for part in (first, again)]
    p50_first, p50_again = map(statistics.median, seconds)
    figures = {
        "images": IMAGES,
        "follow_ups": len(again),
        "encoded": encoded.images,
        "encoded_of_requests_that_met": joined.images,
        "first_s": percentiles(seconds[0]),
        "follow_up_s": percentiles(seconds[1], digits=4),
        "ratio": p50_again / p50_first,
    }
    checks = [
        at_most("requests without an answer", sum(o.response is None for o in outcomes), 0),
        at_most("runs of the encoder an image", encoded.images / IMAGES, 1),
        at_most(f"runs of the encoder for {TOGETHER} equal requests", joined.images, 1),
        at_most("follow-ups that were encoded", cached.count(False), 0),
    ]
    if ratio:
        checks.append(at_most("follow-up p50 over first p50", p50_again / p50_first, SHARE))
    return figures, checks


def _click(task: Task, rng: np.random.Generator) -> Task:
    """The task with a new prompt of one click."""
    return replace(
        task, prompts=draw_prompts(1, task.size, rng), mask_selection=MaskSelection.SINGLE
    )
