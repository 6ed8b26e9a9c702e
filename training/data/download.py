"""Resumable, verified download of an official checkpoint over HTTP.

pooch does not serve here: an interrupted download of it starts over from the first byte (1.9.0
removes what has arrived and sends no Range), which for ViT-H is 2.4 GiB.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from cpcsam import __version__
from cpcsam.artifacts.manifest import sha256_file
from cpcsam.errors import ArtifactError, ConfigError
from cpcsam.model.official_checkpoints import OfficialCheckpoint, mismatch

__all__ = ["RESUME", "fetch"]

CHUNK: Final = 1 << 18
RESUME: Final = "; what has arrived is kept, the same command goes on from there"


def fetch(
    known: OfficialCheckpoint, folder: Path, url: str | None = None, *, timeout_s: float = 30.0
) -> Path:
    """Download an official checkpoint, unless it is there already.

    A broken connection is retried as long as each try brings bytes; a server without support of
    HTTP ranges starts over.

    Args:
        known: the checkpoint.
        folder: destination, made if need be.
        url: source; None takes the published address.
        timeout_s: to connect, and for every further piece to arrive.

    Returns:
        The file, of the right size and digest.

    Raises:
        ConfigError: `url` is not of HTTP.
        ArtifactError: no answer, an error or another file as answer, no room, or another file
            of that name in `folder`.
    """
    url = known.url if url is None else url
    _check_url(url)
    file = folder / known.file_name
    if file.exists():
        difference = mismatch(file, known)
        if difference is not None:
            raise ArtifactError(f"{file}: {difference}")
        return file
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    with _locked(part) as target:
        _fill(target, part, known, url, timeout_s)
        found = sha256_file(part)
        if found != known.sha256:
            # A wrong byte may be anywhere, so there is nothing to resume from.
            part.unlink()
            raise ArtifactError.of(
                url,
                got=f"sha256 {found}",
                expected=f"{known.sha256} of the official {known.model_size}",
                fix="it was removed; fetch it again, or from another --url",
            )
        os.replace(part, file)
    return file


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError.of(
            "--url", got=url, expected="http://… or https://…", fix="give the file's address"
        )


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open the partial file for appending, locked against other processes."""
    with part.open("ab") as target:
        try:
            fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError.of(
                str(part),
                got="another process that writes it",
                expected="one fetch at a time",
                fix="wait for the other to end",
            ) from error
        yield target


def _fill(
    target: BinaryIO, part: Path, known: OfficialCheckpoint, url: str, timeout_s: float
) -> None:
    """Append to the partial file until it is complete; retry while each request brings bytes."""
    # Longer than the file can be, so it is the beginning of another one.
    if _length(target) > known.size_bytes:
        target.truncate(0)
    needed = known.size_bytes - _length(target)
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise _no_room(part, f"{free} bytes free", needed)
    while (before := _length(target)) < known.size_bytes:
        with _request(known, url, before, timeout_s) as response:
            start = _start(response, known, url, before)
            try:
                # The server ignored the range and sends the file from its first byte.
                if start < before:
                    target.truncate(start)
                _append(target, response, known, start)
            except OSError as error:
                raise _no_room(part, error.strerror, known.size_bytes) from error
        after = _length(target)
        if after <= before:
            raise ArtifactError.of(
                url,
                got=f"a broken connection after {after} of {known.size_bytes} bytes",
                expected="the whole file",
                fix=f"try again later, or give another --url{RESUME}",
            )


def _append(
    target: BinaryIO, response: HTTPResponse, known: OfficialCheckpoint, start: int
) -> None:
    """Append the response's body and flush it to disk."""
    with tqdm(
        total=known.size_bytes, initial=start, desc=known.file_name, unit="B", unit_scale=True
    ) as progress:
        for chunk in _chunks(response, known.size_bytes - start):
            target.write(chunk)
            progress.update(len(chunk))
        target.flush()
        # Before the rename: a crash must not leave the final name with bytes missing.
        os.fsync(target.fileno())


def _chunks(response: HTTPResponse, count: int) -> Iterator[bytes]:
    """Yield up to `count` bytes until the connection ends or breaks."""
    while count > 0:
        try:
            chunk = response.read(min(CHUNK, count))
        except (OSError, HTTPException):
            # A broken connection is no error yet: the caller resumes from what has arrived.
            return
        if not chunk:
            return
        count -= len(chunk)
        yield chunk


def _request(known: OfficialCheckpoint, url: str, offset: int, timeout_s: float) -> HTTPResponse:
    """Request the file from `offset` on."""
    headers = {"User-Agent": f"cpcsam/{__version__}"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        request = Request(url, headers=headers)
        response: HTTPResponse = urlopen(request, timeout=timeout_s)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            got = f"HTTP {error.code} {error.reason}"
            error.close()
        else:
            got = f"no answer ({error.reason if isinstance(error, URLError) else error})"
        raise ArtifactError.of(
            url,
            got=got,
            expected=known.file_name,
            fix=f"check network and proxy, or give another --url{RESUME if offset else ''}",
        ) from error
    return response


def _start(response: HTTPResponse, known: OfficialCheckpoint, url: str, offset: int) -> int:
    """Return the byte that the response starts at; refuse another file before its body."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        got = response.headers.get("Content-Range", "no Content-Range")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", got)
        if match and int(match[1]) == offset and match[2] in ("*", str(known.size_bytes)):
            return offset
        expected = f"bytes {offset}-{known.size_bytes - 1}/{known.size_bytes}"
    else:
        length = response.headers.get("Content-Length", str(known.size_bytes))
        if length == str(known.size_bytes):
            return 0
        got, expected = f"a file of {length} bytes", f"one of {known.size_bytes}"
    raise ArtifactError.of(
        url,
        got=got,
        expected=f"{expected}, the official {known.model_size}",
        fix="give the address of that file by --url",
    )


def _no_room(part: Path, got: str | None, needed: int) -> Exception:
    return ArtifactError.of(
        str(part),
        got=got,
        expected=f"room for {needed} bytes",
        fix=f"make room, or give another --out{RESUME}",
    )


def _length(target: BinaryIO) -> int:
    return target.seek(0, os.SEEK_END)
