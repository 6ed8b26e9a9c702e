"""OpenAPI 3.1 document of the API, made from the proto's descriptors and comments."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.http.bodies import JSON
from serving.http.config import HttpConfig
from serving.http.openapi.document import document_text

__all__ = ["routes"]

DOCUMENT: Final = document_text()


def routes(config: HttpConfig) -> list[BaseRoute]:
    """Return the route of the document."""
    return [Route("/openapi.json", _document, methods=["GET"])]


async def _document(request: Request) -> Response:
    return Response(DOCUMENT, media_type=JSON)
