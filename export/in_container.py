"""Run the build of engines in the Triton image, whose TensorRT will serve them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.errors import ExportError

__all__ = ["build_in_container", "container_command", "triton_image"]

CHECKOUT: Final = Path(__file__).resolve().parents[1]
COMPOSE: Final = CHECKOUT / "docker-compose.yml"
INSIDE: Final = "/opt/cpcsam"
"""Where the image has the project; this checkout's code is put over it."""


def triton_image(compose: Path = COMPOSE) -> str:
    """Name of the image that serves, as docker-compose.yml pins it."""
    import yaml  # not in the image, which imports this module as well

    return str(yaml.safe_load(compose.read_text())["services"]["triton"]["image"])


def container_command(image: str, onnx: Path, out: Path, options: Sequence[str]) -> list[str]:
    """Command line that builds engines in a container, on the GPU that compose serves on.

    Args:
        image: the image.
        onnx: the graphs; read only inside.
        out: the engines; the folder around it is written.
        options: further options of `python -m export.build_engine`.
    """
    out = out.resolve()
    mounts = {
        CHECKOUT / "cpcsam": f"{INSIDE}/cpcsam:ro",
        CHECKOUT / "export": f"{INSIDE}/export:ro",
        onnx.resolve(): "/onnx:ro",
        out.parent: "/out",
    }
    return [
        *("docker", "run", "--rm", "--init", "--network=none"),
        # One GPU, as in docker-compose.yml.
        "--gpus=1",
        f"--user={os.getuid()}:{os.getgid()}",
        *(f"--volume={source}:{target}" for source, target in mounts.items()),
        f"--workdir={INSIDE}",
        "--env=PYTHONDONTWRITEBYTECODE=1",
        image,
        *("python3", "-m", "export.build_engine", "--here"),
        *("--onnx=/onnx", f"--out=/out/{out.name}", *options),
    ]


def build_in_container(onnx: Path, out: Path, options: Sequence[str]) -> None:
    """Build engines in the Triton image; see `container_command`.

    Raises:
        ExportError: there is no Docker or no such image, or the build failed, which has told why.
    """
    image = triton_image()
    if shutil.which("docker") is None:
        raise ExportError.of(
            "TensorRT",
            got="neither its Python module nor docker",
            expected="one of them",
            fix="install Docker and the NVIDIA Container Toolkit, or pip install tensorrt",
        )
    found = subprocess.run(
        ["docker", "image", "inspect", image], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise ExportError.of(
            f"image {image}",
            got=found.stderr.strip() or f"exit status {found.returncode}",
            expected="the image of docker-compose.yml",
            fix="docker-compose build triton",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    code = subprocess.run(container_command(image, onnx, out, options), check=False).returncode
    if code:
        raise ExportError.of(
            "the build in the container",
            got=f"exit status {code}",
            expected="engines",
            fix="see the lines above",
        )
