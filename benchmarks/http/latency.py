"""Scenario `latency`: what the front adds to a follow-up click, beside the gateway by gRPC."""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import numpy as np
from tqdm import tqdm

from benchmarks.http.front import Front
from benchmarks.serving.load import percentiles
from benchmarks.serving.report import Check, at_most
from benchmarks.serving.stack import cpu_seconds
from benchmarks.serving.tasks import draw_tasks
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from demo.commands import Service

__all__ = ["run"]

WARM_UP: Final = 20
MAX_ADDED_MS: Final = 8.0


def run(running: Service, front: Front, clicks: int) -> tuple[dict[str, Any], list[Check]]:
    """Click into one known image, by gRPC and by HTTP in turn, one request at a time.

    Args:
        running: the service.
        front: before its gateway.
        clicks: by each.

    Returns:
        Figures and checks.
    """
    rng = np.random.default_rng(4)
    task = draw_tasks(1, seed=4)[0]
    width, height = task.size[1], task.size[0]
    with grpc.insecure_channel(running.gateway) as channel:
        stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
        image_id = stub.Segment(task.request(0)).image_id
        connection = http.client.HTTPConnection(urlsplit(front.url).netloc)

        def by_grpc(x: float, y: float) -> float:
            prompt = pb.Prompt(points=[pb.Point(x=x, y=y)])
            request = pb.SegmentRequest(image_id=image_id, prompts=[prompt])
            return float(stub.Segment(request).results[0].masks[0].score)

        def by_http(x: float, y: float) -> float:
            prompt = {"points": [{"x": x, "y": y}]}
            body = json.dumps({"image_id": image_id, "prompts": [prompt]})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/segment", body, headers)
            answer = json.load(connection.getresponse())
            return float(answer["results"][0]["masks"][0]["score"])

        ways: dict[str, Callable[[float, float], float]] = {"gRPC": by_grpc, "HTTP": by_http}
        times: dict[str, list[float]] = {name: [] for name in ways}
        spent = 0.0
        for turn in tqdm(range(WARM_UP + clicks), desc="clicks"):
            if turn == WARM_UP:
                spent = cpu_seconds(front.process.pid)
            point = float(rng.uniform(0, width - 1)), float(rng.uniform(0, height - 1))
            # Each is the first of the two half of the time.
            for name in [*ways] if turn % 2 else [*reversed(ways)]:
                started = perf_counter()
                ways[name](*point)
                if turn >= WARM_UP:
                    times[name].append(perf_counter() - started)
        spent = cpu_seconds(front.process.pid) - spent
        connection.close()
    p50 = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    differences = [
        1e3 * (slow - fast) for slow, fast in zip(times["HTTP"], times["gRPC"], strict=True)
    ]
    figures = {
        "clicks": clicks,
        "grpc_s": percentiles(times["gRPC"], 5),
        "http_s": percentiles(times["HTTP"], 5),
        "cpu_of_the_front_ms_per_click": round(1e3 * spent / clicks, 3),
        "median_of_differences_ms": round(statistics.median(differences), 3),
    }
    added = p50["HTTP"] - p50["gRPC"]
    return figures, [at_most("added by the front at p50, ms", added, MAX_ADDED_MS)]
