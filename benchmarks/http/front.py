"""The HTTP front as a process of its own on free ports."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from cpcsam.errors import ServingError
from demo.commands import child

__all__ = ["Front", "running_front"]

START_S: Final = 180.0


@dataclass(frozen=True)
class Front:
    """A running front.

    Attributes:
        url: of it, without a slash at the end.
        metrics_url: of its Prometheus page.
        process: that runs it.
    """

    url: str
    metrics_url: str
    process: subprocess.Popen[str]

    def metric(self, sample: str) -> float:
        """Read a sample by its name and labels as they are printed; 0 where there is none."""
        with urlopen(self.metrics_url, timeout=60) as page:
            text = page.read().decode()
        found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def running_front(gateway: str, log: Path, *options: str) -> Iterator[Front]:
    """Run `python -m serving.http` for the duration of the block.

    Args:
        gateway: HOST:PORT.
        log: gets its standard error.
        options: further ones of the command.

    Raises:
        ServingError: it did not start.
    """
    words = ["--gateway", gateway, "--port", "0", "--metrics-port", "0", *options]
    command = [sys.executable, "-m", "serving.http", *words]
    with (
        log.open("w") as errors,
        child(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        late = threading.Timer(START_S, process.kill)
        late.start()
        lines = [process.stdout.readline(), process.stdout.readline()]
        late.cancel()
        if not all(lines):
            raise ServingError.of(
                "serving.http", got=log.read_text(), expected="a running front", fix=f"see {log}"
            )
        url, metrics_url = (line.split()[1] for line in lines)
        yield Front(url.rstrip("/"), metrics_url, process)
