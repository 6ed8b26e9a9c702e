"""Traces of OpenTelemetry: exported by OTLP when switched on, else not even imported.

The standard environment variables configure the SDK, among them `OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_EXPORTER`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and `OTEL_BSP_SCHEDULE_DELAY`.
"""

from __future__ import annotations

import argparse
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from cpcsam import __version__
from cpcsam.errors import ConfigError

__all__ = ["add_tracing_options", "is_wanted", "traced"]

LOG = logging.getLogger(__name__)
EXPORTER: Final = "OTEL_TRACES_EXPORTER"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
GRPC: Final = "grpc"
FLUSH_S: Final = 2.0
"""Seconds for the last spans at the end; a collector that is gone holds nothing up for longer."""


def add_tracing_options(parser: argparse._ActionsContainer) -> None:
    """Add the option of `traced`."""
    parser.add_argument(
        "--tracing",
        action=argparse.BooleanOptionalAction,
        help="export traces by OTLP, as the OTEL_* variables say (if they name an exporter)",
    )


def is_wanted(option: bool | None, environment: Mapping[str, str]) -> bool:
    """Return whether to trace: as the option says, else whether the variables name an exporter.

    Args:
        option: of the command line; None is not given.
        environment: variables of OpenTelemetry.
    """
    if option is not None:
        return option
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get(EXPORTER)
    return any(map(environment.get, ENDPOINTS)) if not exporter else exporter != "none"


@contextmanager
def traced(option: bool | None, service: str) -> Iterator[None]:
    """Export the spans of this process while the block runs, if that is wanted.

    Args:
        option: of the command line; True requires the extra `tracing`, and None, where the
            variables alone ask for traces, serves on without it.
        service: name of the program, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES`
            gives another.

    Raises:
        ConfigError: the variables ask for what is not there.
        ModuleNotFoundError: the extra is not installed.
    """
    if not is_wanted(option, os.environ):
        yield
        return
    try:
        provider = _provider(service)
    except ModuleNotFoundError as error:
        if option:
            raise
        LOG.warning("no traces, as %s is not installed: cpcsam[tracing]", error.name)
        yield
        return
    from opentelemetry import trace

    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        end = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        end.start()
        end.join(FLUSH_S)


def _provider(service: str) -> Any:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.version": __version__, "service.name": service}
    given = OTELResourceDetector().detect().attributes
    resource = Resource.create({name: given.get(name, value) for name, value in own.items()})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return provider


def _exporter() -> Any:
    """Make the exporter that the variables name.

    Raises:
        ConfigError: an exporter or a protocol that the extra does not install.
    """
    name = os.environ.get(EXPORTER) or "otlp"
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        raise _unknown(EXPORTER, name, "otlp or console, or --no-tracing")
    for variable in PROTOCOLS:
        if protocol := os.environ.get(variable):
            if protocol != GRPC:
                raise _unknown(variable, protocol, GRPC)
            break
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _unknown(variable: str, got: str, expected: str) -> ConfigError:
    return ConfigError.of(variable, got=repr(got), expected=expected, fix="correct or unset it")
