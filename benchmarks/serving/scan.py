"""Scenario `scan`: ports reachable from other machines, and authentication."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from benchmarks.serving.certificate import self_signed
from benchmarks.serving.ports import answers, listeners, outside_address, processes_below
from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.stack import service
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.client import Prompt, SegmentationClient
from cpcsam.grpc_errors import AuthenticationError, UnavailableError
from demo.commands import Service
from serving.common.tls import TlsFiles
from serving.gateway.auth.tokens import USER, digest_of

__all__ = ["CLOSED_CALLS", "CLOSED_PATHS", "run"]

TOKEN: Final = "of-the-scan"
IMAGE: Final = np.zeros((20, 30, 3), np.uint8)
CLOSED_CALLS: Final[Mapping[str, Callable[[InferenceServerClient], object]]] = MappingProxyType(
    {
        "load_model": lambda client: client.load_model("segment"),
        "unload_model": lambda client: client.unload_model("segment"),
        "repository_index": lambda client: client.get_model_repository_index(),
        "register_shared_memory": lambda client: client.register_system_shared_memory(
            "region", "/region", 64
        ),
        "shared_memory": lambda client: client.get_system_shared_memory_status(),
        "cuda_shared_memory": lambda client: client.get_cuda_shared_memory_status(),
        "update_trace": lambda client: client.update_trace_settings(
            settings={"trace_level": "TIMESTAMPS"}
        ),
        "trace": lambda client: client.get_trace_settings(),
        "update_log": lambda client: client.update_log_settings({"log_verbose_level": 1}),
        "log": lambda client: client.get_log_settings(),
    }
)
"""Administrative gRPC calls that Triton must refuse."""
CLOSED_PATHS: Final = (
    "repository/index",
    "repository/models/segment/unload",
    "systemsharedmemory/status",
    "trace/setting",
    "logging",
)
"""Administrative HTTP paths below /v2 that Triton must refuse."""
CLOSED: Final = "restricted"
FORBIDDEN: Final = 403


def run(repository: Path, build: Path) -> tuple[dict[str, Any], list[Check]]:
    """Serve on all addresses with TLS and a token, and scan from a non-loopback address.

    Args:
        repository: to serve.
        build: for the certificate, the tokens and the logs.

    Returns:
        Figures and checks.
    """
    outside = outside_address()
    files = self_signed(build, outside)
    tokens = build / "tokens.txt"
    write_atomic(tokens, f"lab {USER} {digest_of(TOKEN)}\n".encode())
    options: tuple[str | Path, ...] = (
        *("--host", "0.0.0.0", "--metrics-host", "0.0.0.0", "--tokens", tokens),
        *("--tls-cert", files.certificate, "--tls-key", files.key),
    )
    with service(repository, build, *options) as running:
        found = listeners(processes_below(running.pid))
        reached = {listener.port for listener in found if answers(outside, listener.port)}
        published = {_port(running.gateway), _port(running.gateway_metrics_url)}
        gateway = f"{outside}:{_port(running.gateway)}"
        let_in, refused = _callers(gateway, files, build)
        away = [listener for listener in found if listener.port not in published]
        # Of Triton's ports these are gRPC and metrics, so the remaining ones are HTTP.
        known = {_port(running.triton), _port(running.triton_metrics_url)}
        triton = _closed_calls(running) | _closed_paths(
            [listener.port for listener in away if listener.port not in known]
        )
    logs = (build / "serve.log").read_text() + (build / "triton.log").read_text()
    figures = {
        "outside": outside,
        "listeners": [
            asdict(listener) | {"reached": listener.port in reached} for listener in found
        ],
        "reached_from_outside": len(reached),
        "refused_callers": refused,
        "closed_at_triton": triton,
        "token_in_logs": TOKEN in logs,
    }
    return figures, [
        at_most("ports reached other than gateway and metrics", len(reached - published), 0),
        at_least("of gateway and metrics reached", len(reached & published), 2),
        at_most(
            "Triton's ports beyond loopback",
            sum(listener.address != "127.0.0.1" for listener in away),
            0,
        ),
        at_least("ports of Triton's", len(away), 3),
        at_least("callers with the token and TLS that are answered", let_in, 1),
        at_most("callers without that are answered", list(refused.values()).count(False), 0),
        at_most("closed calls that Triton answers", list(triton.values()).count(False), 0),
        at_most("tokens in logs", int(TOKEN in logs), 0),
    ]


def _port(address: str) -> int:
    port = urlsplit(address if "//" in address else f"//{address}").port
    assert port is not None
    return port


def _callers(gateway: str, files: TlsFiles, build: Path) -> tuple[int, dict[str, bool]]:
    """Return whether the valid token is accepted and each invalid credential refused, by name."""
    (build / "other").mkdir(exist_ok=True)
    other = self_signed(build / "other", "127.0.0.1").certificate
    reach = partial(SegmentationClient, gateway, timeout_s=10)
    with reach(ca=files.certificate, token=TOKEN) as known:
        let_in = len(known.segment(IMAGE, [Prompt.click(3, 4)]).masks)
    return let_in, {
        "no token": _refused(reach(ca=files.certificate), AuthenticationError),
        "wrong token": _refused(reach(ca=files.certificate, token="x" * 20), AuthenticationError),
        "plain text": _refused(reach(token=TOKEN), UnavailableError),
        "unknown certificate": _refused(reach(ca=other, token=TOKEN), UnavailableError),
    }


def _refused(client: SegmentationClient, kind: type[Exception]) -> bool:
    with client:
        try:
            client.segment(IMAGE, [Prompt.click(3, 4)])
        except kind:
            return True
    return False


def _closed_calls(running: Service) -> dict[str, bool]:
    """Return whether Triton refuses each administrative gRPC call over loopback, by name."""
    found = {}
    with InferenceServerClient(running.triton) as client:
        for name, call in CLOSED_CALLS.items():
            try:
                call(client)
                found[name] = False
            except InferenceServerException as error:
                found[name] = CLOSED in str(error)
    return found


def _closed_paths(http_ports: Sequence[int]) -> dict[str, bool]:
    """Return whether Triton refuses each administrative HTTP path over loopback, by name."""
    found = {}
    for port in http_ports:
        for path in CLOSED_PATHS:
            method = "POST" if path.startswith("repository") else "GET"
            url = f"http://127.0.0.1:{port}/v2/{path}"
            try:
                urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10)
                found[path] = False
            except urllib.error.HTTPError as error:
                found[path] = error.code == FORBIDDEN
    return found
