"""Addresses of images in tasks: which of them are read, and from where.

Data URIs hold the image. All others must lie on the configured Label Studio, in one of the places
where it keeps images; nothing else is ever fetched.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from cpcsam.errors import ContractError

__all__ = ["data_of_uri", "is_data_uri", "target_of"]

PLACES: Final = ("/data/", "/storage-data/", "/tasks/", "/upload/", "/user-storage/")
"""Paths below which Label Studio serves images: uploads, local files and connected storage."""
DATA_URI: Final = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
CLOUD: Final = ("s3:", "gs:", "azure-blob:")
UNQUOTED: Final = "/%:@!$&'()*+,;=?"
"""What is sent as it is, in paths and queries, besides letters, digits and -._~."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def is_data_uri(reference: str) -> bool:
    """Tell whether a reference holds its image itself."""
    return reference[:5].lower() == "data:"


def data_of_uri(reference: str) -> bytes:
    """Return the image of a data URI.

    Raises:
        ContractError: it is no image in base64.
    """
    match = DATA_URI.match(reference)
    try:
        if match is None:
            raise ValueError
        return base64.b64decode(reference[match.end() :], validate=True)
    except (ValueError, binascii.Error):
        raise ContractError.of(
            "image",
            got="a data URI of another form",
            expected="data:image/TYPE;base64,DATA",
            fix="encode the image so, or upload it",
        ) from None


def target_of(base: str, reference: str, task_id: int | None, seen_at: str = "") -> str:
    """Return the path and query of an image on the Label Studio server.

    Args:
        base: URL of Label Studio.
        reference: a path, or a URL on the same server, or a URI of a cloud storage that is
            connected to Label Studio, which then reads it.
        task_id: of the task, for cloud storage.
        seen_at: the target of the answer that redirects to `reference`.

    Raises:
        ContractError: it lies elsewhere.
    """
    root = urlsplit(base)
    prefix = root.path.rstrip("/")
    if reference.startswith(CLOUD) and task_id is not None:
        try:
            name = base64.urlsafe_b64encode(reference.encode()).decode()
        except UnicodeEncodeError:  # half of a pair of surrogates
            raise _elsewhere(base) from None
        return f"{prefix}/tasks/{task_id}/resolve/?fileuri={name}"
    if reference.startswith("upload/"):
        reference = "/data/" + reference
    if reference.startswith(PLACES):
        reference = prefix + reference
    if not reference.isprintable() or "\\" in reference:
        raise _elsewhere(base)
    here = f"{root.scheme}://{root.netloc}{seen_at or prefix + '/'}"
    try:
        url = urlsplit(urljoin(here, reference))
    except ValueError:  # a host that is none
        raise _elsewhere(base) from None
    path = unquote(url.path)
    if (
        _origin(url) != _origin(root)
        or url.username is not None
        or ".." in path.split("/")
        or "\\" in path
        or not path.startswith(tuple(prefix + place for place in PLACES))
    ):
        raise _elsewhere(base)
    return quote(url.path + (f"?{url.query}" if url.query else ""), safe=UNQUOTED)


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    try:
        return url.scheme, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)
    except ValueError:  # a port that is no number
        return "", None, None


def _elsewhere(base: str) -> ContractError:
    return ContractError.of(
        "image",
        got="an address elsewhere",
        expected=f"a data URI, or an upload, a local file or connected storage of {base}",
        fix="upload the images to Label Studio, or have it read them; a storage must not hand out "
        "presigned URLs",
    )
