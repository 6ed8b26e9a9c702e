"""Gateway that annotation tools are tested with: real nuclei, and a class that it was taught."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpcsam.client import Example, SegmentationClient
from demo.scene import load_scene
from serving.gateway.config import GatewayConfig
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.support.paths import ROOT
from training.data.sample import read_pair
from training.data.sources import cut_region

NUCLEUS = "nucleus"
SUPPORT = [(0, 0, 160, 160), (0, 160, 160, 320)]
HELD_OUT = (300, 100, 460, 290)
PATIENCE_S = 600


@dataclass(frozen=True)
class Nuclei:
    """A gateway that knows the class NUCLEUS, and an image of some.

    Attributes:
        address: of the gateway.
        client: of it.
        image: (H, W, 3) uint8, not square.
        path: of the image as a PNG file.
    """

    address: str
    client: SegmentationClient
    image: np.ndarray
    path: Path


@contextmanager
def served_nuclei(shipped: TritonServer, folder: Path) -> Iterator[Nuclei]:
    """Start the gateway and teach it the class; its files go into a folder."""
    scene = load_scene(ROOT / "weights/vit_t")
    sample = read_pair(scene.image_path, scene.instances_path)
    parts = [cut_region(sample, region) for region in SUPPORT]
    image = np.ascontiguousarray(cut_region(sample, HELD_OUT).image)
    path = folder / "nuclei.png"
    Image.fromarray(image).save(path)
    config = GatewayConfig(
        triton=shipped.grpc_url, port=0, metrics_port=0, classes=folder / "classes"
    )
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address) as client,
    ):
        examples = [Example(part.image, part.instances) for part in parts]
        client.add_class(NUCLEUS, examples, tile_size=100)
        yield Nuclei(gateway.address, client, image, path)


def run_in(environment: Path, script: str, *words: object, **variables: str) -> Any:
    """Run a script of this folder in a tool's environment, and return the JSON that it prints.

    Args:
        environment: of the tool.
        script: file name.
        words: arguments.
        variables: added to the environment variables.
    """
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [environment / "bin/python", path, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
    )
    return json.loads(done.stdout)
