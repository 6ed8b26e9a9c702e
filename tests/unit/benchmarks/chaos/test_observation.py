from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import pytest

from benchmarks.chaos.growth import Sample, growth_of, stored_bytes
from benchmarks.chaos.kills import Fault, checks_of
from benchmarks.chaos.probe import Stall, stalls_by_attack
from benchmarks.chaos.services import GATEWAY, memory_bytes, roles_below, run_delay_s
from benchmarks.chaos.steady import FAILED, Health, Observation
from benchmarks.chaos.verdict import read_log
from benchmarks.serving.load import Outcome
from benchmarks.serving.ports import free_port
from export.triton_repository.config import EMBEDDING_STORE_BYTES

KILLED = 100.0


def seen(*requests: tuple[float, float, str], health: dict[float, str]) -> Observation:
    """Requests as (sent, ended, status), and answers of health by their time."""
    outcomes = [Outcome(0, sent, end - sent, status, "", None) for sent, end, status in requests]
    return Observation(KILLED, outcomes, [Health(at, status) for at, status in health.items()])


REPAIRED = seen(
    (98, 99, "OK"),
    (99, 100.5, "UNAVAILABLE"),
    (101, 101.1, "UNAVAILABLE"),
    (103, 104, "OK"),
    (106, 107, "OK"),
    health={99: "SERVING", 100.5: "SERVING", 102: "NOT_SERVING", 103.5: FAILED, 105: "SERVING"},
)


def test_healthy_again_is_the_first_success_after_all_that_was_unwell() -> None:
    assert REPAIRED.healthy_after_s() == pytest.approx(7)
    assert REPAIRED.failed_by_status() == {"UNAVAILABLE": 2}
    assert REPAIRED.quiet_s(109) == pytest.approx(2) and REPAIRED.quiet_s(106) == 0


def test_service_that_answers_nothing_after_a_fault_is_never_healthy() -> None:
    dead = seen((99, 100, "OK"), (101, 102, "INTERNAL"), health={99: "SERVING", 110: "SERVING"})
    assert dead.healthy_after_s() == math.inf and dead.quiet_s(1000) == 0


def test_fault_that_nobody_notices_is_healthy_with_the_next_answer() -> None:
    hidden = seen((99.5, 100.5, "OK"), (100.2, 101, "OK"), health={99: "SERVING"})
    assert hidden.healthy_after_s() == pytest.approx(1) and hidden.failures() == []


def test_falsely_serving_counts_only_while_health_says_serving() -> None:
    assert REPAIRED.falsely_serving_s() == pytest.approx(1.1)
    silent = seen(
        (101, 111, "DEADLINE_EXCEEDED"),
        (111, 121, "DEADLINE_EXCEEDED"),
        health={99: "SERVING", 104: "NOT_SERVING", 115: "SERVING"},
    )
    assert silent.falsely_serving_s() == pytest.approx(6)


def test_a_late_failure_beside_successes_is_no_false_promise() -> None:
    mixed = seen(
        *((at, at + 1, "OK") for at in range(100, 110)),
        (100, 110.5, "DEADLINE_EXCEEDED"),
        health={99: "SERVING"},
    )
    assert mixed.falsely_serving_s() == pytest.approx(0.5)


def test_checks_of_a_fault_name_what_does_not_hold() -> None:
    def missed(fault: Fault) -> list[str]:
        return [check.what for check in checks_of(fault, REPAIRED) if not check.holds]

    assert missed(Fault("triton")) == []
    assert missed(Fault("triton", healthy_s=5)) == ["kill of triton: seconds to healthy"]
    assert missed(Fault("replica", failures=0)) == ["kill of replica: failures"]
    other = seen((101, 102, "INTERNAL"), (103, 104, "OK"), health={})
    names = [check.what for check in checks_of(Fault("decoder"), other) if not check.holds]
    assert names == ["kill of decoder: failures other than UNAVAILABLE"]


def test_stalls_are_attributed_to_attacks_under_way() -> None:
    stalls = [Stall(10, 0.2, 0.2), Stall(20, 0.5, 0.04), Stall(30, 0.3, 0.3)]
    traces = [("a", 9.0, 10.1), ("b", 10.1, 10.3), ("b", 29.0, 31.0), ("c", 19.0, 21.0)]
    assert stalls_by_attack(stalls, traces, 0.05) == {"b": 0.3, "a": 0.2}


def test_read_log_finds_tracebacks_secrets_controls_and_forged_lines() -> None:
    text = (
        "2026-11-26 INFO Segment 'a': OK\nTraceback (most recent call last):\n"
        "E0000 authorization: FORGED-SECRET\nFORGED-LINE of a log\n\x1b[31mred\nDescribe '\u202e'\n"
    )
    found = read_log(text)
    assert (found.tracebacks, found.secrets, found.controls, found.forged) == (1, 1, 2, 1)
    assert read_log("2026 INFO Segment 'FORGED-LINE\\r\\n': OK\n") == type(found)(0, 0, 0, 0)


def test_growth_leaves_out_what_caches_may_take() -> None:
    decoder, gateway = ("decoder", 1), (GATEWAY, 2)
    before = [Sample({decoder: 1000, gateway: used}, {GATEWAY: 100}) for used in (900, 1000, 5000)]
    after = [Sample({decoder: 1100, gateway: used}, {GATEWAY: 600}) for used in (1400, 1500, 1600)]
    assert growth_of(before, after) == {decoder: 1.1, gateway: 1.0}
    restarted = [*after, Sample({("decoder", 3): 1000, gateway: 1500}, {GATEWAY: 600})]
    grown = growth_of(before, restarted)
    assert math.isnan(grown[decoder]) and grown[gateway] == 1.0
    assert stored_bytes(10, 1 << 18) == 10 << 18
    assert stored_bytes(1 << 20, 1 << 18) == EMBEDDING_STORE_BYTES


def test_gateway_is_the_process_that_listens_at_its_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert roles_below(os.getpid(), port)[GATEWAY] == [os.getpid()]
    assert GATEWAY not in roles_below(os.getpid(), free_port())
    assert memory_bytes(os.getpid()) > 1 << 20 and memory_bytes(1 << 30) == 0
    assert run_delay_s(os.getpid()) >= 0 == run_delay_s(1 << 30)
