"""Embedding cache of the gateway: repeated images are encoded and sent once."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from tritonclient.grpc import InferenceServerClient

from cpcsam.client import Prompt, SegmentationClient, encode_image
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import NotFoundError
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import WIDTH, assert_same, clicks, picture, read_metrics

pytestmark = pytest.mark.triton


def encoder_runs(triton: TritonServer) -> int:
    """Return the number of images that Triton's encoder has processed, in batches of any size."""
    with InferenceServerClient(triton.grpc_url) as client:
        (model,) = client.get_inference_statistics("image_encoder").model_stats
        return int(model.inference_count)


def test_segment_of_a_repeated_image_encodes_and_sends_it_once(
    gateway: Gateway, client: SegmentationClient, triton: TritonServer
) -> None:
    image = encode_image(picture(77))
    fresh = client.segment(image, clicks(20))
    before = encoder_runs(triton)
    again = client.segment(image, clicks(20))
    named = client.segment(fresh.image_id, clicks(20))
    assert encoder_runs(triton) == before
    assert [result.cached for result in (fresh, again, named)] == [False, True, True]
    assert fresh.image_id == again.image_id == hashlib.sha256(image).hexdigest()
    assert_same(again, fresh)
    assert_same(named, fresh)
    with pytest.raises(ContractError, match=r"got \(100, 1\), expected 0 <= x < 100"):
        client.segment(fresh.image_id, [Prompt.click(WIDTH, 1)])


def test_segment_by_concurrent_equal_requests_encodes_once(
    gateway: Gateway, triton: TritonServer
) -> None:
    image, before = encode_image(picture(78)), encoder_runs(triton)

    def segment(seed: int) -> SegmentResult:
        with SegmentationClient(gateway.address) as mine:
            return mine.segment(image, clicks(3, seed))

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(segment, range(8)))
    assert encoder_runs(triton) - before == 1
    for seed, result in enumerate(together):
        assert_same(result, segment(seed))


def test_segment_of_an_evicted_image_sends_it_again(
    triton: TritonServer,
) -> None:
    config = GatewayConfig(
        triton=triton.grpc_url, port=0, metrics_port=0, limits=Limits(cache_bytes=300_000)
    )
    with gateway_in_background(config) as gateway, SegmentationClient(gateway.address) as client:
        first = client.segment(picture(1), clicks(2))
        assert client.segment(picture(1), clicks(2)).cached
        client.segment(picture(2), clicks(2))
        with pytest.raises(NotFoundError, match="image_id: got .*; send image_bytes again"):
            client.segment(first.image_id, clicks(2))
        again = client.segment(picture(1), clicks(2))
        assert not again.cached
        assert_same(again, first)
        metrics = read_metrics(gateway)
    assert metrics["cpcsam_cache_evictions_total", frozenset()] == 2
    assert 0 < metrics["cpcsam_cache_bytes", frozenset()] <= 300_000
