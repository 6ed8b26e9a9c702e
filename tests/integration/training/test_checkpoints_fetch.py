"""Official checkpoints fetched from a file server on the loopback."""

from __future__ import annotations

import fcntl
import hashlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpcsam.model.official_checkpoints import OfficialCheckpoint
from tests.support.paths import ROOT
from tests.support.servers.file_server import (
    CONTENT,
    NAME,
    OTHER,
    Served,
    entry,
    error_line,
    file_server,
    run,
)
from training.checkpoints import fetch


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as served:
        yield served


def fails(capsys: pytest.CaptureFixture[str], folder: Path, known: OfficialCheckpoint) -> str:
    """The message of a fetch that fails and leaves no file under the official name."""
    assert run("fetch", "vit_x", "--out", folder, known=known) == 2
    assert not (folder / NAME).exists()
    return error_line(capsys)


def test_a_file_is_fetched_once(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "weights"
    for _ in range(2):
        assert run("fetch", "vit_x", "--out", folder, known=entry(served.url)) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"{folder / NAME}: the official vit_x, sha256 ")
    assert served.requests == [None]
    assert (folder / NAME).read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == [NAME]


def test_progress_is_shown(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(entry(served.url), tmp_path)
    shown = capsys.readouterr().err
    assert f"{NAME}: 100%" in shown and "1.00M/1.00M" in shown


def test_another_address_is_given_by_option(served: Served, tmp_path: Path) -> None:
    known = entry("http://127.0.0.1:9/unused")
    elsewhere = served.url.replace("/file", "/elsewhere")
    assert run("fetch", "vit_x", "--out", tmp_path, "--url", elsewhere, known=known) == 0
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_part_is_resumed_by_range(served: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:400_000])
    elsewhere = served.url.replace("/file", "/elsewhere")
    assert fetch(entry(elsewhere), tmp_path).read_bytes() == CONTENT
    assert served.requests == ["bytes=400000-"] * 2


def test_a_broken_connection_is_taken_up_again(served: Served, tmp_path: Path) -> None:
    served.breaks_after = [300_000, 200_000]
    assert fetch(entry(served.url), tmp_path).read_bytes() == CONTENT
    assert served.requests == [None, "bytes=300000-", "bytes=500000-"]


def test_a_second_command_goes_on_where_the_first_was_cut_off(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.breaks_after = [300_000, 0]
    said = fails(capsys, tmp_path, entry(served.url))
    assert "got a broken connection after 300000 of 1000003 bytes" in said
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:300_000]
    assert run("fetch", "vit_x", "--out", tmp_path, known=entry(served.url)) == 0
    assert served.requests[2:] == ["bytes=300000-"]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def program(folder: Path, known: OfficialCheckpoint) -> str:
    """Python that fetches as the command does, from another table."""
    return (
        "import sys\nsys.modules['torch'] = None\n"
        "from training.checkpoints import main\n"
        "from cpcsam.model.official_checkpoints import OfficialCheckpoint\n"
        f"sys.exit(main(['fetch', 'vit_x', '--out', {str(folder)!r}], {{'vit_x': {known!r}}}))"
    )


