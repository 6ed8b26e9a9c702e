"""Supervisor of Triton: restarts it with backoff when it ended or cannot serve any more.

When another version of the repository becomes current, it starts a second Triton with it, compares
its answers with the golden ones, moves the gateway's requests there and stops the first (a
blue-green deployment). So models that belong together switch together, and a version that cannot
be loaded harms no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from cpcsam.errors import CpcSamError
from serving.supervision.ports import reserved_ports
from serving.supervision.restarts import Backoff
from serving.supervision.traffic import Traffic
from serving.triton.faults import OUTDATED, Fault, steps_of, wait_for_fault
from serving.triton.golden import check_golden
from serving.triton.launch import (
    HOST,
    START_TIMEOUT_S,
    StartError,
    TritonServer,
    launch_triton,
    temporary_log,
)
from serving.triton.switching import ClassOrigin, VersionLink, check_switch

__all__ = ["Following", "SupervisedTriton", "supervised_triton"]

LOG = logging.getLogger(__name__)
GOLDEN_TIMEOUT_S: Final = 120.0
SLOTS: Final = 2
"""Sets of ports: two Tritons run during a switch."""

Launch = Callable[[Path, int], AbstractContextManager[TritonServer]]
"""Starts a Triton with a repository, on the ports of a slot."""


@dataclass(frozen=True)
class Following:
    """How a service follows the current version while it runs.

    Attributes:
        traffic: of its gateway.
        classes: returns what stored classes were made with, as `origins_of_classes`.
        record: is called with the outcome of each switch, `switched` or `refused`.
        metrics_port: of the second Triton; 0 takes a free one.
    """

    traffic: Traffic
    classes: Callable[[], Mapping[str, ClassOrigin]]
    record: Callable[[str], None]
    metrics_port: int = 0


class SupervisedTriton:
    """A Triton server that keeps its addresses when it is restarted; made by `supervised_triton`.

    Attributes:
        server: the running one.
        restarts: number of faults so far.
    """

    def __init__(
        self,
        repository: Path,
        launch: Launch,
        record: Callable[[Fault], None],
        following: Following | None,
    ) -> None:
        self._launch = launch
        self._record = record
        self._following = following
        self._link = VersionLink(repository)
        self._repository = repository if following is None else self._link.resolve()
        self._backoff = Backoff()
        self._slot = 0
        self.restarts = 0
        self._launched = ExitStack()
        self.server = self._launched.enter_context(launch(self._repository, self._slot))
        # Now, as a step may end before `run` watches.
        self._steps = steps_of(self.server.process.pid)
        if following is not None:
            following.traffic.send_to(self.server.grpc_url)

    def close(self) -> None:
        """Stop the server."""
        self._launched.close()

    def run(self) -> NoReturn:
        """Watch the server, restart it after a fault, and follow the current version.

        Raises:
            ArtifactError: the repository is gone, or it is altered.
            ServingError: this machine cannot serve what is published now.
        """
        ready = time.monotonic()
        while True:
            fault = wait_for_fault(
                self.server.process, _address(self.server), self._steps, self._is_outdated
            )
            if fault is OUTDATED and self._following is not None:
                if self._switch(self._following):
                    ready = time.monotonic()
                continue
            self.server.kill()
            self._launched.close()
            self._restart(fault, time.monotonic() - ready)
            ready = time.monotonic()

    def _is_outdated(self) -> bool:
        return self._following is not None and self._link.has_moved()

    def _restart(self, fault: Fault, ran_s: float) -> None:
        while True:
            delay_s = self._backoff.delay_s(ran_s)
            self.restarts += 1
            self._record(fault)
            LOG.error("Triton: %s; it is restarted in %g s", fault.text, delay_s)
            time.sleep(delay_s)
            try:
                self.server = self._launched.enter_context(
                    self._launch(self._repository, self._slot)
                )
            except (StartError, OSError) as error:  # no memory for a process, say
                fault, ran_s = Fault("start", str(error).removeprefix("Triton: ")), 0.0
            else:
                self._steps = steps_of(self.server.process.pid)
                LOG.info("Triton serves again, at %s", self.server.grpc_url)
                return

    def _switch(self, following: Following) -> bool:
        """Replace the server by one with the current version, unless that cannot be served.

        A fault of the old server meanwhile is noticed afterwards: a restart of it would take as
        long as the start of the new one.
        """
        try:
            wanted = self._link.resolve()
            if wanted == self._repository:
                return False
            LOG.info("version %s is current; it is checked", wanted)
            check_switch(self._repository, wanted, following.classes())
            with ExitStack() as started:
                slot = (self._slot + 1) % SLOTS
                server = started.enter_context(self._launch(wanted, slot))
                images = check_golden(wanted, _address(server), GOLDEN_TIMEOUT_S)
                is_drained = following.traffic.hand_over(
                    self.server.grpc_url, server.grpc_url, lambda: server.process.poll() is None
                )
                old, self._launched = self._launched, started.pop_all()
        except (CpcSamError, OSError) as error:
            following.record("refused")
            LOG.error("version refused, %s is served on: %s", self._repository, error)
            return False
        if not images:
            LOG.warning("version %s has no golden answers to compare with", wanted)
        if is_drained:
            self.server.kill()  # nobody calls it, and it takes seconds to end by itself
        else:
            LOG.warning("requests of version %s outlast their time", self._repository)
        self.server, self._slot, self._repository = server, slot, wanted
        self._steps = steps_of(server.process.pid)
        following.record("switched")
        LOG.info("version %s is served, at %s", wanted, server.grpc_url)
        old.close()
        return True


def _address(server: TritonServer) -> str:
    """Return HOST:PORT of a server's HTTP."""
    return server.http_url.partition("//")[2]


@contextmanager
def supervised_triton(
    repository: Path,
    *,
    grpc_port: int = 0,
    http_port: int = 0,
    metrics_port: int = 0,
    log: Path | None = None,
    traces: str | None = None,
    timeout_s: float = START_TIMEOUT_S,
    record: Callable[[Fault], None] = lambda fault: None,
    following: Following | None = None,
) -> Iterator[SupervisedTriton]:
    """Start Triton as `launch_triton` does, yield it when it is ready, and stop it.

    Args:
        repository: see `launch_triton`, as for the other arguments.
        grpc_port: see repository.
        http_port: see repository.
        metrics_port: see repository.
        log: file to append to; None takes a temporary one, which stays only if Triton had a fault.
        traces: see repository.
        timeout_s: see repository.
        record: is called at each restart.
        following: also follow the current version; None keeps the version until a restart, which
            takes the current one.

    Raises:
        CpcSamError: as `launch_triton`; it does not serve yet.
    """
    ports = {"grpc_port": grpc_port, "http_port": http_port, "metrics_port": metrics_port}
    slots = [{_option(name): number for name, number in ports.items()}]
    if following is not None:
        second = {**dict.fromkeys(ports, 0), "metrics_port": following.metrics_port}
        slots.append({_option(name): number for name, number in second.items()})
    with ExitStack() as held:
        path = log or held.enter_context(temporary_log())
        reserved = [held.enter_context(reserved_ports(HOST, slot)) for slot in slots]

        def launch(repository: Path, slot: int) -> AbstractContextManager[TritonServer]:
            numbers = {name: reserved[slot][_option(name)] for name in ports}
            return launch_triton(
                repository, log=path, traces=traces, timeout_s=timeout_s, **numbers
            )

        triton = SupervisedTriton(repository, launch, record, following)
        try:
            yield triton
        finally:
            triton.close()
            if log is None and not triton.restarts:
                path.unlink(missing_ok=True)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
