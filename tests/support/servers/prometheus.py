"""A real Prometheus on loopback that scrapes the servers under test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from serving.supervision.ports import reserved_ports

__all__ = ["running_prometheus"]


@contextmanager
def running_prometheus(
    folder: Path, pages: Mapping[str, str], interval: str, rules: str = ""
) -> Iterator[httpx.Client]:
    """Run Prometheus, or skip the test where it is not installed; yield a client of its API.

    It may still be starting: calls fail by `httpx.TransportError` then.

    Args:
        folder: for its files.
        pages: URLs of `/metrics` by job.
        interval: between scrapes, and evaluations of the rules.
        rules: content of a file of rules.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed; on Debian: apt-get install prometheus")
    (folder / "rules.yml").write_text(rules)
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [httpx.URL(url).netloc.decode()]}]}
            for job, url in pages.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with reserved_ports("127.0.0.1", {"web": 0}) as ports, (folder / "log").open("wb") as log:
        address = f"127.0.0.1:{ports['web']}"
        options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        process = subprocess.Popen(
            [program, *options, f"--web.listen-address={address}"],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            with httpx.Client(base_url=f"http://{address}") as client:
                yield client
        finally:
            process.terminate()
            process.wait(120)
