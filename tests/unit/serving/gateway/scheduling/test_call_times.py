"""Measured times of calls, and the outlook of a request in their queue."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cpcsam.entry_points import DECODE, ENCODE, SEGMENT
from serving.gateway.limits import Limits
from serving.gateway.scheduling import call_queue, call_times
from serving.gateway.scheduling.call_queue import CallQueue
from serving.gateway.scheduling.call_times import CallKind, CallTimes

SMALL, LARGE = CallKind(DECODE.name, 1), CallKind(DECODE.name, 16)
Advance = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Stop the clock, and advance it by so many seconds at each call."""
    now = [1000.0]
    for module in (call_times, call_queue):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_kind_encodes_if_it_runs_the_image_encoder() -> None:
    kinds = [CallKind(spec.name) for spec in (SEGMENT, ENCODE, DECODE)]
    assert [kind.encodes for kind in kinds] == [True, True, False]


def test_seconds_of_an_unknown_kind_are_those_of_the_most_similar() -> None:
    times = CallTimes()
    assert times.seconds(SMALL) == 0 and not times.is_known
    times.observe(SMALL, 0.2, expected_s=0, together=2)
    times.observe(CallKind("other", 16), 5, expected_s=0, together=1)
    assert times.seconds(SMALL) == times.seconds(LARGE) == pytest.approx(0.1)
    assert times.is_known


def test_observe_corrects_a_kind_by_the_ratio_to_what_was_expected(advance: Advance) -> None:
    times = CallTimes()
    times.observe(SMALL, 0.1, expected_s=0, together=1)
    for _ in range(100):
        times.observe(SMALL, 2.0, expected_s=10 * times.seconds(SMALL), together=10)
    assert times.seconds(SMALL) == pytest.approx(0.2, rel=0.01)


def test_observe_believes_no_single_outlier(advance: Advance) -> None:
    times = CallTimes()
    for _ in range(20):
        times.observe(SMALL, 0.1, expected_s=0.1, together=1)
    times.observe(SMALL, 60.0, expected_s=0.1, together=1)
    assert 0.1 < times.seconds(SMALL) < 0.15


def test_trial_seconds_shrink_with_age_and_seconds_do_not(advance: Advance) -> None:
    times = CallTimes()
    times.observe(LARGE, 8.0, expected_s=0, together=1)
    assert times.trial_seconds(LARGE, alone=False) == times.seconds(LARGE) == 8
    advance(3 * call_times.HALF_LIFE_S)
    assert times.trial_seconds(LARGE, alone=False) == pytest.approx(1)
    assert times.seconds(LARGE) == 8


def test_trial_seconds_alone_are_the_least_of_late(advance: Advance) -> None:
    times = CallTimes()
    times.observe(SMALL, 0.1, expected_s=0, together=1)
    for _ in range(10):
        times.observe(SMALL, 1.0, expected_s=times.seconds(SMALL), together=1)
    assert times.trial_seconds(SMALL, alone=True) < 0.2 < 0.5 < times.seconds(SMALL)
    for _ in range(100):
        times.observe(SMALL, 1.0, expected_s=times.seconds(SMALL), together=1)
    assert times.trial_seconds(SMALL, alone=True) == pytest.approx(1, rel=0.01)


def queue_with(seconds: float, advance: Advance) -> CallQueue:
    """A queue that knows that a small call takes so many seconds."""
    queue = CallQueue(Limits(max_concurrent=4, max_queue_s=100))
    end = queue.start(SMALL)
    advance(seconds)
    end(True)
    return queue


def test_outlook_counts_what_runs_and_a_fair_share_of_what_others_claimed(advance: Advance) -> None:
    queue = queue_with(0.5, advance)
    queue.start(SMALL)
    queue.claim("large", SMALL, 100)
    queue.claim("small", SMALL, 1)
    one = queue.outlook("newcomer", {SMALL: 1}, alone=False)
    assert (one.ahead_s, one.own_s) == (0.5 + 2 * 0.5, 0.5)
    again = queue.outlook("large", {SMALL: 1}, alone=False)
    assert again.ahead_s == 0.5 + 100 * 0.5 + 0.5
    queue.claim("large", SMALL, -100)
    assert queue.backlog_s() == 1.0


def test_outlook_waits_for_what_exceeds_the_permits(advance: Advance) -> None:
    queue = queue_with(0.5, advance)
    assert queue.outlook("a", {SMALL: 1}, alone=False).wait_s == 0
    for client in "abcdefgh":
        queue.claim(client, SMALL, 1)
    assert queue.outlook("i", {SMALL: 1}, alone=False).wait_s == pytest.approx(4 * 0.5)


def test_outlook_of_many_calls_waits_for_running_ones_again_and_again(advance: Advance) -> None:
    queue = queue_with(0.5, advance)
    queue.start(SMALL)
    ahead_s = queue.outlook("a", {SMALL: 10 * call_queue.CALLS_AT_ONCE}, alone=False).ahead_s
    assert ahead_s == pytest.approx(10 * 0.5)


def test_outlook_grows_while_a_call_takes_longer_than_expected(advance: Advance) -> None:
    queue = queue_with(0.5, advance)
    end = queue.start(SMALL)
    advance(2)
    assert queue.outlook("a", {SMALL: 1}, alone=False).ahead_s == pytest.approx(4 * 0.5)
    end(True)
    assert queue.outlook("a", {SMALL: 1}, alone=False).ahead_s == 0


def test_observe_of_rare_calls_follows_the_newest(advance: Advance) -> None:
    times = CallTimes()
    for seconds in (1.0, 1.0, 1.0, 3.0):
        advance(30)
        times.observe(SMALL, seconds, expected_s=times.seconds(SMALL), together=1)
    assert times.seconds(SMALL) == pytest.approx(3, rel=0.05)


def test_end_of_a_call_without_an_answer_teaches_only_that_it_takes_longer(
    advance: Advance,
) -> None:
    queue = queue_with(0.5, advance)
    for _ in range(50):
        queue.start(SMALL)(False)
    assert queue.times.seconds(SMALL) == 0.5 and not queue.is_busy
    end = queue.start(SMALL)
    advance(2)
    end(False)
    assert queue.times.seconds(SMALL) > 0.5


def test_queue_is_cold_from_the_first_call_to_its_end(advance: Advance) -> None:
    queue = CallQueue(Limits())
    assert not queue.is_cold
    end = queue.start(LARGE)
    advance(3)
    assert queue.is_cold and queue.cold_s == 3
    end(True)
    assert not queue.is_cold and queue.cold_s == 0


def test_calls_that_triton_could_not_answer_teach_nothing(advance: Advance) -> None:
    queue = queue_with(0.1, advance)
    for _ in range(20):
        end = queue.start(SMALL)
        advance(5.0)
        end(None)
    assert queue.times.seconds(SMALL) == pytest.approx(0.1)
