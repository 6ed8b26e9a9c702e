"""Label Studio's machine-learning backend, at /label-studio: health, setup, predict, webhook."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from serving.http.config import HttpConfig
from serving.http.label_studio.endpoints import Endpoints

__all__ = ["routes"]

PREFIX = "/label-studio"


def routes(config: HttpConfig) -> list[BaseRoute]:
    """Return the routes of the backend.

    Without `config.label_studio` it takes tasks whose images are data URIs alone.
    """
    endpoints = Endpoints(config.label_studio)
    return [
        Route(PREFIX, endpoints.health, methods=["GET"]),
        Route(f"{PREFIX}/", endpoints.health, methods=["GET"]),
        Route(f"{PREFIX}/health", endpoints.health, methods=["GET"]),
        Route(f"{PREFIX}/setup", endpoints.setup, methods=["POST"]),
        Route(f"{PREFIX}/predict", endpoints.predict, methods=["POST"]),
        Route(f"{PREFIX}/webhook", endpoints.webhook, methods=["POST"]),
    ]
