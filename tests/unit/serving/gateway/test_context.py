"""Model metadata is fetched once a request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic

import pytest

from cpcsam.grpc_errors import UnavailableError
from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.scheduling.admission import Permit

MODEL = ModelInfo("2.51.0", "1", "vit_t", 256, "digest", "trained", mask_prompts=True)


class ModelSource:
    """Triton's metadata, with a count of its requests and of the failures to come."""

    def __init__(self, failures: int = 0) -> None:
        self.requests = 0
        self.failures = failures

    async def __call__(self, timeout_s: float) -> ModelInfo:
        self.requests += 1
        await asyncio.sleep(0)
        if self.requests <= self.failures:
            raise UnavailableError("inference server: away")
        return MODEL


def context_of(source: ModelSource, seconds: float = 5) -> RequestContext:
    return RequestContext("id", EVERYBODY, Permit("a"), monotonic() + seconds, source)


async def test_model_of_concurrent_steps_is_fetched_once() -> None:
    source = ModelSource()
    context = context_of(source)
    assert await asyncio.gather(*(context.model() for _ in range(4))) == [MODEL] * 4
    assert await context.model() is MODEL
    assert source.requests == 1


async def test_model_after_a_failure_is_fetched_again() -> None:
    source = ModelSource(failures=1)
    context = context_of(source)
    with pytest.raises(UnavailableError):
        await context.model()
    assert await context.model() == MODEL and source.requests == 2


async def test_model_of_a_replaced_context_is_fetched_again() -> None:
    source = ModelSource()
    context = context_of(source)
    await context.model()
    await replace(context, permit=Permit("a")).model()
    assert source.requests == 2


def test_remaining_s_after_the_deadline_is_positive() -> None:
    assert 4.9 < context_of(ModelSource()).remaining_s <= 5
    assert context_of(ModelSource(), -1).remaining_s == 1e-3
