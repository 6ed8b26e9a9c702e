"""The playground with a model that calibrates prompts: where they were moved, and the switch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http.front import running_front
from cpcsam.client import Prompt, SegmentationClient
from serving.gateway.config import GatewayConfig
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.support.paths import ROOT
from tests.support.servers.playground import Playground

pytestmark = [pytest.mark.slow, pytest.mark.triton]

NUCLEI = ROOT / "docs/images/nuclei.png"
CLICK = (62.0, 76.0)


@pytest.fixture(scope="module")
def gateway(browser: Any, calibrating_triton: TritonServer) -> Iterator[Any]:
    config = GatewayConfig(triton=calibrating_triton.grpc_url, port=0, metrics_port=0)
    with gateway_in_background(config) as started:
        yield started


def test_moved_click_is_told_and_the_calibration_can_be_switched_off(
    context: Any, gateway: Any, tmp_path: Path
) -> None:
    with running_front(gateway.address, tmp_path / "stderr") as front:
        playground = Playground(context, front.url)
        page = playground.page
        assert page.locator("#calibration").is_visible()
        playground.open(NUCLEI)
        page.select_option("#tile", "0")
        playground.click(*CLICK)
        with SegmentationClient(gateway.address) as client:
            result = client.segment(NUCLEI, [Prompt.click(*CLICK)], tile_size=0)
        (taken,) = result.calibrated_prompts
        assert taken is not None
        told = re.findall(r"[\d.]+(?= px)", page.locator("#moved").inner_text())
        distance = math.dist(CLICK, taken.point_coords[0])
        assert distance > 4
        assert [*map(float, told)] == pytest.approx([distance], abs=0.4)
        page.check("#without-calibration")
        playground.settle()
        assert page.locator("#moved").inner_text() == "Calibration moved the prompt by 0.0 px."
        playground.close()
