"""Replicas of Triton whose graphs are the same, and CLIP's towers are not."""

from __future__ import annotations

from time import monotonic

import numpy as np
import pytest

from cpcsam.entry_points import CLIP, CLIP_CROPS, CLIP_EMBEDDINGS
from cpcsam.grpc_errors import UnavailableError
from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.context import RequestContext
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.inference.triton_requests import infer_input
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.executors import Executors
from tests.support.servers.triton_peer import TritonPeer, triton_peers

CROPS = infer_input(CLIP_CROPS.name, np.zeros((1, 1, 32, 32, 3), np.uint8))


async def test_crops_keep_to_replicas_of_their_towers_and_images_do_not() -> None:
    old, new = TritonPeer(version="1", clip="a"), TritonPeer(version="2", clip="b")
    metrics = Metrics()
    async with triton_peers(old, new) as listed:
        triton = TritonClient(listed, Admission(Limits(), metrics), metrics, Executors())
        async with triton.replicas.watched():
            permit, deadline = Permit("a"), monotonic() + 60
            context = RequestContext("id", EVERYBODY, permit, deadline, triton.model_info)
            model = await context.model()
            assert model.clip is not None and model.clip.digest == "b"
            await triton.infer_anywhere(CLIP.name, [CROPS], (CLIP_EMBEDDINGS.name,), context)
            await new.kill()
            with pytest.raises(UnavailableError):
                await triton.infer_anywhere(CLIP.name, [CROPS], (CLIP_EMBEDDINGS.name,), context)
            await triton.encode(b"key", b"image", context)
        await triton.close()
    assert (old.calls["encode"], old.calls[CLIP.name]) == (1, 0)
    assert (new.calls["encode"], new.calls[CLIP.name]) == (0, 1)
