from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from cpcsam.errors import ServingError
from serving.gateway.metrics import Metrics
from serving.supervision import processes
from serving.supervision.allocator import allocator_environment
from serving.supervision.heartbeat import Heartbeat, wait_for_silence
from serving.supervision.ports import require_distinct_ports, reserved_ports
from serving.supervision.processes import Process, read_process
from serving.supervision.restarts import CAUSES, Backoff, RestartLog, count_restarts
from tests.support.paths import ROOT


def test_backoff_of_short_runs_doubles_to_a_bound_and_starts_again_after_a_steady_minute() -> None:
    backoff = Backoff()
    assert [backoff.delay_s(10.0) for _ in range(4)] == [0.0, 0.25, 0.5, 1.0]
    assert [backoff.delay_s(0.0) for _ in range(5)] == [2.0, 4.0, 8.0, 16.0, 30.0]
    assert {backoff.delay_s(0.0) for _ in range(5000)} == {30.0}
    assert [backoff.delay_s(60.0), backoff.delay_s(60.0), backoff.delay_s(1.0)] == [0.0, 0.0, 0.25]


def test_restarts_are_counted_by_program_and_cause_and_exposed() -> None:
    log = RestartLog()
    assert set(count_restarts(log.path).values()) == {0}
    metrics = Metrics(log.path)
    for program, cause in (("triton", "step"), ("gateway", "exit"), ("triton", "step")):
        log.add(program, cause)
    assert count_restarts(log.path)["triton", "step"] == 2
    page = generate_latest(metrics.registry).decode()
    assert 'cpcsam_restarts_total{cause="step",program="triton"} 2.0' in page
    assert 'cpcsam_restarts_total{cause="exit",program="gateway"} 1.0' in page
    assert 'cpcsam_restarts_total{cause="exit",program="triton"} 0.0' in page
    assert 'cpcsam_version_switches_total{outcome="refused"} 0.0' in page
    log.add_switch("refused")
    page = generate_latest(metrics.registry).decode()
    assert 'cpcsam_version_switches_total{outcome="refused"} 1.0' in page


def test_restarts_without_a_supervisor_are_zero() -> None:
    assert count_restarts(None) == dict.fromkeys(CAUSES, 0)


def test_process_is_read_with_its_parent_and_group() -> None:
    own = read_process(os.getpid())
    assert own is not None
    assert (own.pid, own.parent, own.group) == (os.getpid(), os.getppid(), os.getpgrp())
    assert own in processes.processes()


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("7 (a (b) c) S 3 5 5 0", Process(7, "a (b) c", 3, 5)),
        ("7 (gone) Z 3 5 5 0", None),
        ("7 (gone) X 3 5 5 0", None),
    ],
)
def test_process_that_has_ended_is_none(
    stat: str, expected: Process | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text(stat)
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert read_process(7) == expected
    assert read_process(8) is None


def test_reserved_port_can_be_listened_on_but_is_given_to_nobody_else() -> None:
    with reserved_ports("127.0.0.1", {"--port": 0, "--metrics-port": 0}) as ports:
        assert len(set(ports.values())) == 2 and 0 not in ports.values()
        address = ("127.0.0.1", ports["--port"])
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(address)
        for _ in range(2):  # a server, and the one that replaces it
            with socket.create_server(address) as server, socket.create_connection(address):
                server.accept()[0].close()


def test_reserved_port_of_another_server_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(ServingError, match=rf"--port: got {port} \(.*in use"),
            reserved_ports("127.0.0.1", {"--port": port}),
        ):
            pass


@pytest.mark.parametrize(
    ("host", "another"),
    [("127.0.0.1", "localhost"), ("0.0.0.0", "127.0.0.1"), ("[::1]", "::"), ("::1", "[::1]")],
)
def test_one_port_of_two_servers_at_addresses_that_overlap_is_refused(
    host: str, another: str
) -> None:
    requested = {"--port": (host, 9), "--any": (host, 0), "--metrics-port": (another, 9)}
    with pytest.raises(ServingError, match="--port: got 9, as --metrics-port, expected"):
        require_distinct_ports(requested)


def test_one_port_at_two_addresses_and_free_ports_are_distinct() -> None:
    require_distinct_ports({"--port": ("127.0.0.1", 9), "--metrics-port": ("127.0.0.2", 9)})
    require_distinct_ports({"--port": ("127.0.0.1", 0), "--metrics-port": ("127.0.0.1", 0)})
    require_distinct_ports({"--port": ("0.0.0.0", 9), "--metrics-port": ("::1", 9)})


def test_one_port_twice_is_not_reserved() -> None:
    with (
        pytest.raises(ServingError, match="--grpc-port: got 9, as --http-port"),
        reserved_ports("127.0.0.1", {"--grpc-port": 9, "--http-port": 9}),
    ):
        pass


def test_port_of_a_host_that_does_not_exist_is_refused() -> None:
    with (
        pytest.raises(ServingError, match=r"--port: got 0 \("),
        reserved_ports("no.such.host.invalid", {"--port": 0}),
    ):
        pass


def test_container_of_the_gateway_has_the_settings_of_the_allocator() -> None:
    (name, value), *others = allocator_environment({}).items()
    assert not others
    assert f"    {name}={value}\n" in (ROOT / "deploy/gateway.Dockerfile").read_text()
    assert allocator_environment({name: "own", "A": "b"}) == {name: "own", "A": "b"}


def test_wait_for_silence_tells_a_halt_from_an_end() -> None:
    reader, writer = os.pipe()
    heartbeat = Heartbeat(writer)
    heartbeat.beat()
    assert wait_for_silence(reader, start_s=60, silence_s=0.05)
    assert wait_for_silence(reader, start_s=0.05, silence_s=60)
    os.close(writer)
    assert not wait_for_silence(reader, start_s=60, silence_s=60)
    heartbeat = Heartbeat(None)
    heartbeat.beat()
    os.close(reader)
