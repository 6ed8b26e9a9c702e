"""Admission control: bounded requests in flight, time in Triton that fits deadlines, fair queues.

The number of requests in flight is bounded: a request beyond it is refused at once, unless another
client has more of them in flight; then the newest waiting request of that client is dropped
instead. Before its first call to Triton a request claims all of its calls. If those ahead of it and
its own, by the measured time of each kind, last longer than its deadline or the queue's time limit,
it is refused at once rather than computed unheard. A patient request, of a stream, waits instead.

Each call takes one of few permits, which are shared evenly (`FairSemaphore`), and so does each
image that the gateway decodes. Calls that run the image encoder and calls that only decode have
permits of their own, so that a click does not wait for images. No client can starve another, by
many requests or by a large request. The number of calls adapts to Triton's speed, so that a call
spends less time in Triton's own queues than it may spend here.

While Triton does not answer at all, refusals are `UnavailableError` in place of `FullError`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import monotonic
from typing import Final

from cpcsam import tracing
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics, Stopwatch
from serving.gateway.scheduling.call_queue import CallQueue
from serving.gateway.scheduling.call_times import OTHER, CallKind
from serving.gateway.scheduling.fair_queue import FairSemaphore
from serving.gateway.scheduling.permit import Permit, Release
from serving.gateway.scheduling.places import Places
from serving.gateway.scheduling.refusals import Refusal, Refusals

__all__ = ["Admission", "Permit"]

MARGIN: Final = 1.5
"""Factor of the expected time of the calls ahead, since Triton is not equally fast at all times."""
CONCURRENT_DECODES: Final = 2
"""Images of which the gateway holds the pixels, as many as Triton's step `preprocess`."""
Calls = Mapping[CallKind, int]
"""Number of calls by kind; the first one waits for the first turn."""


