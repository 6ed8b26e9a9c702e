"""Real Tritons that are killed, whole or a step of them, while a gateway is asked."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.serving.ports import processes_below
from cpcsam.client import SegmentationClient
from cpcsam.errors import CpcSamError
from cpcsam.grpc_errors import UnavailableError
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer, launch_triton
from tests.integration.gateway.asking import clicks, picture
from tests.support.servers.gateway_watch import metric, wait_for

pytestmark = pytest.mark.triton

CLIENTS = 4


class Load:
    """Clients that ask all the time, half of them about images of their own."""

    def __init__(self, gateway: Gateway) -> None:
        self.address = gateway.address
        self.stop = threading.Event()
        self.answered = 0
        self.failures: list[tuple[float, CpcSamError]] = []
        self.serving: list[tuple[float, bool]] = []

    def ask(self, number: int) -> None:
        with SegmentationClient(self.address, timeout_s=120, retry=False) as client:
            turn = 0
            while not self.stop.is_set():
                turn += 1
                seed = number if number % 2 else 1000 * number + turn
                try:
                    client.segment(picture(seed), clicks(3))
                    self.answered += 1
                except CpcSamError as error:
                    self.failures.append((time.monotonic(), error))
                    time.sleep(0.05)

    def watch(self) -> None:
        with SegmentationClient(self.address, timeout_s=60, retry=False) as client:
            while not self.stop.is_set():
                self.serving.append((time.monotonic(), client.healthy()))
                time.sleep(0.1)

    def told_since(self, begin: float) -> list[float]:
        """Times at which the gateway said that it does not serve."""
        return [at for at, serving in self.serving if at > begin and not serving]

    def wait_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, (self.answered, self.failures[:3])
            time.sleep(0.05)

    def wait_for_answers(self, count: int = 2 * CLIENTS) -> None:
        before = self.answered
        self.wait_until(lambda: self.answered >= before + count)


@contextmanager
def loaded(gateway: Gateway) -> Iterator[Load]:
    load = Load(gateway)
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        running = [pool.submit(load.ask, number) for number in range(CLIENTS)]
        running.append(pool.submit(load.watch))
        try:
            yield load
        finally:
            load.stop.set()
    for done in running:
        done.result()


def kill(triton: TritonServer, step: str = "") -> float:
    """Kill Triton or the process of a step; return the time."""
    victim = triton.process.pid
    if step:
        victim = next(
            pid
            for pid in processes_below(victim)
            if f"/{step}/" in Path(f"/proc/{pid}/cmdline").read_text()
        )
    os.kill(victim, signal.SIGKILL)
    return time.monotonic()


def up(triton: TritonServer) -> str:
    return f'cpcsam_replica_up{{replica="{triton.grpc_url}"}}'


def config(*tritons: TritonServer) -> GatewayConfig:
    addresses = ",".join(triton.grpc_url for triton in tritons)
    return GatewayConfig(triton=addresses, port=0, metrics_port=0)


@pytest.mark.slow
def test_one_of_two_tritons_or_a_step_of_it_dies_without_a_failed_request(repository: Path) -> None:
    with (
        launch_triton(repository) as first,
        launch_triton(repository) as second,
        gateway_in_background(config(first, second)) as gateway,
    ):
        with loaded(gateway) as load:
            for triton in (first, second):
                wait_for(gateway, up(triton), 1)
            load.wait_for_answers()
            kill(first)
            wait_for(gateway, up(first), 0)
            load.wait_for_answers()
        assert not load.failures, load.failures[:3]
        assert all(serving for _, serving in load.serving)
        port = int(first.grpc_url.rpartition(":")[2])
        with launch_triton(repository, grpc_port=port) as third, loaded(gateway) as load:
            wait_for(gateway, up(third), 1)
            load.wait_for_answers()
            kill(second, "image_encoder")
            wait_for(gateway, up(second), 0)
            load.wait_for_answers()
        assert not load.failures, load.failures[:3]
        assert (metric(gateway, "cpcsam_retried_calls_total") or 0) > 0
        second.kill()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["decoder", ""])
def test_a_single_triton_that_dies_makes_only_unavailable_and_says_so(
    repository: Path, step: str
) -> None:
    with launch_triton(repository) as triton, gateway_in_background(config(triton)) as gateway:
        with loaded(gateway) as load:
            load.wait_for_answers()
            killed = kill(triton, step)
            wait_for(gateway, up(triton), 0)
            load.wait_until(lambda: load.failures and load.told_since(killed))
            watched = len(load.serving)
            load.wait_until(lambda: len(load.serving) > watched + 5)
        assert {type(error) for _, error in load.failures} == {UnavailableError}
        told = load.told_since(killed)[0]
        assert not any(serving for at, serving in load.serving if at > told)
        triton.kill()  # which would wait for its dead step when it is stopped


@pytest.mark.slow
def test_a_dead_step_of_an_idle_triton_is_noticed(repository: Path) -> None:
    """The step is one of two instances, so that every other probe passes."""
    with (
        launch_triton(repository) as triton,
        gateway_in_background(config(triton)) as gateway,
        SegmentationClient(gateway.address, timeout_s=60) as client,
    ):
        wait_for(gateway, up(triton), 1)
        assert client.healthy()
        deadline = kill(triton, "preprocess") + 120
        while client.healthy():
            assert time.monotonic() < deadline, "it still says that it serves"
            time.sleep(0.05)
        triton.kill()
