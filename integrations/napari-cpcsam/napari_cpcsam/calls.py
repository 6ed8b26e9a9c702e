"""Calls of the gateway that run in a thread and can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from napari.qt.threading import FunctionWorker, create_worker

from cpcsam.client import Mask, SegmentationClient, SegmentRequest
from cpcsam.errors import ConfigError

__all__ = ["Address", "Calls"]


@dataclass(frozen=True)
class Address:
    """Where a gateway is.

    Attributes:
        address: HOST:PORT.
        token: bearer token; empty for none.
        tls: whether it speaks TLS.
    """

    address: str
    token: str = ""
    tls: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a call ended with: masks, of which some may be empty, and warnings, or an error."""

    masks: list[Mask] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    error: Exception | None = None


class Calls:
    """One call at a time, over a connection that is kept between calls.

    An image is sent once: the client knows by its hash that the gateway has it.
    """

    def __init__(self) -> None:
        self._client: SegmentationClient | None = None
        self._of: Address | None = None
        self._worker: FunctionWorker | None = None

    @property
    def running(self) -> bool:
        """Whether a call runs."""
        return self._worker is not None

    def start(
        self,
        address: Address,
        build: Callable[[SegmentationClient], SegmentRequest],
        done: Callable[[list[Mask], tuple[str, ...]], object],
        failed: Callable[[Exception], object],
    ) -> None:
        """Send a request from a thread.

        Args:
            address: of the gateway.
            build: makes the request, in the thread.
            done: takes the first mask of each result, be it empty, and warnings, in the caller's
                thread.
            failed: takes an error there.

        Raises:
            ConfigError: the token is invalid.
        """
        client = self._connected(address)

        # An error as the worker's result would be raised again in napari's event loop.
        def work() -> Outcome:
            try:
                result = client.send(build(client))
            except Exception as error:
                return Outcome(error=error)
            masks = [each[0] for each in result.masks if each]
            for mask in masks:
                mask.array  # noqa: B018  decoded here, where it blocks nobody
            return Outcome(masks, result.warnings)

        def returned(outcome: Outcome) -> None:
            if self._worker is not worker:  # given up
                return
            self._worker = None
            if outcome.error is None:
                done(outcome.masks, outcome.warnings)
            else:
                failed(outcome.error)

        worker = create_worker(work, _start_thread=False)
        worker.returned.connect(returned)
        self._worker = worker
        worker.start()

    def cancel(self) -> None:
        """Give up the running call: the connection is closed, and its answer ignored."""
        self._worker = None
        if self._client is not None:
            self._client.close()
        self._client = self._of = None

    def _connected(self, address: Address) -> SegmentationClient:
        if self._client is None or self._of != address:
            self.cancel()
            if not address.address:
                raise ConfigError.of(
                    "address", got="nothing", expected="HOST:PORT", fix="fill it in"
                )
            self._client = SegmentationClient(
                address.address, token=address.token or None, tls=address.tls
            )
            self._of = address
        return self._client
