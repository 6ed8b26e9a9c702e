"""Playground: the page at `/`, with which images are segmented in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.routing import BaseRoute, Route

from serving.http.config import HttpConfig
from serving.http.page.static_files import StaticFiles

__all__ = ["STATIC", "routes"]

STATIC: Final = Path(__file__).parent / "static"


def routes(config: HttpConfig) -> list[BaseRoute]:
    """Return the routes of the page, `/` and `/page/PATH`.

    Args:
        config: of the front; the page has no options.
    """
    files = StaticFiles(STATIC)
    return [
        Route("/", files.index, methods=["GET"]),
        Route("/page/{path:path}", files.file, methods=["GET"]),
    ]
