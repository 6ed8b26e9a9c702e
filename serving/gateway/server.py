"""Assemble the gateway and run it until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.auth.authenticator import Authenticator
from serving.gateway.auth.interceptor import AuthenticationInterceptor
from serving.gateway.config import GatewayConfig
from serving.gateway.inference.embedder import Embedder
from serving.gateway.inference.embedding_cache import EmbeddingCache
from serving.gateway.inference.request_images import RequestImages
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.metrics import Metrics, serve_metrics
from serving.gateway.rpc import RpcRunner
from serving.gateway.scheduling.admission import Admission
from serving.gateway.segmentation.by_class import ClassSearch
from serving.gateway.segmentation.by_prompts import Prompting
from serving.gateway.segmentation.dispatch import Segmenting
from serving.gateway.segmentation.mask_generator import EverythingSearch
from serving.gateway.servicer import SegmentationService
from serving.gateway.vocabulary.service import VocabularyService
from serving.gateway.vocabulary.store import VocabularyStore

__all__ = ["Gateway", "GatewayConfig", "run_until_stopped", "start_gateway"]

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Segmentation"].full_name
HEALTH_PERIOD_S: Final = 1.0
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", "[::1]")
COLLECT_AFTER: Final = (700, 10, 2)
"""Thresholds of the garbage collector: the last generation is collected five times as often as by
default."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gateway:
    """A running gateway.

    Attributes:
        address: HOST:PORT of the API.
        metrics_url: of the Prometheus endpoint.
    """

    address: str
    metrics_url: str


@asynccontextmanager
async def start_gateway(config: GatewayConfig) -> AsyncIterator[Gateway]:
    """Run a gateway while the block runs; it serves as soon as Triton does.

    Raises:
        ServingError: one of its two addresses cannot be listened on.
        ConfigError: the tokens, the certificate or its key cannot be used.
    """
    metrics = Metrics()
    authenticator = Authenticator(config.tokens)
    credentials = None if config.tls is None else config.tls.credentials()
    _warn_if_open(config)
    async with AsyncExitStack() as stack:
        metrics_port = stack.enter_context(
            serve_metrics(metrics, config.metrics_host, config.metrics_port)
        )
        admission = Admission(config.limits, metrics)
        triton = TritonClient(config.triton, admission)
        stack.push_async_callback(triton.close)
        server = grpc.aio.server(
            interceptors=(AuthenticationInterceptor(authenticator, metrics),),
            maximum_concurrent_rpcs=config.limits.max_calls,
            options=(
                ("grpc.max_receive_message_length", config.limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else a second gateway would share the port unnoticed
            ),
        )
        rpc = RpcRunner(authenticator, metrics, config.max_seconds, triton.model_info)
        service = _service(config, rpc, admission, triton, metrics)
        pb_grpc.add_SegmentationServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        health_service = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        api_port = _listen(server, config, credentials)

        await _report_health(health_service, triton)
        watcher = asyncio.create_task(_watch_health(health_service, triton))
        await server.start()
        try:
            yield Gateway(
                address=f"{config.host}:{api_port}",
                metrics_url=f"http://{config.metrics_host}:{metrics_port}/metrics",
            )
        finally:
            watcher.cancel()
            await health_service.enter_graceful_shutdown()
            await server.stop(config.grace_s)


def _service(
    config: GatewayConfig,
    rpc: RpcRunner,
    admission: Admission,
    triton: TritonClient,
    metrics: Metrics,
) -> SegmentationService:
    """Put the parts of the service together."""
    limits = config.limits
    cache = EmbeddingCache(limits.cache_bytes, metrics)
    images = RequestImages(limits)
    embedder = Embedder(triton, cache, admission, limits)
    store = VocabularyStore(config.classes, config.vocabulary)
    classes = VocabularyService(store, images, embedder)
    segmenting = Segmenting(
        Prompting(embedder), ClassSearch(embedder), EverythingSearch(embedder), classes
    )
    return SegmentationService(rpc, admission, images, segmenting, classes, limits, metrics)


def _warn_if_open(config: GatewayConfig) -> None:
    """Say what the operator may not have meant."""
    if config.host in LOOPBACK:
        return
    if config.tokens is None:
        LOG.warning("no --tokens: whoever reaches %s may do everything", config.host)
    if config.tls is None:
        LOG.warning("no --tls-cert: what is sent to %s can be read on its way", config.host)


def _listen(
    server: grpc.aio.Server, config: GatewayConfig, credentials: grpc.ServerCredentials | None
) -> int:
    address = f"{config.host}:{config.port}"
    try:
        if credentials is None:
            number = server.add_insecure_port(address)
        else:
            number = server.add_secure_port(address, credentials)
    except RuntimeError:
        number = 0
    if number == 0:
        raise ServingError.of(
            "port",
            got=f"{address}, which cannot be listened on",
            expected="an address of this machine that is free",
            fix="stop what listens there or give another --port",
        )
    return number


async def _watch_health(service: health.aio.HealthServicer, triton: TritonClient) -> None:
    while True:
        await asyncio.sleep(HEALTH_PERIOD_S)
        await _report_health(service, triton)


async def _report_health(service: health.aio.HealthServicer, triton: TritonClient) -> None:
    """Say SERVING when Triton can answer, for the server as a whole and for the service."""
    statuses = health_pb2.HealthCheckResponse
    status = statuses.SERVING if await triton.ready() else statuses.NOT_SERVING
    for name in (health.OVERALL_HEALTH, SERVICE):
        await service.set(name, status)


async def run_until_stopped(
    config: GatewayConfig, end: Coroutine[Any, Any, None] | None = None
) -> None:
    """Run a gateway until SIGTERM or SIGINT, and print where it listens.

    Args:
        config: of the gateway.
        end: also stops the gateway when it returns or raises.

    Raises:
        ServingError: as `start_gateway`.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    ends: list[asyncio.Task[Any]] = [asyncio.create_task(stopped.wait())]
    if end is not None:
        ends.append(asyncio.create_task(end))
    try:
        async with start_gateway(config) as gateway:
            _collect_garbage_in_small_parts()
            print(f"gateway  {gateway.address}  (Triton {config.triton})")
            print(f"metrics  {gateway.metrics_url}", flush=True)
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in ends:
            task.cancel()


def _collect_garbage_in_small_parts() -> None:
    """Keep garbage collection from halting all requests for a tenth of a second.

    A full one would go through everything that is loaded, and through the leavings of ten seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