def test_fetching_needs_no_torch(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-c", program(tmp_path, entry(served.url))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("by", "code", "says"),
    [(signal.SIGKILL, -9, ""), (signal.SIGINT, 130, "checkpoints: interrupted; what has arrived")],
)
def test_an_interrupted_fetch_is_resumed(
    by: signal.Signals, code: int, says: str, served: Served, tmp_path: Path
) -> None:
    served.breaks_after, served.hangs = [600_000], True
    part = tmp_path / f"{NAME}.part"
    with subprocess.Popen(
        [sys.executable, "-c", program(tmp_path, entry(served.url))],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not part.exists() or part.stat().st_size == 0:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(by)
        _, said = process.communicate()
    assert process.returncode == code
    assert says in said and "Traceback" not in said
    served.hangs, kept = False, part.stat().st_size
    assert 0 < kept <= 600_000 and not (tmp_path / NAME).exists()
    assert fetch(entry(served.url), tmp_path).read_bytes() == CONTENT
    assert served.requests == [None, f"bytes={kept}-"]


def test_a_connection_that_stalls_is_given_up_and_taken_up(served: Served, tmp_path: Path) -> None:
    served.breaks_after, served.hangs = [524_288], True
    file = fetch(entry(served.url), tmp_path, timeout_s=2.0)
    assert file.read_bytes() == CONTENT
    assert served.requests == [None, "bytes=524288-"]


def test_a_server_without_ranges_begins_anew(served: Served, tmp_path: Path) -> None:
    served.ranges = False
    (tmp_path / f"{NAME}.part").write_bytes(OTHER[:400_000])
    assert fetch(entry(served.url), tmp_path).read_bytes() == CONTENT
    assert served.requests == ["bytes=400000-"]


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.ranges, served.breaks_after = False, [300_000] * 9
    assert "got a broken connection" in fails(capsys, tmp_path, entry(served.url))
    assert len(served.requests) == 2


def test_a_server_that_tells_no_length(served: Served, tmp_path: Path) -> None:
    served.tells_length, served.breaks_after = False, [300_000]
    assert fetch(entry(served.url), tmp_path).read_bytes() == CONTENT
    assert served.requests == [None, "bytes=300000-"]


def test_a_complete_part_is_only_verified(served: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(entry(served.url), tmp_path).read_bytes() == CONTENT
    assert served.requests == []


def test_a_part_that_is_too_long_begins_anew(served: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT + b"more")
    assert fetch(entry(served.url), tmp_path).read_bytes() == CONTENT
    assert served.requests == [None]


def test_another_digest_is_refused_and_not_resumed(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.content = OTHER
    said = fails(capsys, tmp_path, entry(served.url))
    found, expected = (hashlib.sha256(content).hexdigest() for content in (OTHER, CONTENT))
    assert f"got sha256 {found}, expected {expected} of the official vit_x" in said
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 1000])
@pytest.mark.parametrize("length", [900_000, 1_100_000])
def test_a_file_of_another_length_is_refused_before_it_comes(
    kept: int, length: int, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.content = bytes(length)
    part = tmp_path / f"{NAME}.part"
    part.write_bytes(CONTENT[:kept])
    said = fails(capsys, tmp_path, entry(served.url))
    if kept:
        assert f"got bytes 1000-{length - 1}/{length}, expected bytes 1000-1000002/1000003" in said
    else:
        assert f"got a file of {length} bytes, expected one of 1000003" in said
    assert part.read_bytes() == CONTENT[:kept]


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (503, "Service Unavailable")])
def test_an_error_of_the_server_is_told(
    status: int, reason: str, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.status = status
    said = fails(capsys, tmp_path, entry(served.url))
    assert said == (
        f"python -m training.checkpoints: {served.url}: got HTTP {status} {reason}, expected "
        f"{NAME}; check network and proxy, or give another --url"
    )


def test_an_error_later_keeps_what_has_arrived(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    served.status = 500
    assert fails(capsys, tmp_path, entry(served.url)).endswith(
        "the same command goes on from there"
    )
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:1000]


def test_a_host_that_does_not_answer_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        said = fails(capsys, tmp_path, entry(f"http://127.0.0.1:{port}/file"))
    assert "got no answer ([Errno 111] Connection refused)" in said
    said = fails(capsys, tmp_path, entry("http://nowhere.invalid/file"))
    assert re.search(r"http://nowhere.invalid/file: got no answer \(.+\), expected", said)


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/passwd", "host/file", "http://["])
def test_an_address_that_is_not_of_http_is_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"--url: got {url}, expected http://" in fails(capsys, tmp_path, entry(url))


def test_a_full_disk_is_told(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{NAME}.part").symlink_to("/dev/full")
    said = fails(capsys, tmp_path, entry(served.url))
    assert "got No space left on device, expected room for 1000003 bytes; make room" in said


def test_a_disk_without_room_is_told_before_it_begins(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, tmp_path, entry(served.url, size=1 << 60))
    assert re.search(rf"got \d+ bytes free, expected room for {1 << 60} bytes", said)
    assert served.requests == []


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    known = entry("http://127.0.0.1:9/file")
    assert run("fetch", "vit_x", "--out", tmp_path / "file", known=known) == 2
    assert error_line(capsys).endswith(f"{tmp_path / 'file'}: File exists")


def test_another_file_of_that_name_is_kept(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).write_bytes(OTHER)
    assert run("fetch", "vit_x", "--out", tmp_path, known=entry(served.url)) == 2
    assert f"{tmp_path / NAME}: not the official vit_x: got 1000003 bytes" in error_line(capsys)
    assert (tmp_path / NAME).read_bytes() == OTHER
    assert served.requests == []


def test_two_fetches_do_not_mix(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / f"{NAME}.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "got another process that writes it" in fails(capsys, tmp_path, entry(served.url))
    assert served.requests == []
