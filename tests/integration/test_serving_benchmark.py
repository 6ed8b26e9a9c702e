"""Checks of the load benchmarks, except those that need a quiet machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.serving import followup, mixed
from benchmarks.serving.stack import service
from demo.commands import Service

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module")
def running(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(repository, tmp_path_factory.mktemp("serve")) as started:
        yield started


def test_company_benchmark_finds_equal_responses(running: Service) -> None:
    figures, checks = mixed.run(running, clients=48, seconds=8)
    assert figures["requests"] >= 12 and figures["logit_answers"] >= 1
    assert figures["statuses"].keys() <= {"OK", "RESOURCE_EXHAUSTED"}
    assert figures["cache_lookups"]["miss"] > 0
    assert [check.row() for check in checks if not check.holds] == []


def test_cache_benchmark_encodes_a_repeated_image_once(running: Service) -> None:
    figures, checks = followup.run(running, ratio=False)
    assert figures["encoded"] == figures["images"]
    assert figures["encoded_of_requests_that_met"] == 1
    assert [check.row() for check in checks if not check.holds] == []
