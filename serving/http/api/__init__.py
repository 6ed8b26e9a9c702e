"""Routes of the API: segmentation, classes, description and health."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from serving.http.api.calls import (
    add_class,
    describe,
    everything,
    list_classes,
    remove_class,
    segment,
)
from serving.http.api.health import live, ready
from serving.http.config import HttpConfig

__all__ = ["routes"]


def routes(config: HttpConfig) -> list[BaseRoute]:
    """Return the routes of the API."""
    return [
        Route("/v1/segment", segment, methods=["POST"]),
        Route("/v1/everything", everything, methods=["POST"]),
        Route("/v1/classes", list_classes, methods=["GET"]),
        Route("/v1/classes", add_class, methods=["POST"]),
        Route("/v1/classes/{name:path}", remove_class, methods=["DELETE"]),
        Route("/v1/describe", describe, methods=["GET"]),
        Route("/health/live", live, methods=["GET"]),
        Route("/health/ready", ready, methods=["GET"]),
    ]
