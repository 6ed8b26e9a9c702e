"""Fetch the official SAM checkpoints, or tell what a checkpoint is."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
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
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.errors import ArtifactError, ConfigError
from cpcsam.model.official_checkpoints import (
    OFFICIAL,
    OfficialCheckpoint,
    by_file_name,
    identify,
    mismatch,
)

__all__ = ["fetch", "main", "verify"]

PROG = "python -m training.checkpoints"
EXAMPLES = """examples:
  python -m training.checkpoints list
  python -m training.checkpoints fetch vit_b
  python -m training.checkpoints fetch vit_h --out /data/sam --url https://mirror.example/sam_h.pth
  python -m training.checkpoints verify weights/sam_vit_b_01ec64.pth

fetch writes NAME.part and renames it when its size and SHA-256 are right; started again after an
interruption, it goes on where it stopped. HTTPS_PROXY is heeded.
"""
CHUNK: Final = 1 << 18
INTERRUPTED: Final = 130
RESUME: Final = "; what has arrived is kept, the same command goes on from there"


def fetch(
    known: OfficialCheckpoint, folder: Path, url: str | None = None, *, timeout_s: float = 30.0
) -> Path:
    """Download an official checkpoint, unless it is there already.

    A connection that breaks is taken up again as long as something arrives; a server that does
    not know ranges begins anew.

    Args:
        known: what to fetch.
        folder: where to, made if need be.
        url: where from; None takes the published address.
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
            part.unlink()
            raise ArtifactError.of(
                url,
                got=f"sha256 {found}",
                expected=f"{known.sha256} of the official {known.model_size}",
                fix="it was removed; fetch it again, or from another --url",
            )
        os.replace(part, file)
    return file


def verify(file: Path, official: Mapping[str, OfficialCheckpoint] = OFFICIAL) -> str:
    """Tell in words what a base is: an official file by its digest, else any by its layout.

    Args:
        file: a checkpoint file, or an artifact of kind `checkpoint`.
        official: the known files.

    Raises:
        ArtifactError: it cannot be used, or has an official name and other content.
        ConfigError: an image size that the contract does not know.
    """
    from cpcsam.model.base_checkpoint import base_digest, inspect_base  # torch: the rest needs none

    known = identify(file, official) if file.is_file() else None
    if known is not None:
        return f"the official {known.model_size}, sha256 {known.sha256}"
    model_size, image_size = inspect_base(file)
    claimed = by_file_name(file.name, official) if file.is_file() else None
    if claimed is not None:
        raise ArtifactError(
            f"{file}: {mismatch(file, claimed)}, or rename it if it is your own {model_size}"
        )
    return f"{model_size} at {image_size}, not an official file, sha256 {base_digest(file)}"


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
    """Open the part to append to it, for one process at a time."""
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
    """Append to the part until it has its size; requests go on as long as each brings some."""
    if _length(target) > known.size_bytes:
        target.truncate(0)
    needed = known.size_bytes - _length(target)
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise _no_room(part, f"{free} bytes free", needed)
    while (before := _length(target)) < known.size_bytes:
        with _answer(known, url, before, timeout_s) as response:
            start = _start(response, known, url, before)
            try:
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
    """Append what arrives, and see it onto the disk."""
    with tqdm(
        total=known.size_bytes, initial=start, desc=known.file_name, unit="B", unit_scale=True
    ) as progress:
        for chunk in _chunks(response, known.size_bytes - start):
            target.write(chunk)
            progress.update(len(chunk))
        target.flush()
        os.fsync(target.fileno())


def _chunks(response: HTTPResponse, count: int) -> Iterator[bytes]:
    """What arrives of `count` bytes until the connection ends or breaks."""
    while count > 0:
        try:
            chunk = response.read(min(CHUNK, count))
        except (OSError, HTTPException):
            return
        if not chunk:
            return
        count -= len(chunk)
        yield chunk


def _answer(known: OfficialCheckpoint, url: str, offset: int, timeout_s: float) -> HTTPResponse:
    """Ask for the file from `offset` on."""
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
    """Tell from which byte of the file the answer starts; refuse another file's before it comes."""
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


def _parser(official: Mapping[str, OfficialCheckpoint]) -> ArgumentParser:
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetching = commands.add_parser("fetch", help="download one and check its SHA-256")
    fetching.add_argument("name", choices=sorted(official), help="which one")
    fetching.add_argument(
        "--out", type=Path, default=Path("weights"), metavar="DIR", help="default: weights"
    )
    fetching.add_argument("--url", help="another address of the same file")
    verifying = commands.add_parser("verify", help="tell what a checkpoint is")
    verifying.add_argument("file", type=Path, help="a file, or an artifact of kind checkpoint")
    commands.add_parser("list", help="list the official checkpoints")
    return parser


def main(
    arguments: list[str] | None = None, official: Mapping[str, OfficialCheckpoint] = OFFICIAL
) -> int:
    """Run the command on the known files."""
    options = _parser(official).parse_args(arguments)

    def command() -> None:
        if options.command == "fetch":
            known = official[options.name]
            file = fetch(known, options.out, options.url)
            print(f"{file}: the official {known.model_size}, sha256 {known.sha256}")
        elif options.command == "verify":
            print(f"{options.file}: {verify(options.file, official)}")
        else:
            for known in official.values():
                print(known.model_size, known.file_name, known.size_bytes, known.sha256, known.url)

    try:
        return exit_code_of(command, PROG)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted{RESUME}", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
