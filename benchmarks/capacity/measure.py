"""Measure service times of the running service, and loads that a simulation must reproduce.

Each round measures every request alone, step by step, and then the loads, so that both see the same
machine. Requests under load are the same ones: the loads differ in arrivals alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from benchmarks.capacity.batch_times import Batch
from benchmarks.capacity.process_seconds import CLIENT, SERVER, process_seconds
from benchmarks.capacity.rounds import (
    LOADS,
    SATURATING,
    Load,
    Measured,
    Round,
    answers_a_second,
)
from benchmarks.capacity.service_times import GATEWAY, TRANSPORT
from benchmarks.capacity.triton_counters import TritonCounters, per_batch, total
from benchmarks.serving.load import Outcome, answered, arriving, connections, repeating
from benchmarks.serving.tasks import draw_tasks
from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from demo.commands import Service

__all__ = ["FOLLOW_UPS", "measure"]

TASKS: Final = 40
PROMPTS: Final = (1, 1, 1, 2, 3, 4, 6, 10, 16)
"""Numbers of prompts, drawn uniformly; more than 16 would take several calls."""
FOLLOW_UPS: Final = 0.5
"""Share of the requests under load whose image is known."""
TIMEOUT_S: Final = 60.0
CONNECTIONS: Final = 32
WARM_UP: Final = 8
FULL: Final = "RESOURCE_EXHAUSTED"
COUNTED_S: Final = 0.5
"""Longest time between an answer and the last of Triton's counters that includes it."""
ATTEMPTS: Final = 20
BATCH_COUNTED_S: Final = 0.1
TOGETHER: Final = (2, 4, 6, 9)
"""Follow-ups at the same moment: the first is computed alone, and the others are a batch."""
REPEATS: Final = 4
PAUSE_S: Final = 0.05
"""Before each request alone, as open loads have it; without, they are an eighth faster."""
POLL_S: Final = 0.005
LEAST_S: Final = 1e-4
"""Least time outside of Triton's steps, as clocks and counters differ a little."""


def measure(running: Service, rounds: int, seconds_factor: float = 1.0) -> Measured:
    """Measure an otherwise idle service.

    Args:
        running: the service.
        rounds: number of them.
        seconds_factor: of the duration of each load.

    Raises:
        ServingError: a request alone was not answered.
    """
    return asyncio.run(_Measurement(running, seconds_factor).run(rounds))