class Admission:
    """Admission control of one gateway; to be used inside one event loop."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._refusals = Refusals(limits.max_queue_s, self._is_answering)
        self._is_gone: Callable[[], bool] = lambda: False
        self._places = Places(limits.max_in_flight, metrics, self._no_place, self._leave)
        self._encoding, self._decoding = CallQueue(limits), CallQueue(limits)
        self._images = FairSemaphore(CONCURRENT_DECODES)
        self._changed = asyncio.Event()
        for name, queue in (("encode", self._encoding), ("decode", self._decoding)):
            metrics.follow(metrics.backlog_seconds.labels(name), queue.backlog_s)

    def follow(self, is_gone: Callable[[], bool]) -> None:
        """Refuse requests as unavailable while Triton is gone, instead of for lack of room."""
        self._is_gone = is_gone

    @contextmanager
    def try_acquire(self, permit: Permit) -> Iterator[None]:
        """Count a request as in flight while the block runs, or refuse it at once.

        Raises:
            FullError: `max_in_flight` is reached.
        """
        with self._places.try_take(permit):
            yield

    @asynccontextmanager
    async def enter(self, permit: Permit) -> AsyncIterator[None]:
        """Count a request as in flight while the block runs; a patient one waits for its place.

        Raises:
            FullError: as `try_acquire`, unless it is patient.
        """
        if permit.is_patient:
            async with self._places.wait(permit):
                yield
        else:
            with self.try_acquire(permit):
                yield

    async def claim(self, permit: Permit, calls: Calls, deadline: float) -> None:
        """Claim the calls that a request is going to make, before the first of them.

        Args:
            permit: of the request; a patient one waits until they can be answered in time.
            calls: as far as they are known.
            deadline: time after which the answer is useless, in seconds of `time.monotonic`.

        Raises:
            FullError: they could not be answered in time, or the first one would wait longer than
                `max_queue_s`; or a patient request was dropped.
        """
        parts = self._by_queue(calls)
        cold = [queue for queue in parts if queue.is_cold]
        is_first = not permit.is_accepted  # else the calls may be its own
        if cold and is_first and (permit.is_patient or not self._refusal(permit, parts, deadline)):
            # Soon the first call tells how long calls take.
            limit_s = (
                _left_s(deadline)
                if permit.is_patient
                else self._limits.max_queue_s - max(queue.cold_s for queue in cold)
            )
            await self._until(permit, lambda: not any(queue.is_cold for queue in cold), limit_s)
        if permit.is_patient:
            own_s = sum(queue.trial_seconds(part, alone=True) for queue, part in parts.items())
            await self._until(
                permit,
                lambda: not (self._refusal(permit, parts, deadline) and self._is_busy),
                _left_s(deadline) - own_s,
            )
        refusal = self._refusal(permit, parts, deadline)
        if refusal is not None:
            raise refusal()
        permit.is_accepted = True
        self._count(permit, calls)

    def give_up(self, permit: Permit, kind: CallKind) -> None:
        """Take back what a request has claimed of a kind and is not going to call."""
        self._count(permit, {kind: -permit.claimed[kind]})
        self._notify()

    async def acquire(
        self, permit: Permit, kind: CallKind = OTHER, deadline: float = math.inf
    ) -> Release:
        """Wait for the request's turn to call Triton.

        Args:
            permit: of the request.
            kind: of the call.
            deadline: as for `claim`.

        Returns:
            A function that ends the turn; of a call without an answer, the time tells little.

        Raises:
            FullError: the request claimed no calls and its first turn did not come within
                `max_queue_s`, or the call could not be answered in time any more.
        """
        queue = self._queue_of(kind)
        if not permit.claimed[kind]:
            self._count(permit, {kind: 1})
        try:
            own_s = queue.times.trial_seconds(kind, alone=True)
            await self._wait(queue.turns, permit, deadline - own_s)
        finally:
            if permit.claimed[kind]:
                self._count(permit, {kind: -1})
        own_s = queue.times.trial_seconds(
            kind, alone=not (self._encoding.runs or self._decoding.runs)
        )
        left_s = _left_s(deadline)
        late_s = queue.running_s + own_s - left_s
        if late_s > 0:
            queue.turns.release(permit.client)
            raise self._refusals.late(late_s, left_s, cost_s=own_s)
        end = queue.start(kind)

        def release(*, is_answered: bool | None = True) -> None:
            end(is_answered)
            queue.turns.release(permit.client)
            self._notify()

        return release

    async def acquire_image(self, permit: Permit, deadline: float = math.inf) -> Callable[[], None]:
        """Wait for the request's turn to hold the pixels of an image; see `acquire`."""
        await self._wait(self._images, permit, deadline)
        return lambda: self._images.release(permit.client)

    async def _wait(self, turns: FairSemaphore, permit: Permit, deadline: float) -> None:
        with tracing.span("queue"):
            await self._wait_for(turns, permit, deadline)

    async def _wait_for(self, turns: FairSemaphore, permit: Permit, deadline: float) -> None:
        if permit.turns:
            # Only the first turn is limited: later ones belong to work that is already paid for.
            await turns.acquire(permit.client, permit.turns)
            permit.turns += 1
            return
        # An accepted request waits as long as it was told that it may have to.
        limit_s = self._limits.max_queue_s
        if permit.is_accepted:
            limit_s = max(_left_s(deadline), 0.0)
        waited = Stopwatch()
        try:
            async with asyncio.timeout(limit_s) as timeout:
                with permit.queueing(timeout):
                    await turns.acquire(permit.client)
        except TimeoutError:
            raise self._refusals.no_turn(waited.seconds, limit_s) from None
        if permit.is_dropped:  # as the wait ended
            turns.release(permit.client)
            raise self._refusals.no_turn(waited.seconds, limit_s)
        permit.turns += 1

    async def _until(self, permit: Permit, is_over: Callable[[], bool], limit_s: float) -> None:
        """Wait, until a request or a call ends with which the condition holds.

        Raises:
            FullError: not within the limit, or the request was dropped.
        """
        if is_over():
            return
        try:
            async with asyncio.timeout(limit_s) as timeout:
                with permit.queueing(timeout):
                    while not is_over():
                        await self._changed.wait()
        except TimeoutError:
            raise self._refusals.no_time() from None
        if permit.is_dropped:  # as the wait ended
            raise self._refusals.no_time()

    def _refusal(
        self, permit: Permit, parts: Mapping[CallQueue, Calls], deadline: float
    ) -> Callable[[], Refusal] | None:
        """Return a maker of the error if calls should not be made, or None."""
        alone = not self._is_busy
        outlooks = [
            queue.outlook(permit.client, part, alone=alone) for queue, part in parts.items()
        ]
        own_s, ahead_s = sum(one.own_s for one in outlooks), sum(one.ahead_s for one in outlooks)
        left_s = _left_s(deadline)
        late_s = own_s + MARGIN * ahead_s - left_s
        if late_s > 0:
            return partial(self._refusals.late, late_s, left_s, cost_s=own_s)
        wait_s, limit_s = outlooks[0].wait_s if outlooks else 0.0, self._limits.max_queue_s
        if MARGIN * wait_s > limit_s and not (permit.is_patient or permit.is_accepted):
            return partial(
                self._refusals.full,
                "queue",
                got=f"a turn in up to {MARGIN * wait_s:.3g} s",
                expected=f"{limit_s:g} s",
                wait_s=wait_s - limit_s / MARGIN,
                cost_s=own_s,
            )
        return None

    def _no_place(self) -> Refusal:
        most, mean_s = self._limits.max_in_flight, max(self._encoding.mean_s, self._decoding.mean_s)
        return self._refusals.full(
            "requests in flight",
            got=f"{most} already",
            expected=f"fewer than {most}",
            cost_s=mean_s,
        )

    def _leave(self, permit: Permit) -> None:
        """Take back what a request has claimed and not used."""
        self._count(permit, {kind: -count for kind, count in permit.claimed.items()})
        self._notify()

    def _count(self, permit: Permit, calls: Calls) -> None:
        """Count calls as claimed; negative numbers take claims back."""
        for kind, count in calls.items():
            permit.claimed[kind] += count
            self._queue_of(kind).claim(permit.client, kind, count)

    def _queue_of(self, kind: CallKind) -> CallQueue:
        return self._encoding if kind.encodes else self._decoding

    def _by_queue(self, calls: Calls) -> dict[CallQueue, Calls]:
        """Split calls by the queue they wait in, in order."""
        parts: dict[CallQueue, dict[CallKind, int]] = {}
        for kind, count in calls.items():
            parts.setdefault(self._queue_of(kind), {})[kind] = count
        return {**parts}

    @property
    def _is_busy(self) -> bool:
        return self._encoding.is_busy or self._decoding.is_busy

    def _is_answering(self) -> bool:
        queues = self._encoding, self._decoding
        return not self._is_gone() and not any(queue.stands_still for queue in queues)

    def _notify(self) -> None:
        """Wake all that wait now for a change."""
        self._changed.set()
        self._changed.clear()


def _left_s(deadline: float) -> float:
    return deadline - monotonic()
