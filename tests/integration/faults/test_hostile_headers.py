"""Headers of hostile files: each is read or refused within bounds of time and memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from subprocess import Popen
from threading import get_native_id
from time import monotonic

import numpy as np
import pytest
from PIL import Image

from benchmarks.chaos.services import run_delay_s
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import LimitError
from cpcsam.images.options import ReadOptions
from cpcsam.images.reading import read_header
from serving.gateway.inference import header_process
from serving.gateway.inference.header_process import HeaderProcesses
from serving.gateway.inference.image_headers import HeaderReader, is_plain
from serving.gateway.limits import MAX_SIDE, Limits
from serving.gateway.scheduling.executors import open_executors
from tests.support.image_files import saved, tiff

LIMITS = Limits()


@pytest.fixture
async def reader() -> AsyncIterator[HeaderReader]:
    with open_executors() as executors:
        reader = HeaderReader(LIMITS, executors)
        yield reader
        reader.close()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(before: bytes = b"", size: tuple[int, int] = (8, 8)) -> bytes:
    """A grey PNG file with these chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 0, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + before + end


def ome(planes: int, first: int = 0) -> bytes:
    """An OME-TIFF file of one page that states many, or one far away."""
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels '
        'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeC="1" SizeT="1" '
        f'SizeZ="{planes}"><TiffData IFD="0" FirstZ="{first}"/></Pixels></Image></OME>'
    )
    return tiff(np.zeros((8, 8), np.uint8), description=text, metadata=None)


GIF = b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x80\0\0" + bytes(6)
FRAME = b"\x2c" + struct.pack("<HHHH", 0, 0, 8, 8) + b"\0\x02"
HOSTILE = {
    "OME of a billion planes": ome(10**9),
    "OME with one of them": ome(10**9, first=10**9 - 1),
    "GIF of tiny blocks": GIF + FRAME + b"\x01\0" * 16_000_000 + b"\0;",
    "JPEG of empty segments": b"\xff\xd8\xff" + b"\xe0\0\2\xff" * 7_000_000,
    "PNG of empty chunks": png(chunk(b"gAMA", b"") * 2_700_000),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_read_of_a_hostile_file_ends_soon_and_leaves_the_loop_alone(
    reader: HeaderReader, name: str
) -> None:
    assert not is_plain(HOSTILE[name])
    reading = asyncio.create_task(reader.read(lambda: HOSTILE[name], None, "client"))
    lags, this_thread = [], get_native_id()
    while not reading.done():
        before, waited_s = monotonic(), run_delay_s(os.getpid(), this_thread)
        await asyncio.sleep(0.01)
        # A loop that waits for a core is late as well.
        waited_s = run_delay_s(os.getpid(), this_thread) - waited_s
        lags.append(monotonic() - before - waited_s)
    (outcome,) = await asyncio.gather(reading, return_exceptions=True)
    # On a fast machine some are read in time.
    assert isinstance(outcome, tuple | ContractError), outcome
    # Threads that hold the interpreter may wait for a core, too: the longest lags are theirs.
    assert sorted(lags)[len(lags) * 9 // 10] < 0.05, sorted(lags)
    assert await reader.read(lambda: PNG, None, "client") == (
        PNG,
        read_header(PNG),
        digest(PNG),
    )


PNG = png()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_read_equals_the_reader_that_decodes(reader: HeaderReader) -> None:
    stack = tiff(np.zeros((5, 20, 30), np.uint16), metadata={"axes": "TYX"}, imagej=True)
    jpeg = saved(Image.new("RGB", (30, 20)), "JPEG", comment=b"x" * 60_000)
    for data, options in ((PNG, None), (jpeg, None), (stack, None), (stack, ReadOptions(3, (0,)))):
        assert await reader.read(partial(bytes, data), options, "client") == (
            data,
            read_header(data, options),
            digest(data),
        )


def test_idle_process_ends_and_the_next_file_is_read_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, start = [], header_process._start

    def noting(idle_s: float) -> Popen[bytes]:
        started.append(start(idle_s))
        return started[-1]

    monkeypatch.setattr(header_process, "_start", noting)
    processes = HeaderProcesses(idle_s=0.2)
    with closing(processes):
        for number in range(1, 4):
            assert processes.read(PNG) == read_header(PNG)
            assert len(started) == number
            assert os.getpriority(os.PRIO_PROCESS, started[-1].pid) > 0
            assert started[-1].wait(timeout=60) == -signal.SIGALRM


def test_process_that_ends_of_idleness_as_a_file_comes_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = HeaderProcesses(idle_s=0.2)
    with closing(processes):
        processes.read(PNG)
        (idle,) = processes._idle
        idle.wait(timeout=60)
        # As if it had ended between the look at it and the file.
        monkeypatch.setattr(idle, "poll", lambda: None)
        assert processes.read(PNG) == read_header(PNG)


async def test_read_of_a_missing_page_or_too_many_bytes_or_pixels_is_refused(
    reader: HeaderReader,
) -> None:
    stack = tiff(np.zeros((5, 20, 30), np.uint16), metadata={"axes": "TYX"}, imagej=True)
    with pytest.raises(ContractError, match="^page: got 9, expected 0 to 4"):
        await reader.read(lambda: stack, ReadOptions(9), "client")
    with pytest.raises(LimitError, match=f"sides of at most {MAX_SIDE}"):
        await reader.read(lambda: png(size=(1, MAX_SIDE + 1)), None, "client")
    with pytest.raises(LimitError, match=r"pixels, expected at most \d+ \(width times height\)"):
        await reader.read(
            lambda: GIF[:6] + b"\xff\xff\xff\xff" + GIF[10:] + FRAME + b"\0;", None, "client"
        )
    with pytest.raises(LimitError, match="bytes, expected at most"):
        await reader.read(lambda: bytes(LIMITS.max_image_bytes + 1), None, "client")
