"""Run commands in the Triton image, whose TensorRT serves the engines that it builds."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cpcsam.errors import ExportError

__all__ = ["CHECKOUT", "build_in_container", "container_command", "require_image", "triton_image"]

CHECKOUT: Final = Path(__file__).resolve().parents[2]
COMPOSE: Final = CHECKOUT / "docker-compose.yml"
INSIDE: Final = "/opt/cpcsam"
"""Path of the project in the image; this checkout's code is mounted over it."""


def triton_image(compose: Path = COMPOSE) -> str:
    """Return the name of the serving image, as pinned in docker-compose.yml."""
    import yaml  # not in the image, which imports this module as well

    return str(yaml.safe_load(compose.read_text())["services"]["triton-gpu"]["image"])


def container_command(
    image: str, module: str, arguments: Sequence[str], mounts: Mapping[Path, str]
) -> list[str]:
    """Return the command line that runs a module of this checkout in a container with a GPU.

    Args:
        image: name of the image.
        module: Python module, such as `export.build_engine`.
        arguments: command-line arguments of the module.
        mounts: path inside the container by folder, with `:ro` for read-only.
    """
    code = {CHECKOUT / name: f"{INSIDE}/{name}:ro" for name in ("cpcsam", "export")}
    folders = {folder.resolve(): inside for folder, inside in mounts.items()}
    # The container reads mounted files and needs no network.
    return [
        *("docker", "run", "--rm", "--init", "--interactive", "--network=none"),
        # As in docker-compose.yml.
        "--gpus=1",
        f"--user={os.getuid()}:{os.getgid()}",
        *(f"--volume={source}:{target}" for source, target in (code | folders).items()),
        f"--workdir={INSIDE}",
        "--env=PYTHONDONTWRITEBYTECODE=1",
        image,
        *("python3", "-m", module, *arguments),
    ]


def require_image() -> str:
    """Return the name of the serving image, after checking that it is built.

    Raises:
        ExportError: there is no Docker or no such image.
    """
    image = triton_image()
    if shutil.which("docker") is None:
        raise ExportError.of(
            "TensorRT",
            got="neither its Python module nor docker",
            expected="one of them",
            fix="install Docker and the NVIDIA Container Toolkit, or pip install tensorrt",
        )
    inspected = subprocess.run(
        ["docker", "image", "inspect", image], capture_output=True, text=True, check=False
    )
    if inspected.returncode:
        raise ExportError.of(
            f"image {image}",
            got=inspected.stderr.strip() or f"exit status {inspected.returncode}",
            expected="the image of docker-compose.yml",
            fix="docker compose --profile gpu build triton-gpu",
        )
    return image


def build_in_container(onnx: Path, out: Path, options: Sequence[str]) -> None:
    """Build plans in the Triton image.

    Args:
        onnx: the graphs, mounted read-only.
        out: the plans; its parent folder is mounted writable.
        options: further options of `python -m export.build_engine`.

    Raises:
        ExportError: there is no Docker or no such image, or the build failed; the container's
            own output says why.
    """
    image = require_image()
    out.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--here", "--onnx=/onnx", f"--out=/out/{out.resolve().name}", *options]
    mounts = {onnx: "/onnx:ro", out.resolve().parent: "/out"}
    command = container_command(image, "export.build_engine", arguments, mounts)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ExportError.of(
            "the build in the container",
            got=f"exit status {code}",
            expected="plans",
            fix="see the lines above",
        )
