"""Static files, held in memory: media types, entity tags (ETag) and caching."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["MEDIA_TYPES", "StaticFile", "StaticFiles"]

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Media type by suffix; files with others are not served."""

REVALIDATED: Final = "no-cache"
IMMUTABLE: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class StaticFile:
    """A file as it is sent.

    Attributes:
        content: the file's bytes.
        media_type: with its charset.
        caching: value of `Cache-Control`.
        etag: quoted digest of the content.
    """

    content: bytes = field(repr=False)
    media_type: str
    caching: str
    etag: str


class StaticFiles:
    """Files of a folder, read once.

    Those in `vendor` have their version in their path, so browsers keep them for a year; others are
    requested again, and answered by 304 where they are the same.

    Args:
        folder: with `index.html`.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _read(path, path.relative_to(folder).parts[0])
            for path in sorted(folder.rglob("*"))
            if path.suffix in MEDIA_TYPES
        }

    async def index(self, request: Request) -> Response:
        """Answer with `index.html`."""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """Answer with the file of the route's `path`.

        Raises:
            HTTPException: 404, there is no such file.
        """
        return self._answer(request, request.path_params["path"])

    def _answer(self, request: Request, path: str) -> Response:
        found = self._files.get(path)
        if found is None:
            raise HTTPException(404)
        headers = {"etag": found.etag, "cache-control": found.caching}
        known = request.headers.get("if-none-match", "")
        if found.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(found.content, headers=headers, media_type=found.media_type)


def _read(path: Path, top: str) -> StaticFile:
    content = path.read_bytes()
    caching = IMMUTABLE if top == "vendor" and path.parent.name != top else REVALIDATED
    digest = sha256(content).hexdigest()[:32]
    return StaticFile(content, MEDIA_TYPES[path.suffix], caching, f'"{digest}"')
