"""One Triton: its connection, its calls, and the probes that tell whether it can answer.

Cancellation of a call is forwarded only to a Triton that supports it: in versions before
`CANCELLABLE_SINCE` a race in its gRPC frontend can crash the server. Calls and probes of these run
to completion with the result dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import grpc
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from cpcsam import tracing
from serving.gateway.context import ModelInfo
from serving.gateway.inference.probe import probe_inputs, probe_outputs, probed_entry_points
from serving.gateway.inference.replica_health import ReplicaHealth
from serving.gateway.inference.served_model import ServedModel, fetch_served_model
from serving.gateway.inference.stored_keys import StoredKeys
from serving.gateway.inference.triton_requests import message
from serving.gateway.inference.triton_responses import (
    error_from_triton,
    fault_of,
    is_not_stored,
    no_replica,
)
from serving.gateway.metrics import Metrics

__all__ = ["Replica", "is_cancellable"]

CANCELLABLE_SINCE: Final = (2, 58)
METADATA_TIMEOUT_S: Final = 2.0
PERIOD_S: Final = 1.0
"""Between probes of a replica that is up."""
FRESH_PERIODS: Final = 0.5
"""Periods for which a call of a request stands for a probe."""
SHORT_PROBE_S: Final = 0.4
"""Time of a probe beyond which it is so much work that it is made rarely."""
LONG_PROBE_SHARE: Final = 0.1
"""Share of the time that long probes take."""
RECOVERY_PERIOD_S: Final = 0.25
SILENT_PERIOD_S: Final = 10.0
"""For which a silent replica may still answer a probe before it is sent another."""
TICK_S: Final = 0.25
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
UNLIMITED: Final = 2**31 - 1
CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", UNLIMITED),
    ("grpc.max_receive_message_length", UNLIMITED),
    ("grpc.enable_http_proxy", 0),  # of $http_proxy, which counts for loopback as well
    # Reconnects to a restarted Triton at once rather than after two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),
    # Notices a machine that vanished by bytes that it does not acknowledge within 20 s. Triton ends
    # connections with more than one ping in five minutes.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class Replica:
    """Connection to one Triton; to be made and used inside one event loop.

    Args:
        address: HOST:PORT of its gRPC.
        metrics: shows its state.
        changed: called when it goes up or down.

    Attributes:
        load: calls of requests that were given to it and have not ended.
        stored: keys of the embeddings that it keeps.
        health: its state.
    """

    def __init__(self, address: str, metrics: Metrics, changed: Callable[[], None]) -> None:
        self.address = address
        self.load = 0
        self._metrics = metrics
        self.stored = StoredKeys()
        self.health = ReplicaHealth(address, metrics, changed)
        self._client = InferenceServerClient(address, channel_args=list(CHANNEL_OPTIONS))
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        # tritonclient builds messages on the event loop, and copies them several times.
        self._infer: Any = self._channel.unary_unary(
            INFER, response_deserializer=service_pb2.ModelInferResponse.FromString
        )
        self._served: ServedModel | None = None
        self._calls: set[asyncio.Task[InferResult]] = set()
        self._probe_s: deque[float] = deque(maxlen=60)
        self._checked = asyncio.Event()

    @property
    def model(self) -> ModelInfo | None:
        """Metadata of its model while it is up."""
        return self._served.info if self._served is not None and self.health.up else None

    async def close(self, timeout_s: float) -> None:
        """Wait for running calls, give up those that take longer, and close the connection."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=timeout_s)
        self._fail("the connection is closed", None)
        await self._client.close()
        await self._channel.close()

    async def fetch_model(self, timeout_s: float) -> ModelInfo:
        """Fetch the metadata of its model, whether it is up or not.

        Raises:
            ServingError: or one of its subclasses, as Triton failed.
        """
        try:
            return (await fetch_served_model(self._client, timeout_s)).info
        except InferenceServerException as error:
            raise error_from_triton(error, self.address) from error

    async def infer(self, model: str, content: bytes, timeout_s: float | None) -> InferResult:
        """Call a model for a request.

        Args:
            model: its name.
            content: of the message; see `triton_requests.message`.
            timeout_s: time after which the call is cancelled; None never cancels it, as only a
                Triton whose version `is_cancellable` allows that.

        Raises:
            UnavailableError: the replica cannot answer, now or before the call ended.
            CpcSamError: as Triton failed.
        """
        gone = self.health.gone
        if gone.done():
            raise no_replica()
        call = self._start(model, content, timeout_s)
        try:
            await asyncio.wait((call, gone), return_when=asyncio.FIRST_COMPLETED)
            if not gone.done() or (call.done() and not call.cancelled()):
                return await call
            # Calls that wait for a dead step would fail one after the other, a second each.
            raise no_replica()
        except InferenceServerException as error:
            raise error_from_triton(error, self.address) from error
        finally:
            if timeout_s is not None:
                call.cancel()
            del call  # its exception would keep this frame, and with it the inputs

    def times_outputs(self, model: str) -> tuple[str, ...]:
        """Return the outputs of an entry point that hold the times of its steps, if it has any."""
        return () if self._served is None else self._served.times.get(model, ())

    async def wait_until_checked(self) -> None:
        """Wait for the end of the first probes."""
        await self._checked.wait()

    async def watch(self) -> None:
        """Probe the replica, for ever: rarely while it answers, often while it does not."""
        while True:
            await self._check()
            self._checked.set()
            if self.health.up:
                await asyncio.wait((self.health.gone,), timeout=self._period_s)
            else:
                await asyncio.sleep(RECOVERY_PERIOD_S)

    @property
    def _period_s(self) -> float:
        shortest_s = min(self._probe_s, default=0.0)  # others waited behind requests
        return shortest_s / LONG_PROBE_SHARE if shortest_s > SHORT_PROBE_S else PERIOD_S

    async def _check(self) -> None:
        """Probe every step through which no call has passed of late."""
        generation = self.health.generation
        try:
            if not self.health.up or self._served is None:
                self._served = await fetch_served_model(self._client, METADATA_TIMEOUT_S)
                self._metrics.show_model(self.address, self._served.info.identity)
            due = [
                name
                for name in probed_entry_points(self._served.steps)
                if not self.health.up
                or not self.health.is_fresh(
                    self._served.steps[name], FRESH_PERIODS * self._period_s
                )
            ]
            started = monotonic()
            with self._metrics.probes_in_flight.track_inprogress():
                for name in due:
                    await self._probe(name, self._served)
                    self._metrics.probes.labels(name).inc()
        except InferenceServerException as error:
            # The embedding of the probe itself was displaced; that says nothing of the steps.
            if not is_not_stored(error):
                self._fail(fault_of(error) or "a probe failed", generation)
        except Exception as error:  # a server that is none of ours may answer with anything
            self._fail(f"{type(error).__name__}: {error}", generation)
        else:
            if due:
                self._probe_s.append(monotonic() - started)
            self.health.probed()

    async def _probe(self, name: str, served: ServedModel) -> None:
        """Run a probe for as long as it takes; a silent replica is gone meanwhile."""
        inputs = probe_inputs(name, served.info)
        call = self._start(name, message(name, "", inputs, probe_outputs(name)), None)
        steps, silence_s = served.steps[name], 0.0
        while not call.done():
            # In steps: after a halt of the event loop its answer may have arrived unread.
            passed = self.health.last_passed(steps)
            await asyncio.wait((call,), timeout=TICK_S)
            silence_s = silence_s + TICK_S if self.health.last_passed(steps) == passed else 0.0
            if silence_s >= self.health.patience_s(steps, busy=self.load > 0):
                self._fail(f"no answer for {silence_s:g} s", None)
                await asyncio.wait((call,), timeout=SILENT_PERIOD_S)
                break
        if not call.done():  # the next probe may be answered where this one was lost
            raise TimeoutError
        await call

    def _start(
        self, model: str, content: bytes, timeout_s: float | None
    ) -> asyncio.Task[InferResult]:
        call = asyncio.create_task(self._call(model, content, timeout_s))
        self._calls.add(call)  # the event loop itself holds only weak references
        call.add_done_callback(self._forget)
        return call

    async def _call(self, model: str, content: bytes, timeout_s: float | None) -> InferResult:
        generation, started = self.health.generation, monotonic()
        try:
            # Triton exports its spans of every call that has a parent.
            metadata = tracing.current_span().sampled_headers or None
            response = await self._infer(content, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as failure:
            error = InferenceServerException(failure.details(), str(failure.code()))
            fault = fault_of(error)
            if fault is not None:
                self._fail(fault, generation)
            raise error from None
        steps = {model} if self._served is None else self._served.steps.get(model, {model})
        self.health.passed(steps, monotonic() - started)
        return InferResult(response)

    def _fail(self, cause: str, generation: int | None) -> None:
        self.health.failed(cause, generation)
        if not self.health.up:
            self.stored = StoredKeys()  # a restarted Triton keeps nothing

    def _forget(self, call: asyncio.Task[InferResult]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # else asyncio logs that it was never retrieved


def is_cancellable(version: str) -> bool:
    """Return whether Triton of this version survives the cancellation of calls."""
    numbers = version.split(".")[:2]
    return all(map(str.isdigit, numbers)) and tuple(map(int, numbers)) >= CANCELLABLE_SINCE
