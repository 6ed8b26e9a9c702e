"""Run the install steps of the container images without Docker, and start what they install.

    python -m tools.check_images
    python -m tools.check_images --repository build/repository

Follows each Dockerfile of deploy/ on this machine: COPY copies into a temporary folder, RUN runs
there, with the image's version of Python, and FROM begins a stage with what COPY --from brings. In
each image that results the programs that its containers run are started with --help, and modules
that run inside Triton are imported. With a model repository for the CPU the CPU image's Triton
serves it and answers an inference. Steps that need the base image itself are named, not run. Exit
code 2 if one fails; a version of Python that is missing here is only named.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError
from tools.check_wheel import find_interpreters

__all__ = ["Image", "Step", "main", "read_steps"]

PROG: Final = "python -m tools.check_images"
ROOT: Final = Path(__file__).resolve().parents[1]
VENV: Final = "/opt/venv"
PROJECT: Final = "/opt/cpcsam"
PYTHON_OF_TRITON: Final = "3.12"
"""That of Ubuntu 24.04, on which NVIDIA builds the image."""
ONLY_INSIDE: Final = {
    "apt-get": "it installs into the system",
    "install --directory": "it makes folders of the system",
    "${TRT_VERSION": "only NVIDIA's image tells the version of TensorRT",
}
PROGRAMS: Final = {
    "gateway": ("serving.gateway", "serving.http", "serving.health", "serving.tokens"),
    "cpu": ("serving.repository", "serving.watch"),
    "gpu": ("serving.repository", "serving.watch"),
}
HOST: Final = "127.0.0.1"
START_S: Final = 120.0


@dataclass(frozen=True)
class Step:
    """An instruction of a Dockerfile, such as `RUN`, and its text in one line."""

    name: str
    text: str


@dataclass(frozen=True)
class Image:
    """A stage on this machine: an interpreter of its Python's version, and its files."""

    python: Path
    folder: Path

    def at(self, path: str) -> Path:
        """Return where a path of the image is on this machine."""
        return self.folder / path.lstrip("/")

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the folder of the project, with the image's environment."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in ("HOME", "LANG", "XDG_CACHE_HOME") or name.startswith(("PIP_", "SSL_"))
        }
        environment = {
            **kept,
            "PATH": f"{self.at(VENV)}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(self.at(PROJECT)),
            **variables,
        }
        return subprocess.run(
            ["sh", "-ec", command],
            cwd=self.at(PROJECT),
            env=environment,
            capture_output=True,
            text=True,
        )


def read_steps(path: Path) -> list[Step]:
    """Read the instructions of a Dockerfile, with continued lines joined."""
    lines = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\s*\\\n\s*", " ", lines)
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def build(path: Path, scratch: Path) -> Iterator[tuple[str, Image]]:
    """Follow a Dockerfile and yield the stages that become images, by name.

    Args:
        path: the Dockerfile; its unnamed last stage is called as the file.
        scratch: folder for the stages.

    Raises:
        ConfigError: a step failed.
    """
    stages: dict[str, Image | None] = {}
    name = ""
    for step in read_steps(path):
        if step.name == "FROM":
            base, _, given = step.text.partition(" AS ")
            name = given or path.stem
            where = f"{path.name}, {name}"
            version = PYTHON_OF_TRITON if base == "${TRITON}" else _version(path)
            stages[name] = _begin(version, scratch / name)
            if stages[name] is None:
                print(f"{where}: not run, as this machine has no Python {version}", flush=True)
            continue
        image = stages.get(name)
        if image is not None and step.name == "COPY":
            _copy(step.text.split(), stages, image)
        elif image is not None and step.name == "RUN":
            _run(step.text, image, f"{path.name}, {name}")
    yield from ((key, image) for key, image in stages.items() if image and key in PROGRAMS)


def _begin(version: str, folder: Path) -> Image | None:
    name = f"python{version}"
    python = find_interpreters([name])[name]
    if python is None:
        return None
    image = Image(python, folder)
    image.at(PROJECT).mkdir(parents=True)
    return image


