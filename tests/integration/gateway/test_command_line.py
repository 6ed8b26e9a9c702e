"""Client commands against the gateway."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from serving.gateway.server import Gateway
from tests.integration.gateway.asking import HEIGHT, WIDTH, picture
from tests.support.paths import ROOT

pytestmark = pytest.mark.triton


def test_segment_command_writes_masks(gateway: Gateway, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(picture()).save(image)
    options = ["--click", "20,30", "--negative", "90,5", "--box", "10,10,60,50", "--click", "70,8"]
    command = [sys.executable, "-m", "cpcsam", "segment", str(image), *options]
    out = tmp_path / "out"
    done = subprocess.run(
        [*command, "--mask-selection", "all", "--out", str(out), "--address", gateway.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.rglob("*.*")) == ["masks.json", "overlay.png"]
    annotations = json.loads((out / "image/masks.json").read_text())["annotations"]
    assert [entry["prompt_index"] for entry in annotations] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert annotations[0]["prompt"] == {
        "point_coords": [[20, 30], [90, 5]],
        "point_labels": [1, 0],
        "box": None,
    }
    for entry in annotations:
        mask = coco_mask.decode(entry["segmentation"])
        assert mask.shape == (HEIGHT, WIDTH) and mask.sum() == entry["area"]
    with Image.open(out / "image/overlay.png") as overlay:
        assert overlay.size == (WIDTH, HEIGHT)
        assert (np.array(overlay) != picture()).any()
    assert re.fullmatch(rf"{image}: 9 masks \(mean score [\d.-]+\), {out / 'image'}\n", done.stdout)


def test_segment_command_with_a_server_error_prints_it_and_writes_nothing(
    gateway: Gateway, tmp_path: Path
) -> None:
    image, out = tmp_path / "image.png", tmp_path / "out"
    Image.fromarray(picture()).save(image)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cpcsam", "segment", str(image), "--click", "500,3"),
            *("--out", str(out), "--address", gateway.address),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == "" and not out.exists()
    assert done.stderr == (
        f"cpcsam segment: {image}: prompts[0].points[0]: got (500, 3), expected 0 <= x < 100 and "
        "0 <= y < 60; give pixels of the upright original image as (x, y)\n"
    )


def test_status_command_prints_health_and_limits(gateway: Gateway) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cpcsam", "status", "--address", gateway.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "health    serving" in done.stdout and "limit     max_prompts 48" in done.stdout
