"""The same load by Locust, to check this benchmark's own load generator."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.figures import mean_seconds, throughput
from benchmarks.peers.load.workloads import Workload
from benchmarks.peers.systems.start import Running
from cpcsam.errors import ServingError

__all__ = ["TOLERANCE", "compare_generators", "read_stats"]

FILE: Final = Path(__file__).with_name("locustfile.py")
TOLERANCE: Final = 0.1
FIRST: Final = 1_000_000
"""Number of Locust's first request, far from this benchmark's own."""


def compare_generators(
    running: Running, workload: Workload, seconds: float, python: Path, out: Path
) -> dict[str, Any]:
    """Measure closed loops of the same clients in turn: this benchmark's, Locust's, and again.

    Args:
        running: the whole service.
        workload: of new images, as many as the service answers in that time.
        seconds: duration of Locust's.
        python: interpreter of the peers' environment.
        out: folder of Locust's files.

    Returns:
        `ours` (the mean of both loops) and `locust`, each with `throughput` and `mean_s`, and
        `failures` of Locust.
    """
    first = running.drive(replace(workload, name=f"{workload.name}, first"), 0.0)
    theirs = _locust(running, workload, seconds, python, out)
    second = running.drive(replace(workload, name=f"{workload.name}, again"), 0.0)
    ours = {
        "throughput": (throughput(first) + throughput(second)) / 2,
        "mean_s": (mean_seconds(first) + mean_seconds(second)) / 2,
    }
    failures = theirs.pop("failures")
    return {"ours": ours, "locust": theirs, "failures": failures}


def _locust(
    running: Running, workload: Workload, seconds: float, python: Path, out: Path
) -> dict[str, float]:
    assert running.service is not None
    prefix = out / "locust"
    command = [
        *(str(python), "-m", "locust", "--locustfile", str(FILE), "--headless", "--only-summary"),
        *("--users", str(workload.clients), "--spawn-rate", str(workload.clients)),
        # Requests in flight at the end are answered and count.
        *("--run-time", f"{max(1, round(seconds))}s", "--stop-timeout", "60"),
        *("--csv", str(prefix)),
        *("--host", running.service.gateway, "--loglevel", "WARNING"),
    ]
    environment = {
        **os.environ,
        "PEERS_GATEWAY": running.service.gateway,
        "PEERS_WORKLOAD": json.dumps(asdict(workload)),
        "PEERS_FIRST": str(FIRST),
    }
    with (out / "locust.log").open("w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    stats = Path(f"{prefix}_stats.csv")
    # Locust exits with 1 if a request failed; those are counted.
    if done.returncode not in (0, 1) or not stats.is_file():
        raise ServingError.of(
            "Locust", got=f"exit status {done.returncode}", expected="0", fix=f"see {log.name}"
        )
    with stats.open() as file:
        return read_stats(list(csv.DictReader(file)))


def read_stats(rows: list[Mapping[str, str]] | list[dict[str, str]]) -> dict[str, float]:
    """Read Locust's statistics of all requests together; its median is rounded, its mean is not.

    Args:
        rows: of its `_stats.csv`.
    """
    total = next(row for row in rows if row["Name"] == "Aggregated")
    return {
        "throughput": float(total["Requests/s"]),
        "mean_s": float(total["Average Response Time"]) / 1000,
        "failures": float(total["Failure Count"]),
    }