def _version(path: Path) -> str:
    (version,) = re.findall(r"^ARG PYTHON=python:(\d+\.\d+)", path.read_text(), re.MULTILINE)
    return str(version)


def _copy(words: Sequence[str], stages: Mapping[str, Image | None], image: Image) -> None:
    if words[0].startswith("--from="):
        origin = stages[words[0].partition("=")[2]]
        assert origin is not None, "it has the same Python"
        # Not copied, as a virtual environment knows its folder.
        image.at(words[2]).parent.mkdir(parents=True, exist_ok=True)
        image.at(words[2]).symlink_to(origin.at(words[1]))
        return
    *sources, target = words
    for source in sources:
        copied = image.at(PROJECT) / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, copied, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copied.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, copied)


def _run(text: str, image: Image, where: str) -> None:
    for word, reason in ONLY_INSIDE.items():
        if word in text:
            print(f"{where}: not run, as {reason}: {text}", flush=True)
            return
    # The cache of pip stays in use here, and only the image's own Python is another one.
    command = text.replace(VENV, str(image.at(VENV))).replace(" --no-cache-dir", "")
    command = re.sub(r"^python3(?= )", str(image.python), command)
    started = time.monotonic()
    done = image.run(command, PIP_QUIET="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if done.returncode:
        raise _failed(where, text, done)
    print(f"{where}: {time.monotonic() - started:.0f} s: {text}", flush=True)


def _failed(where: str, what: str, done: subprocess.CompletedProcess[str]) -> ConfigError:
    lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
    return ConfigError.of(
        where, got=f"exit code {done.returncode} ({lines[-1]})", expected="success", fix=what
    )


def _check_programs(name: str, image: Image) -> None:
    commands = [f"python3 -m {module} --help" for module in PROGRAMS[name]]
    if name != "gateway":
        models = sorted((ROOT / "serving/backend").glob("[a-z]*.py"))
        inside = {path.stem for path in models} - {"python_backend", "step"}
        commands.append(f'python3 -c "import serving.backend.{", serving.backend.".join(inside)}"')
    for command in commands:
        done = image.run(command)
        if done.returncode:
            raise _failed(name, command, done)
    print(f"{name}: {len(commands)} programs start", flush=True)


def _check_triton(image: Image, repository: Path) -> None:
    """Serve a repository with the command of the CPU image until the health check passes."""
    words = ("http", "grpc", "metrics")
    with ExitStack() as unused:
        sockets = {word: unused.enter_context(socket.socket()) for word in words}
        for one in sockets.values():
            one.bind((HOST, 0))
        ports = {word: one.getsockname()[1] for word, one in sockets.items()}
    options = " ".join(f"--{word}-address={HOST} --{word}-port={ports[word]}" for word in words)
    log = image.folder / "log"
    check = f"python3 -m serving.watch --http-port={ports['http']} --timeout=30"
    served = image.run(
        f"deploy/triton.sh {options} >{log} 2>&1 & server=$!; "
        f"until {check} 2>/dev/null; do kill -0 $server; sleep 1; "
        f"test $(date +%s) -lt {int(time.time() + START_S)} || break; done; "
        f"code=0; {check} || code=$?; kill $server; wait $server; exit $code",
        CPCSAM_MODELS=str(repository.resolve()),
        XDG_CACHE_HOME=str(image.folder / "cache"),
    )
    if served.returncode:
        raise _failed("cpu", f"see its log: {log.read_text()[-500:]}", served)
    print("cpu: Triton serves and answers an inference", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = "model repository for the CPU, to serve with the CPU image (none)"
    parser.add_argument("--repository", type=Path, metavar="DIR", help=text)
    return run_command(parser, _check, argv)


def _check(args: argparse.Namespace) -> None:
    with TemporaryDirectory(prefix="cpcsam-images.") as scratch:
        for path in sorted((ROOT / "deploy").glob("*.Dockerfile")):
            for name, image in build(path, Path(scratch) / path.stem):
                _check_programs(name, image)
                if name == "cpu" and args.repository is not None:
                    _check_triton(image, args.repository)


if __name__ == "__main__":
    sys.exit(main())
