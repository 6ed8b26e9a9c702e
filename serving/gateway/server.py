"""gRPC server of the gateway: the API, health, reflection and the metrics endpoint."""

from __future__ import annotations

import logging
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.common.exposure import address_of, is_loopback
from serving.common.logs import guard_grpc_logger
from serving.common.metrics_server import serve_metrics
from serving.gateway.auth.authenticator import Authenticator
from serving.gateway.auth.interceptor import AuthenticationInterceptor
from serving.gateway.calls.guard import CallGuard
from serving.gateway.calls.open_calls import OpenCalls, quotas_of
from serving.gateway.calls.received import MessageParser
from serving.gateway.calls.tolerant_server import tolerant_server
from serving.gateway.config import GatewayConfig
from serving.gateway.health import SERVICE, publish_health
from serving.gateway.health_watch import WatchedHealth
from serving.gateway.inference.embedder import Embedder
from serving.gateway.inference.embedding_cache import EmbeddingCache
from serving.gateway.inference.image_headers import HeaderReader
from serving.gateway.inference.request_images import RequestImages
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.metrics import Metrics
from serving.gateway.rpc import RpcRunner
from serving.gateway.scheduling.admission import Admission
from serving.gateway.scheduling.executors import Executors, open_executors
from serving.gateway.segmentation.by_class import ClassSegmenter
from serving.gateway.segmentation.by_prompts import PromptSegmenter
from serving.gateway.segmentation.dispatch import SegmentationDispatcher
from serving.gateway.segmentation.mask_generator import EverythingSegmenter
from serving.gateway.servicer import SegmentationService
from serving.gateway.vocabulary.service import VocabularyService
from serving.gateway.vocabulary.store import VocabularyStore
from serving.gateway.vocabulary.texts import TextJudge
from serving.gateway.watchdog import watch_loop
from serving.supervision.heartbeat import Heartbeat

__all__ = ["Gateway", "GatewayConfig", "build_service", "start_gateway"]

CONNECTION_OPTIONS: Final = (
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Connections without a call; clients open another with their next.
    ("grpc.max_connection_idle_ms", 300_000),
    # Peers that have vanished without a word hold their calls no longer than this.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
MAX_CONNECTIONS: Final = 4096
SPARE_STREAMS: Final = 32
"""Of a connection, for calls that are refused because there are too many, and for health."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gateway:
    """A running gateway.

    Attributes:
        address: HOST:PORT of the API.
        metrics_url: URL of the Prometheus endpoint.
        wait_for_end: waits until the gRPC server ends, which it should not do by itself.
    """

    address: str
    metrics_url: str
    wait_for_end: Callable[[], Awaitable[object]]


@asynccontextmanager
async def start_gateway(config: GatewayConfig) -> AsyncIterator[Gateway]:
    """Run a gateway while the block runs; it reports itself healthy while a Triton can answer.

    Raises:
        ServingError: one of its two addresses cannot be listened on.
        ConfigError: the tokens, the certificate, its key or Triton's addresses cannot be used.
    """
    guard_grpc_logger()
    metrics = Metrics(config.restarts)
    authenticator = Authenticator(config.tokens)
    metrics.follow(metrics.token_file_refused, authenticator.is_file_refused)
    credentials = None if config.tls is None else config.tls.credentials()
    _warn_if_open(config)
    async with AsyncExitStack() as stack:
        metrics_port = await stack.enter_async_context(
            serve_metrics(
                metrics.registry, config.metrics_host, config.metrics_port, metrics.refresh
            )
        )
        await stack.enter_async_context(watch_loop(metrics, Heartbeat(config.heartbeat)))
        admission = Admission(config.limits, metrics)
        executors = stack.enter_context(open_executors())
        triton = TritonClient(config.triton, admission, metrics, executors)
        stack.push_async_callback(triton.close)
        await stack.enter_async_context(triton.replicas.watched())
        rpc = RpcRunner(authenticator, metrics, config.max_seconds, triton.model_info)
        headers = stack.enter_context(closing(HeaderReader(config.limits, executors)))
        service = build_service(config, rpc, admission, triton, metrics, executors, headers)

        calls = OpenCalls(quotas_of(config.limits), metrics)
        parser = MessageParser(executors)
        guard = CallGuard(calls, authenticator.requires_tokens, config.patience, metrics, parser)
        server = _server(config, AuthenticationInterceptor(authenticator, metrics), guard)
        pb_grpc.add_SegmentationServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        health_servicer = WatchedHealth()
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        api_port = _listen(server, config, credentials)

        # Unwound in reverse: health first, so that no new requests are routed here; Triton last.
        stack.push_async_callback(server.stop, config.grace_s)
        await stack.enter_async_context(publish_health(health_servicer, triton))
        await server.start()
        yield Gateway(
            address=address_of(config.host, api_port),
            metrics_url=f"http://{address_of(config.metrics_host, metrics_port)}/metrics",
            wait_for_end=server.wait_for_termination,
        )


def _server(config: GatewayConfig, *interceptors: grpc.aio.ServerInterceptor) -> grpc.aio.Server:
    age_s = config.max_connection_age_s
    return tolerant_server(
        interceptors,
        (
            *CONNECTION_OPTIONS,
            *(() if age_s is None else (("grpc.max_connection_age_ms", round(age_s * 1e3)),)),
            ("grpc.max_allowed_incoming_connections", _max_connections()),
            # Calls wait in order until they are taken, even those that were reset at once.
            ("grpc.max_concurrent_streams", config.limits.max_calls_each + SPARE_STREAMS),
            ("grpc.max_receive_message_length", config.limits.max_message_bytes),
            ("grpc.max_send_message_length", -1),  # bounded by the limits of a request
            ("grpc.so_reuseport", 0),  # else a second gateway would share the port unnoticed
        ),
    )


def _max_connections() -> int:
    """Return a number of connections that leaves half of the process's files for others."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files < 0 else min(MAX_CONNECTIONS, files // 2)


def _warn_if_open(config: GatewayConfig) -> None:
    """Warn of an address beyond loopback without tokens or TLS."""
    if is_loopback(config.host):
        return
    if config.tokens is None:
        LOG.warning("no --tokens: anyone who reaches %s has full access", config.host)
    if config.tls is None:
        LOG.warning("no --tls-cert: traffic to %s is not encrypted", config.host)


def _listen(
    server: grpc.aio.Server, config: GatewayConfig, credentials: grpc.ServerCredentials | None
) -> int:
    """Bind the server's address and return its port.

    Raises:
        ServingError: the address is taken or not of this machine.
    """
    address = address_of(config.host, config.port)
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


def build_service(
    config: GatewayConfig,
    rpc: RpcRunner,
    admission: Admission,
    triton: TritonClient,
    metrics: Metrics,
    executors: Executors,
    headers: HeaderReader,
) -> SegmentationService:
    """Build the servicer of one gateway."""
    limits = config.limits
    cache = EmbeddingCache(limits.cache_bytes, metrics)
    images = RequestImages(headers)
    embedder = Embedder(triton, cache, admission, limits, executors)
    store = VocabularyStore(config.classes, config.vocabulary, executors)
    vocabularies = VocabularyService(store, images, embedder)
    dispatcher = SegmentationDispatcher(
        PromptSegmenter(embedder),
        ClassSegmenter(embedder),
        EverythingSegmenter(embedder),
        TextJudge(embedder),
        vocabularies,
        limits,
        executors,
    )
    return SegmentationService(
        rpc, admission, images, dispatcher, vocabularies, limits, metrics, executors
    )
