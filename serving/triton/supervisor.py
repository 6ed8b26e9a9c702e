"""Supervisor of Triton: restarts it with backoff when it ended or cannot serve any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from serving.supervision.ports import reserved_ports
from serving.supervision.restarts import Backoff
from serving.triton.faults import Fault, wait_for_fault
from serving.triton.launch import (
    HOST,
    START_TIMEOUT_S,
    StartError,
    TritonServer,
    launch_triton,
    temporary_log,
)

__all__ = ["SupervisedTriton", "supervised_triton"]

LOG = logging.getLogger(__name__)


class SupervisedTriton:
    """A Triton server that keeps its addresses when it is restarted; made by `supervised_triton`.

    Attributes:
        server: the running one.
        restarts: number of faults so far.
    """

    def __init__(
        self,
        launched: ExitStack,
        launch: Callable[[], TritonServer],
        record: Callable[[Fault], None],
    ) -> None:
        self._launched = launched
        self._launch = launch
        self._record = record
        self._backoff = Backoff()
        self.restarts = 0
        self.server = launch()

    def run(self) -> NoReturn:
        """Watch the server and restart it, each time with the repository's current version.

        Raises:
            ArtifactError: the repository is gone, or it is altered.
            ServingError: this machine cannot serve what is published now.
        """
        while True:
            ready = time.monotonic()
            fault = wait_for_fault(self.server.process, self.server.http_url.partition("//")[2])
            self.server.kill()
            self._launched.close()
            self._restart(fault, time.monotonic() - ready)

    def _restart(self, fault: Fault, ran_s: float) -> None:
        while True:
            delay_s = self._backoff.delay_s(ran_s)
            self.restarts += 1
            self._record(fault)
            LOG.error("Triton: %s; it is restarted in %g s", fault.text, delay_s)
            time.sleep(delay_s)
            try:
                self.server = self._launch()
            except StartError as error:
                fault, ran_s = Fault("start", str(error).removeprefix("Triton: ")), 0.0
            else:
                LOG.info("Triton serves again, at %s", self.server.grpc_url)
                return


@contextmanager
def supervised_triton(
    repository: Path,
    *,
    grpc_port: int = 0,
    http_port: int = 0,
    metrics_port: int = 0,
    log: Path | None = None,
    timeout_s: float = START_TIMEOUT_S,
    record: Callable[[Fault], None] = lambda fault: None,
) -> Iterator[SupervisedTriton]:
    """Start Triton as `launch_triton` does, yield it when it is ready, and stop it.

    Args:
        repository: see `launch_triton`, as for the other arguments.
        grpc_port: see repository.
        http_port: see repository.
        metrics_port: see repository.
        log: file to append to; None takes a temporary one, which stays only if Triton had a fault.
        timeout_s: see repository.
        record: is called at each restart.

    Raises:
        CpcSamError: as `launch_triton`; it does not serve yet.
    """
    requested = {
        "--grpc-port": grpc_port,
        "--http-port": http_port,
        "--metrics-port": metrics_port,
    }
    with reserved_ports(HOST, requested) as ports, ExitStack() as launched:
        path = log or temporary_log()
        launch = partial(
            launch_triton,
            repository,
            grpc_port=ports["--grpc-port"],
            http_port=ports["--http-port"],
            metrics_port=ports["--metrics-port"],
            log=path,
            timeout_s=timeout_s,
        )
        triton = SupervisedTriton(launched, lambda: launched.enter_context(launch()), record)
        try:
            yield triton
        finally:
            if log is None and not triton.restarts:
                path.unlink(missing_ok=True)
