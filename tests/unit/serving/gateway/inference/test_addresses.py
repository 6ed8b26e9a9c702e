"""Replicas whose addresses a supervisor writes to a file, as in a switch of the version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import numpy as np

from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.context import RequestContext
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.executors import Executors
from tests.support.servers.triton_peer import TritonPeer, triton_peers

(CHUNK,) = chunk_tensors(np.ones((1, 1, 2), np.float32), np.ones((1, 1), np.int32))
REQUESTS = "cpcsam_replica_requests"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_addresses_of_a_file_are_read_again_and_the_first_is_preferred(
    tmp_path: Path,
) -> None:
    """The preferred model is the older version, as in a rollback."""
    old, new = TritonPeer("old", "2"), TritonPeer("new", "1")
    metrics, file = Metrics(), tmp_path / "tritons"

    def sample(name: str, labels: dict[str, str]) -> float | None:
        metrics.refresh()
        return metrics.registry.get_sample_value(name, labels)

    async with triton_peers(old, new):
        file.write_text(f"{old.address}\n")
        triton = TritonClient(f"file://{file}", Admission(Limits(), metrics), metrics, Executors())

        def context() -> RequestContext:
            return RequestContext("id", EVERYBODY, Permit("a"), monotonic() + 60, triton.model_info)

        async def segment(request: RequestContext) -> None:
            await triton.segment(b"key", b"", CHUNK, 0, request)

        async with triton.replicas.watched():
            began = context()
            with metrics.request_of((await began.model()).identity):
                file.write_text(f"{new.address}\n{old.address}\n")
                await until(lambda: sample("cpcsam_replica_up", {"replica": new.address}) == 1)
                assert (await context().model()).model_digest == "new"
                await segment(began)
                assert old.calls["segment"] == 1 and not new.calls, "it keeps to its model"
                assert sample(REQUESTS, {"replica": old.address}) == 1
                assert sample(REQUESTS, {"replica": new.address}) == 0
            assert sample(REQUESTS, {"replica": old.address}) == 0
            info = {"replica": old.address, "version": "2", "digest": "old"}
            assert sample("cpcsam_model_info", info) == 1
            file.write_text(f"{new.address}\n")
            await until(lambda: sample("cpcsam_model_info", info) is None)
            assert sample(REQUESTS, {"replica": old.address}) is None
            await segment(context())
            assert new.calls["segment"] == 1
        await triton.close()
