"""Requests that schemathesis generates from the OpenAPI document, before the real stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.http import fuzz
from benchmarks.http.front import Front
from tests.support.servers.http_front import wait_for_front

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def test_generated_requests_get_answers_of_the_document_and_none_of_5xx(
    front: Front, tmp_path: Path
) -> None:
    log = tmp_path / "schemathesis.log"
    figures, checks = fuzz.run(front.url, cases=240, seed=1, log=log, covering=False)
    assert all(check.holds for check in checks), (figures, log.read_text()[-5000:])
    wait_for_front(front, "cpcsam_http_in_flight_requests", 0)
