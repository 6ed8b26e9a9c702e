"""Request context: identity, deadline, model and capacity permit of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

from serving.gateway.auth.principal import Principal
from serving.gateway.model_info import ModelInfo
from serving.gateway.scheduling.admission import Permit

__all__ = ["RequestContext"]


@dataclass(eq=False)
class RequestContext:
    """State of one request, built once and passed to every step.

    Attributes:
        request_id: chosen by the caller; shown in logs.
        principal: the authenticated caller.
        permit: the request's claim on the gateway's capacity.
        deadline: time after which the answer is useless, in seconds of `time.monotonic`.
        fetch_model: fetches the served model's metadata within a timeout in seconds.
    """

    request_id: str
    principal: Principal
    permit: Permit
    deadline: float
    fetch_model: Callable[[float], Awaitable[ModelInfo]]
    _model: ModelInfo | None = field(default=None, init=False, repr=False)
    _fetching: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline; at least a millisecond, since 0 would mean no deadline."""
        return max(self.deadline - monotonic(), 1e-3)

    async def model(self) -> ModelInfo:
        """Return the served model's metadata, fetched at the first call and the same afterwards.

        Raises:
            ServingError: or one of its subclasses, as Triton failed.
        """
        async with self._fetching:
            if self._model is None:
                self._model = await self.fetch_model(self.remaining_s)
            return self._model
