"""Triton client: prompts, kinds of calls, addresses, ranks of replicas, probes and versions."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpcsam.contract import POINT_BUCKETS, PROMPT_BUCKETS, MaskSelection, PointLabel
from cpcsam.entry_points import (
    CLIP,
    CLIP_CROPS,
    CLIP_EMBEDDINGS,
    DECODE,
    ENCODE,
    IMAGE_BYTES,
    MASKS_RLE,
    SEGMENT,
)
from cpcsam.errors import ConfigError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import UnavailableError
from cpcsam.v1 import segmentation_pb2 as pb
from export.triton_repository.config import RepositoryConfig, Target, model_configs
from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.context import RequestContext
from serving.gateway.inference import replica
from serving.gateway.inference.addresses import TritonAddresses
from serving.gateway.inference.call_kinds import EVERYTHING, SEARCH, decodes, kind_of
from serving.gateway.inference.probe import probed_entry_points
from serving.gateway.inference.prompt_batches import chunk_prompts, chunk_tensors
from serving.gateway.inference.replica import is_cancellable
from serving.gateway.inference.replica_health import ReplicaHealth
from serving.gateway.inference.replicas import choose, favourite, ranked
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.inference.triton_requests import bytes_input, infer_input, prompt_inputs
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.call_times import CallKind
from serving.gateway.scheduling.executors import Executors
from tests.support.servers.triton_peer import TritonPeer, triton_peers

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

WHOLE = Box(0, 0, 500, 500)
CROPS = infer_input(CLIP_CROPS.name, np.zeros((1, 1, 32, 32, 3), np.uint8))
coordinates = st.floats(0, 500, width=32)
points = st.builds(pb.Point, x=coordinates, y=coordinates, background=st.booleans())
corners = st.builds(pb.Box, x0=coordinates, y0=coordinates, x1=coordinates, y1=coordinates)
prompts = st.lists(
    st.one_of(
        st.builds(pb.Prompt, points=st.lists(points, min_size=1, max_size=16)),
        st.builds(pb.Prompt, points=st.lists(points, max_size=14), box=corners),
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("2.51.0", False),
        ("2.57.9", False),
        ("2.58.0", True),
        ("2.74.0", True),
        ("3.0", True),
        ("", False),
        ("x.y", False),
    ],
)
def test_is_cancellable_depends_on_the_version(version: str, safe: bool) -> None:
    assert is_cancellable(version) is safe


def slots(prompt: pb.Prompt) -> list[tuple[float, float, int]]:
    listed = [(point.x, point.y, 0 if point.background else 1) for point in prompt.points]
    if prompt.HasField("box"):
        listed += [(prompt.box.x0, prompt.box.y0, 2), (prompt.box.x1, prompt.box.y1, 3)]
    return listed


@UNHURRIED
@given(prompts)
def test_chunk_prompts_keeps_slots_in_order_and_pads_the_rest(prompts: list[pb.Prompt]) -> None:
    chunks = chunk_prompts(prompts, WHOLE)
    assert [chunk.count for chunk in chunks[:-1]] == [PROMPT_BUCKETS[-1]] * (len(chunks) - 1)
    assert sum(chunk.count for chunk in chunks) == len(prompts)
    rows = iter(prompts)
    for chunk in chunks:
        batch, row_count, column_count = chunk.point_labels.shape
        assert batch == 1 and row_count in PROMPT_BUCKETS and column_count in POINT_BUCKETS
        assert chunk.point_coords.shape == (1, row_count, column_count, 2)
        assert chunk.point_coords.dtype == np.float32 and chunk.point_labels.dtype == np.int32
        for row in range(row_count):
            expected = slots(next(rows)) if row < chunk.count else []
            used = len(expected)
            found = [
                (
                    *map(float, chunk.point_coords[0, row, column]),
                    chunk.point_labels[0, row, column],
                )
                for column in range(used)
            ]
            assert found == expected
            assert (chunk.point_labels[0, row, used:] == PointLabel.EMPTY).all()


def test_chunk_prompts_takes_the_smallest_buckets() -> None:
    def shape(*counts: int) -> tuple[int, ...]:
        prompts = [pb.Prompt(points=[pb.Point(x=1, y=1)] * count) for count in counts]
        return chunk_prompts(prompts, WHOLE)[0].point_labels.shape

    assert shape(1) == (1, 1, 1)
    assert shape(1, 3) == (1, 4, 4)
    assert shape(*[1] * 5) == (1, 16, 1)
    assert shape(9, 2) == (1, 4, 16)
    box_alone = pb.Prompt(box=pb.Box(x0=0, y0=0, x1=1, y1=1))
    assert chunk_prompts([box_alone], WHOLE)[0].point_labels.tolist() == [[[2, 3]]]


def test_chunk_prompts_with_masks_pads_them_and_shifts_points_into_the_tile() -> None:
    logits = np.arange(3 * 16, dtype="<f4").reshape(3, 16)
    prompts = [
        pb.Prompt(points=[pb.Point(x=30, y=9)], mask_input=pb.LowResMask(logits=row.tobytes()))
        for row in logits
    ]
    (chunk,) = chunk_prompts(prompts, Box(5, 20, 50, 60))
    assert chunk.point_coords[0, :3, 0].tolist() == [[10, 4]] * 3
    assert chunk.mask_input is not None and chunk.mask_input.shape == (1, 4, 1, 4, 4)
    assert np.array_equal(chunk.mask_input[0, :3].reshape(3, 16), logits)
    assert not chunk.mask_input[0, 3].any()


def test_chunk_tensors_equals_chunk_prompts() -> None:
    prompts = [pb.Prompt(points=[pb.Point(x=index, y=2 * index)]) for index in range(19)]
    coords = np.array([[[index, 2 * index]] for index in range(19)], np.float32)
    expected = chunk_prompts(prompts, WHOLE)
    for mine, theirs in zip(
        chunk_tensors(coords, np.ones((19, 1), np.int32)), expected, strict=True
    ):
        assert mine.count == theirs.count
        assert np.array_equal(mine.point_coords, theirs.point_coords)
        assert np.array_equal(mine.point_labels, theirs.point_labels)


def test_ranked_spreads_keys_and_keeps_the_order_of_others() -> None:
    three = ["a:1", "b:1", "c:1"]
    ranks = [ranked(f"{index}".encode(), three) for index in range(600)]
    assert all(150 < count < 250 for count in Counter(rank[0] for rank in ranks).values())
    for index, rank in enumerate(ranks):
        rank.remove("b:1")
        assert ranked(f"{index}".encode(), ["c:1", "a:1"]) == rank


def test_choose_spares_a_busy_favourite_and_spreads_over_equally_idle_ones() -> None:
    loads = {"a:1": 0, "b:1": 2, "c:1": 1}
    assert favourite(b"7", loads) == ranked(b"7", loads)[0]
    assert choose("c:1", loads) == "c:1"
    assert choose("b:1", loads) == "a:1"
    # Gateways know their own calls alone, so without chance all would choose the first replica.
    chosen = Counter(choose(None, dict.fromkeys(loads, 0)) for _ in range(300))
    assert all(60 < count < 140 for count in chosen.values()) and len(chosen) == 3


def test_parse_takes_lists_and_names() -> None:
    assert TritonAddresses.parse("a:1, b:2").fixed == ("a:1", "b:2")
    assert TritonAddresses.parse("dns:///triton:8001") == TritonAddresses((), "triton", 8001)
    for wrong in ("", "a", "a:1,", "a:1,a:1", "dns:///triton", "dns:///a:1,b:1"):
        with pytest.raises(ConfigError, match="--triton: got"):
            TritonAddresses.parse(wrong)


@pytest.mark.parametrize(
    ("target", "expected"), [("cpu", ["segment"]), ("gpu", ["segment", "decode_with_mask"])]
)
def test_probes_pass_through_every_step_of_a_repository(
    target: Target, expected: list[str]
) -> None:
    configs = model_configs(RepositoryConfig("vit_t", 256, target))
    steps = {
        name: frozenset(step.model_name for step in config.ensemble_scheduling.step)
        for name, config in configs.items()
        if config.platform == "ensemble"
    }
    assert probed_entry_points(steps) == expected


async def test_no_probe_soon_follows_the_first_of_a_slow_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica, "PERIOD_S", 0.02)
    monkeypatch.setattr(replica, "SHORT_PROBE_S", 0.05)
    monkeypatch.setattr(replica, "LONG_PROBE_SHARE", 1e-4)
    peer, metrics = TritonPeer(), Metrics()

    async def encode(request: Any, context: Any) -> None:
        await asyncio.sleep(0.1)

    async with triton_peers(peer) as listed:
        peer.before = encode
        triton = TritonClient(listed, Admission(Limits(), metrics), metrics, Executors())
        async with triton.replicas.watched():
            await triton.model_info(60)
            await asyncio.sleep(0.5)
        assert peer.probes == 1
        await triton.close()


async def test_fast_steps_leave_a_slow_one_its_patience() -> None:
    health = ReplicaHealth("a:1", Metrics(), lambda: None)
    assert health.patience_s({"encoder", "decoder"}, busy=True) == 10
    health.passed({"encoder", "decoder"}, 8.0)
    for _ in range(50):
        health.passed({"decoder"}, 0.1)
    assert health.patience_s({"encoder", "decoder"}, busy=True) == 24
    assert health.patience_s({"decoder"}, busy=False) == 3


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


def test_kind_of_a_call_tells_use_and_prompts() -> None:
    (chunk,) = chunk_tensors(np.zeros((3, 1, 2), np.float32), np.ones((3, 1), np.int32))
    prompts = prompt_inputs(chunk, MaskSelection.BEST)
    thresholds = prompt_inputs(chunk, MaskSelection.ALL, (0.5, 0.5, 1.0))
    masks = (MASKS_RLE.name,)
    assert kind_of(DECODE.name, prompts, masks) == CallKind(DECODE.name, 4)
    assert kind_of(SEGMENT.name, prompts, masks) == CallKind(SEGMENT.name, 4)
    assert kind_of(DECODE.name, thresholds, masks) == CallKind(EVERYTHING, 4)
    assert kind_of(DECODE.name, prompts, ("scores",)) == CallKind(SEARCH, 4)
    image = [bytes_input(IMAGE_BYTES.name, b"file")]
    assert kind_of(ENCODE.name, image, ()) == CallKind(ENCODE.name)


def test_decodes_are_those_of_the_chunks() -> None:
    assert decodes("x", 0) == {}
    assert decodes("x", 1) == {CallKind("x", 1): 1}
    assert decodes("x", 35) == {CallKind("x", 16): 2, CallKind("x", 4): 1}
    assert decodes("x", 26) == {CallKind("x", 16): 2}
