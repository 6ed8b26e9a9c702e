"""`cpcsam segment` on many images, against a peer that speaks the API over real gRPC."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cpcsam.cli.main import main
from cpcsam.v1 import segmentation_pb2 as pb
from tests.support.servers.gateway_peer import (
    LOW_RES,
    ODD_TILE,
    WARNING,
    Peer,
    entity,
    peer_gateway,
)

SIZE = (12, 16)
BOX = ["--box", "2,3,9,10"]
ENTITY = entity(pb.Box(x0=2, y0=3, x1=9, y1=10), SIZE)


@pytest.fixture
def gateway() -> Iterator[tuple[str, Peer]]:
    with peer_gateway() as running:
        yield running


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, one of them in a folder of its own."""
    folder = tmp_path / "images"
    for number, name in enumerate(("one.png", "two.png", "more/three.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), number, np.uint8)).save(folder / name)
    return folder


def segment(gateway: tuple[str, Peer], out: Path, *words: object) -> int:
    options = ["--out", out, "--address", gateway[0], "--timeout", 120]
    return main(["segment", *map(str, [*words, *options])])


def files_below(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_segment_folder_writes_a_folder_per_image_and_one_dataset(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(gateway, out, images, *BOX) == 0
    written = {f"{name}/{file}" for name in ("one", "two", "more/three") for file in
               ("masks.json", "overlay.png")}  # fmt: skip
    assert files_below(out) == {*written, "coco.json"}
    told = capsys.readouterr()
    assert told.err == "" and told.out.count("1 mask (mean score 0.750)") == 3
    assert told.out.splitlines()[-1] == (
        f"3 images: 3 segmented, 0 kept, 0 failed; {out / 'coco.json'}"
    )
    whole = COCO(str(out / "coco.json"))
    assert [one["file_name"] for one in whole.loadImgs(whole.getImgIds())] == [
        "more/three.png",
        "one.png",
        "two.png",
    ]
    single = COCO(str(out / "one/masks.json"))
    for coco in (whole, single):
        for annotation in coco.loadAnns(coco.getAnnIds()):
            assert (coco.annToMask(annotation).astype(bool) == ENTITY).all()


def test_segment_processes_images_concurrently(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    gateway[1].meet = threading.Barrier(3)
    assert segment(gateway, tmp_path / "out", images, "--class", "cell", "--jobs", 3) == 0


def test_segment_with_a_broken_image_names_it_and_segments_the_others(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = images / "broken.png", tmp_path / "out"
    broken.write_bytes(b"broken")
    assert segment(gateway, out, images / "*.png", *BOX) == 3
    told = capsys.readouterr()
    assert told.err == (
        f"cpcsam segment: {broken}: image_bytes: got text, expected x; send a PNG\n"
    )
    assert "3 images: 2 segmented, 0 kept, 1 failed" in told.out
    assert {path.name for path in out.iterdir()} == {"one", "two", "coco.json"}
    assert segment(gateway, tmp_path / "none", broken, *BOX) == 2
    assert not (tmp_path / "none").exists()


def test_segment_again_requests_only_missing_outputs(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, requests = tmp_path / "out", gateway[1].requests

    def asked(*words: object) -> int:
        before = len(requests)
        assert segment(gateway, out, images, *words) == 0
        return len(requests) - before

    assert asked(*BOX) == 3
    assert asked(*BOX) == 0
    assert "3 images: 0 segmented, 3 kept, 0 failed" in capsys.readouterr().out
    (out / "two/masks.json").unlink()
    assert asked(*BOX) == 1
    Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(images / "one.png")
    assert asked(*BOX) == 1
    (out / "one/masks.json").write_text("[1, 2]")
    assert asked(*BOX) == 1
    assert asked("--box", "2,3,9,11") == 3
    assert asked("--box", "2,3,9,11", "--overwrite") == 3
    assert asked("--box", "2,3,9,11", "--png") == 3
    assert asked("--box", "2,3,9,11", "--png") == 0
    gateway[1].model.digest = "e" * 64
    assert asked("--box", "2,3,9,11", "--png") == 3


def test_segment_output_options_write_masks_polygons_and_logits(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    out, words = tmp_path / "out", [images / "one.png", *BOX, "--box", "1,1,4,4"]
    assert segment(gateway, out, *words, "--png", "--polygons", "--logits", "--no-overlay") == 0
    assert files_below(out) == {
        "one/masks.json",
        "one/logits.npz",
        "one/masks/001.png",
        "one/masks/002.png",
    }
    with Image.open(out / "one/masks/001.png") as picture:
        assert picture.mode == "1" and (np.array(picture) == ENTITY).all()
    first, _ = json.loads((out / "one/masks.json").read_text())["annotations"]
    assert first["rings"][0] == [[2, 3], [9, 3], [9, 10], [2, 10]] and len(first["rings"]) == 2
    with np.load(out / "one/logits.npz") as arrays:
        assert (arrays["low_res_masks"] == LOW_RES).all() and np.isnan(arrays["parts"]).all()
    logits = ["--mask-input", out / "one/logits.npz"]
    assert segment(gateway, tmp_path / "better", *words, *logits) == 0
    for prompt in gateway[1].requests[-1].prompts:
        assert prompt.mask_input.logits == LOW_RES.tobytes()
        assert not prompt.mask_input.HasField("part")
    assert segment(gateway, out, *words[:3], "--png") == 0
    assert files_below(out) == {"one/masks.json", "one/overlay.png", "one/masks/001.png"}


def test_files_that_are_no_archives_of_logits_are_refused(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "array.npy", LOW_RES)
    (tmp_path / "empty.npz").touch()
    for name in ("array.npy", "empty.npz"):
        words = [images / "one.png", *BOX, "--mask-input", tmp_path / name]
        assert segment(gateway, tmp_path / "out", *words) == 2
        assert f"{name}: got something else, expected a logits.npz" in capsys.readouterr().err


def test_logits_of_tiles_keep_their_part_of_the_image(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    words = [images / "one.png", *BOX, "--tile-size", 8]
    assert segment(gateway, tmp_path / "out", *words, "--logits") == 0
    logits = ["--mask-input", tmp_path / "out/one/logits.npz"]
    assert segment(gateway, tmp_path / "better", *words, *logits) == 0
    part = gateway[1].requests[-1].prompts[0].mask_input.part
    assert (part.x0, part.y0, part.x1, part.y1) == (0, 0, 8, 8)


def test_class_and_everything_options_reach_the_request(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    image = images / "one.png"
    options = ["--points-per-side", 8, "--min-area", 3, "--min-iou", 0.5, "--tile-size", 100]
    assert segment(gateway, tmp_path / "a", image, "--everything", *options) == 0
    sent = gateway[1].requests[-1]
    assert (sent.everything.points_per_side, sent.everything.min_area) == (8, 3)
    assert sent.everything.min_iou == 0.5 and sent.tile_size == 100
    names = ["--class", "cell", "--class", "nucleus", "--threshold", 0.25]
    assert segment(gateway, tmp_path / "b", image, *names) == 0
    sent = gateway[1].requests[-1]
    assert list(sent.classes) == ["cell", "nucleus"] and sent.class_search.threshold == 0.25
    found = COCO(str(tmp_path / "b/one/masks.json"))
    assert [one["name"] for one in found.loadCats(found.getCatIds())] == ["cell", "nucleus"]


def test_unknown_class_is_reported_once(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(gateway, tmp_path / "out", images, "--class", "cell", "--class", "dog") == 2
    assert capsys.readouterr().err == (
        "cpcsam segment: --class: got dog, expected cell, nucleus; "
        "correct it, or cpcsam classes add\n"
    )
    assert gateway[1].requests == []


def test_warnings_of_the_server_are_printed_once_on_stderr(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [images, *BOX, "--tile-size", ODD_TILE, "--jobs", 1]
    assert segment(gateway, tmp_path / "out", *words) == 0
    told = capsys.readouterr()
    assert re.fullmatch(rf"cpcsam segment: .*\.png: warning: {re.escape(WARNING)}\n", told.err)
    assert told.out.count("1 mask") == 3
    assert segment(gateway, tmp_path / "quiet", *words, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_tile_size_is_sent_only_if_it_is_given(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    for words, given in (((), False), (("--tile-size", 0), True)):
        assert segment(gateway, tmp_path / str(given), images / "one.png", *BOX, *words) == 0
        assert gateway[1].requests[-1].HasField("tile_size") is given


def test_quiet_prints_nothing(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(gateway, tmp_path / "out", images, *BOX, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_progress_bar_is_shown_on_a_terminal(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    words = ["segment", images, *BOX, "--out", tmp_path / "out", "--address", gateway[0]]
    with subprocess.Popen(
        [sys.executable, "-m", "cpcsam", *map(str, words)], stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal ends with the process
            while part := os.read(ours, 1000):
                shown += part
        told, _ = process.communicate(timeout=300)
    os.close(ours)
    assert process.returncode == 0 and told.count(b"1 mask (mean score 0.750)") == 3
    assert b"0/3" in shown and b"3/3" in shown and b"image" in shown


def test_error_common_to_all_images_ends_the_run(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with peer_gateway() as gateway:
        pass
    words = ["segment", images, *BOX, "--address", gateway[0], "--timeout", 0.3, "--jobs", 1]
    assert main([*map(str, words), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and f"{gateway[0]}: got" in told.err and told.out == ""


def test_interrupted_run_prints_one_line_and_can_be_resumed(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    out, peer = tmp_path / "out", gateway[1]
    peer.meet = threading.Barrier(2)  # the third image waits for a fourth
    words = ["segment", images, *BOX, "--out", out, "--address", gateway[0], "--jobs", 2]
    process = subprocess.Popen(
        [sys.executable, "-m", "cpcsam", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(peer.requests) < 3 or len(list(out.rglob("masks.json"))) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert errors == "cpcsam segment: interrupted\n"
    peer.meet.abort()
    peer.meet = threading.Barrier(1)
    assert segment(gateway, out, images, *BOX) == 0
    assert len(peer.requests) == 4
