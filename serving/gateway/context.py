"""Request context: identity, deadline, capacity permit and model metadata of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

from cpcsam.clip.preprocess import ClipInfo
from cpcsam.contract import LOW_RES_FACTOR, grid_size
from cpcsam.images.options import Intensity
from cpcsam.scale import Scale
from serving.gateway.auth.authenticator import Principal
from serving.gateway.phases import RequestPhases
from serving.gateway.scheduling.admission import Permit

__all__ = ["ModelInfo", "RequestContext"]


@dataclass(frozen=True)
class ModelInfo:
    """Versions of Triton and of the served model, the model's sizes and digests.

    Attributes:
        triton_version: of the server.
        model_version: of the entry point `segment`.
        model_size: `vit_t`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the encoder's input.
        model_digest: identifies the exported model.
        trained_model: digest of the run or base checkpoint it was exported from; vocabularies are
            bound to it.
        mask_prompts: whether prompts may carry a mask.
        scale: how much of an image the model is to be shown at once; None if it declares nothing.
        intensity: policy for images of more than 8 bits.
        calibrates: whether it calibrates prompts, tells them and can do without; None if it may
            calibrate prompts, but its repository was published without the switch.
        clip: CLIP's towers for classes by text; None if the repository has none.
    """

    triton_version: str
    model_version: str
    model_size: str
    image_size: int
    model_digest: str
    trained_model: str
    mask_prompts: bool
    scale: Scale | None = None
    intensity: Intensity = Intensity()
    calibrates: bool | None = None
    clip: ClipInfo | None = None

    @property
    def identity(self) -> tuple[str, str]:
        """Version and digest, by which the metrics name it."""
        return self.model_version, self.model_digest

    @property
    def low_res_size(self) -> int:
        """Rows and columns of a mask's logits, 4G."""
        return LOW_RES_FACTOR * grid_size(self.image_size)


@dataclass(eq=False)
class RequestContext:
    """State of one request, built once and passed to every step.

    Attributes:
        request_id: of the caller, or made; shown in logs.
        principal: the authenticated caller.
        permit: the request's claim on the gateway's capacity.
        deadline: time after which the answer is useless, in seconds of `time.monotonic`.
        fetch_model: fetches the served model's metadata within a timeout in seconds.
        phases: the request's time by phase.
    """

    request_id: str
    principal: Principal
    permit: Permit
    deadline: float
    fetch_model: Callable[[float], Awaitable[ModelInfo]]
    phases: RequestPhases = field(default_factory=RequestPhases, repr=False)
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