class _Measurement:
    def __init__(self, running: Service, seconds_factor: float) -> None:
        self._running = running
        self._factor = seconds_factor
        self._tasks = draw_tasks(TASKS, seed=3, prompts=PROMPTS)
        self._copies = iter(range(1, 10**9))  # 0 is the copy that follow-ups are about
        self._counters = TritonCounters(running.triton)

    async def run(self, rounds: int) -> Measured:
        async with connections(self._running.gateway, CONNECTIONS) as stubs:
            for index in [*range(WARM_UP), *range(TASKS)]:
                await answered(stubs[0], index, self._tasks[index].request(0), TIMEOUT_S)
            before = self._counters.batches()
            measured = [await self._round(stubs, number) for number in range(rounds)]
            after = self._counters.batches()
            stages = self._counters.stages()
            embedding_bytes = self._counters.embedding_bytes()
        self._counters.close()
        return Measured(
            measured,
            stages,
            [len(task.prompts) for task in self._tasks],
            per_batch(before, after),
            embedding_bytes,
        )

    async def _round(self, stubs: Sequence[Any], number: int) -> Round:
        result = Round()
        for kind, requests in (("new", result.new), ("follow_up", result.follow_up)):
            ask = self._new if kind == "new" else self._known
            title = f"round {number + 1}, {kind}"
            cores = await self._alone(stubs[0], ask, requests, self._counters.pipeline(kind), title)
            result.cores |= {f"{kind}/{name}": value for name, value in cores.items()}
        result.batches = await self._together(stubs, number)
        capacity = 0.0
        for load in LOADS:
            outcomes, begun = await self._load(stubs, load, capacity, number)
            seconds = load.seconds * self._factor
            answers = [
                (one.sent_at - begun, one.seconds, one.label % TASKS, int(one.label >= TASKS))
                for one in outcomes
                if one.status == "OK"
            ]
            if load is SATURATING:
                capacity = answers_a_second(answers, seconds)
                if not capacity:
                    raise ServingError.of(
                        load.name,
                        got="no answer in time",
                        expected="a measurable throughput",
                        fix="try again on an idle machine, without --quick",
                    )
            result.loads[load.name] = {
                "seconds": seconds,
                "rate": load.share * capacity,
                "answers": answers,
                "refused": sum(one.status == FULL for one in outcomes),
                "failed": sum(one.status not in ("OK", FULL) for one in outcomes),
            }
        return result

    async def _alone(
        self,
        stub: Any,
        ask: Callable[[int], pb.SegmentRequest],
        requests: list[dict[str, float]],
        steps: Sequence[str],
        title: str,
    ) -> dict[str, float]:
        """Measure each task alone; return the cores that each step keeps busy."""
        for index in tqdm(range(TASKS), desc=title):
            requests.append(await self._steps_of(stub, ask, index, steps))
        # Once more without looking at Triton's counters, which takes processors' time as well, and
        # without pauses, in which the gateway would send probes.
        spent = process_seconds(self._running.pid)
        for index in range(TASKS):
            await answered(stub, index, ask(index), TIMEOUT_S)
        used = {
            name: (seconds - spent.get(name, 0.0)) / TASKS
            for name, seconds in process_seconds(self._running.pid).items()
        }
        return _split_gateway(requests, used)

    async def _steps_of(
        self,
        stub: Any,
        ask: Callable[[int], pb.SegmentRequest],
        index: int,
        steps: Sequence[str],
    ) -> dict[str, float]:
        """Measure the seconds of each step of a request, again if a probe of the gateway ran."""
        for _ in range(ATTEMPTS):
            await asyncio.sleep(PAUSE_S)
            before = self._counters.batches()
            outcome = await answered(stub, index, ask(index), TIMEOUT_S)
            until = time.monotonic() + COUNTED_S
            while True:  # Triton counts a call a moment after its answer
                after = self._counters.batches()
                runs = [total(after[name])[0] - total(before[name])[0] for name in steps]
                if all(runs) or time.monotonic() > until:
                    break
                await asyncio.sleep(POLL_S)
            if all(count == 1 for count in runs):
                break
        else:
            raise ServingError.of(
                "a request alone",
                got=f"none in {ATTEMPTS} attempts, as probes ran beside it",
                expected="a service that nothing else keeps busy",
                fix="try again on an idle machine",
            )
        took = {name: total(after[name])[1] - total(before[name])[1] for name in steps}
        return {**took, TRANSPORT: max(outcome.seconds - sum(took.values()), LEAST_S)}

    async def _together(self, stubs: Sequence[Any], number: int) -> list[Batch]:
        """Measure batches, by follow-ups that come at the same moment."""
        rng = np.random.default_rng(number)
        found = []
        for size in tqdm(TOGETHER * max(1, round(REPEATS * self._factor)), desc="batches"):
            tasks = rng.choice(TASKS, size, replace=False).tolist()
            before = self._counters.batches()
            pairs = zip(stubs, tasks, strict=False)
            await asyncio.gather(
                *(answered(stub, i, self._known(i), TIMEOUT_S) for stub, i in pairs)
            )
            await asyncio.sleep(BATCH_COUNTED_S)
            for step, sizes in per_batch(before, self._counters.batches()).items():
                found += [Batch(step, calls, seconds, tasks) for calls, seconds in sizes.items()]
        return found

    async def _load(
        self, stubs: Sequence[Any], load: Load, capacity: float, number: int
    ) -> tuple[list[Outcome], float]:
        rng = np.random.default_rng((number, LOADS.index(load)))

        def draw(_: int) -> tuple[int, pb.SegmentRequest]:
            index, known = int(rng.integers(TASKS)), bool(rng.random() < FOLLOW_UPS)
            return index + known * TASKS, self._known(index) if known else self._new(index)

        begun, seconds = time.time(), load.seconds * self._factor
        if load.clients:
            return await repeating(
                stubs[: load.clients], draw, seconds, TIMEOUT_S, patient=True
            ), begun
        rate = load.share * capacity
        return await arriving(stubs, draw, rate, seconds, TIMEOUT_S, seed=number), begun

    def _new(self, index: int) -> pb.SegmentRequest:
        return self._tasks[index].request(next(self._copies))

    def _known(self, index: int) -> pb.SegmentRequest:
        return self._tasks[index].request(0)


def _split_gateway(
    requests: Sequence[dict[str, float]], used: Mapping[str, float]
) -> dict[str, float]:
    """Split the gateway's own time from the transport; return the cores of all steps.

    Args:
        requests: of each task, changed in place.
        used: mean CPU seconds of a request by process.
    """
    mean = {name: float(np.mean([one.get(name, 0.0) for one in requests])) for name in requests[0]}
    own = min(used[GATEWAY], 0.9 * mean[TRANSPORT])
    for one in requests:
        share = own / mean[TRANSPORT] * one[TRANSPORT]
        one[GATEWAY], one[TRANSPORT] = share, one[TRANSPORT] - share
    cores = {name: used.get(name, 0.0) / seconds for name, seconds in mean.items() if seconds}
    outside = used[CLIENT] + used[SERVER] + used[GATEWAY] - own
    return {**cores, GATEWAY: 1.0, TRANSPORT: outside / (mean[TRANSPORT] - own)}
