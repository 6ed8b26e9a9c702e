"""Switches of the served version under load, by the command that runs the whole service."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.artifacts.versions import switch_to, writing
from cpcsam.client import SegmentationClient
from export.repository import main
from tests.integration.gateway.asking import clicks, picture
from tests.support.servers.serve_command import served
from tests.support.version_models import publish_version_graphs, versions_of

pytestmark = [pytest.mark.triton, pytest.mark.slow]

CLIENTS = 3
PAUSE_S = 0.5
VERSIONS = (1, 2, 3)
SWITCHES = (2, 3, 1, 2, 1, 3, 2, 1, 2, 3)[-int(os.environ.get("CPCSAM_SWITCHES", "2")) :]
"""The last two of the ten that CPCSAM_SWITCHES=10 makes; each starts a Triton."""


class Load:
    """Clients that ask all the time, half of them about images that the gateway has embedded."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.stop = threading.Event()
        self.failures: list[Exception] = []
        self.answers: Counter[tuple[str, int, int]] = Counter()

    def ask(self, number: int) -> None:
        with SegmentationClient(self.address, timeout_s=60, retry=False) as client:
            turn = 0
            while not self.stop.wait(PAUSE_S):
                turn += 1
                seed = number if turn % 2 else 1000 * number + turn
                try:
                    # More prompts than a call to Triton takes.
                    result = client.segment(picture(seed), clicks(20))
                except Exception as error:
                    self.failures.append(error)
                else:
                    for masks in result.masks:
                        told = versions_of(masks[0].score)
                        self.answers[result.model_version, *told] += 1

    def wait_for_answers(self, version: int) -> None:
        """Wait until every client may have had an answer of a version."""
        before = self._answers_of(version)
        deadline = time.monotonic() + 120
        while self._answers_of(version) < before + CLIENTS:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.05)

    def _answers_of(self, version: int) -> int:
        return sum(count for (label, *_), count in [*self.answers.items()] if label == str(version))


@contextmanager
def loaded(address: str) -> Iterator[Load]:
    load = Load(address)
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(load.ask, number) for number in range(CLIENTS)]
        try:
            yield load
        finally:
            load.stop.set()
    for done in running:
        done.result()


def publish_versions(folder: Path) -> Path:
    store = folder / "store"
    for version in VERSIONS:
        graphs = folder / f"graphs{version}"
        publish_version_graphs(graphs, version)
        words = ["--onnx", str(graphs), "--out", str(store), "--threads", "1", "--no-switch"]
        assert main(["publish", *words]) == 0
    return store


def copy_version(store: Path, number: int, replaced: dict[str, bytes]) -> None:
    """Publish version 3 with other files, which its manifest describes as they are."""
    manifest = read_manifest(store / "3", "repository")
    with writing(store):
        with publish(
            store / str(number), "repository", parents=manifest.parents, config=manifest.config
        ) as staging:
            shutil.copytree(store / "3", staging, dirs_exist_ok=True)
            (staging / "manifest.json").unlink()
            for name, content in replaced.items():
                (staging / name).write_bytes(content)
    if not replaced:
        (store / f"{number}/image_encoder/3/model.onnx").write_bytes(b"altered afterwards")


REASONS = (
    "model.onnx: got sha256",
    "model image_encoder: ",
    "golden answers, image 0, scores: got a relative difference of ",
)
"""Of the refusals of `wrong_versions`."""


def wrong_versions(folder: Path) -> dict[int, dict[str, bytes]]:
    """An altered file, a graph that cannot be loaded, and the encoder of another version."""
    encoder = "image_encoder/3/model.onnx"
    other = (folder / "graphs1/image_encoder.onnx").read_bytes()
    return {4: {}, 5: {encoder: b"no graph"}, 6: {encoder: other}}


def wait_until(client: SegmentationClient, version: int) -> None:
    deadline = time.monotonic() + 120
    while client.describe().model_version != str(version):
        assert time.monotonic() < deadline, f"version {version} is not served"
        time.sleep(0.05)


def outcomes(metrics: str) -> dict[str, int]:
    with urlopen(metrics) as page:
        lines = page.read().decode().splitlines()
    name = "cpcsam_version_switches_total"
    found = [line.split('"') for line in lines if line.startswith(name)]
    return {outcome: int(float(rest.rpartition(" ")[2])) for _, outcome, rest in found}


def wait_for_refusal(metrics: str, count: int) -> None:
    deadline = time.monotonic() + 120
    while outcomes(metrics)["refused"] < count:
        assert time.monotonic() < deadline, "nothing is refused"
        time.sleep(0.05)


def test_versions_switch_and_roll_back_under_load_without_a_failed_or_mixed_answer(
    tmp_path: Path,
) -> None:
    store = publish_versions(tmp_path)
    with served(store, tmp_path, "--no-http", limit_s=900) as (process, address):
        assert process.stdout is not None
        metrics = next(line.split()[1] for line in process.stdout if line.startswith("metrics"))
        with loaded(address) as load, SegmentationClient(address, timeout_s=60) as client:
            assert client.describe().model_version == "1"
            load.wait_for_answers(1)
            for version in SWITCHES:
                assert main(["switch", str(store), "--to", str(version)]) == 0
                wait_until(client, version)
                load.wait_for_answers(version)
            assert main(["rollback", str(store)]) == 0
            wait_until(client, 2)
            for count, (number, replaced) in enumerate(wrong_versions(tmp_path).items(), 1):
                copy_version(store, number, replaced)
                with writing(store):
                    switch_to(store, number)
                wait_for_refusal(metrics, count)
            assert client.describe().model_version == "2"
            load.wait_for_answers(2)
        assert not load.failures, load.failures[:3]
        assert {label for label, _, _ in load.answers} == {"1", "2", "3"}
        mixed = {
            answer: count
            for answer, count in load.answers.items()
            if not int(answer[0]) == answer[1] == answer[2]
        }
        assert not mixed
        assert outcomes(metrics) == {"switched": len(SWITCHES) + 1, "refused": 3}
        process.terminate()
        assert process.wait(120) == 0
    log = (tmp_path / "stderr").read_text()
    assert "Traceback" not in log
    refused = [line for line in log.splitlines() if "version refused" in line]
    assert [reason in line for reason, line in zip(REASONS, refused, strict=True)] == [True] * 3
