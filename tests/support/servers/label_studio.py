"""A real Label Studio on loopback, with its database in a temporary folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.paths import ROOT
from tests.support.servers.gateway_watch import free_port
from tools.annotators import OFFLINE, TOKEN

__all__ = ["LabelStudio", "label_studio"]

START_S = 300
"""Seconds for the start on a busy machine."""
CALL_S = 120
DATABASE = "label_studio.sqlite3"


@dataclass(frozen=True)
class LabelStudio:
    """A running server and its API.

    Attributes:
        url: of the server.
        token: a legacy token of its user.
        client: with that token.
        environment: folder of its environment.
        folder: of its database, of `files` that it serves, and of its log.
    """

    url: str
    token: str
    client: httpx.Client
    environment: Path
    folder: Path

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call the API and return the parsed answer."""
        answer = self.client.request(method, path, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def personal_token(self) -> str:
        """Return a new personal access token, the kind that expires."""
        token: str = self.call("POST", "/api/token/")["token"]
        return token

    def images_read(self) -> int:
        """Count the answers to requests for uploaded or local images."""
        return (self.folder / "log").read_text().count('"GET /data/')

    def python(self, script: str, text: str) -> str:
        """Run a script of Label Studio's own Python; return what it prints."""
        command = [str(self.environment / "bin/python"), "-c", script]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout


@contextmanager
def label_studio(environment: Path, folder: Path) -> Iterator[LabelStudio]:
    """Start Label Studio with a user, and stop it at the end.

    Args:
        environment: where `tools.annotators` has installed it and made an empty database.
        folder: for its database, files and log.
    """
    port = free_port()
    words = ["start", "--no-browser", "--data-dir", str(folder), "--port", str(port)]
    words += ["--internal-host", "127.0.0.1", "--log-level", "WARNING"]
    (folder / "files").mkdir(parents=True)
    shutil.copyfile(environment / DATABASE, folder / DATABASE)
    settings = {
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(folder / "files"),
        **_settings_of_the_guide(),
        **OFFLINE,
    }
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    url = f"http://127.0.0.1:{port}"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [str(environment / "bin/label-studio"), *words],
            env=kept | settings,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
        httpx.Client(
            base_url=url,
            headers={"authorization": f"Token {TOKEN}"},
            timeout=CALL_S,
            trust_env=False,
        ) as client,
    ):
        try:
            _wait(process, client, folder / "log")
            yield LabelStudio(url, TOKEN, client, environment, folder)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"Label Studio did not start:\n{log.read_text()[-3000:]}")


def _settings_of_the_guide() -> dict[str, str]:
    """Return the variables with which the guide starts Label Studio, so that they are enough."""
    guide = (ROOT / "docs/guides/annotation.md").read_text()
    (line,) = re.findall(r"^ *((?:\w+=\S+ )+)label-studio/bin/label-studio start", guide, re.M)
    return dict(word.split("=", 1) for word in line.split())
