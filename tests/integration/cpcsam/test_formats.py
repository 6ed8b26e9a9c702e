"""`cpcsam segment --format` and `write_masks`, against a peer that speaks the API over gRPC."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cpcsam.cli.main import main
from cpcsam.client import Prompt, SegmentationClient, write_masks
from cpcsam.errors import ConfigError, ContractError
from cpcsam.formats import FORMATS, MARKER, format_of
from cpcsam.formats.records import ImageRecord
from cpcsam.images.options import ReadOptions
from cpcsam.v1 import segmentation_pb2 as pb
from tests.support.servers.gateway_peer import Peer, entity, peer_gateway
from training.data.datasets.protocol import open_dataset

SIZE = (12, 16)
BOX = ["--box", "2,3,9,10"]
ENTITY = entity(pb.Box(x0=2, y0=3, x1=9, y1=10), SIZE)
NAMES = ("more/three", "one", "two")


@pytest.fixture
def gateway() -> Iterator[tuple[str, Peer]]:
    with peer_gateway() as running:
        yield running


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), number, np.uint8)).save(folder / f"{name}.png")
    return folder


def segment(gateway: tuple[str, Peer], out: Path, *words: object) -> int:
    options = ["--out", out, "--address", gateway[0], "--timeout", 30]
    return main(["segment", *map(str, [*words, *options])])


class Forgotten(Peer):
    """Knows no caller any more."""

    def Describe(self, request: pb.DescribeRequest, context: object) -> pb.DescribeResponse:  # noqa: N802
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "token: got x")  # type: ignore[attr-defined]
        raise AssertionError


def test_all_formats_hold_the_masks_of_all_images_and_tell_their_losses(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(gateway, out, images, *BOX, "--format", ",".join(FORMATS)) == 0
    told = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == {
        *(name for name in FORMATS if name != "coco"), "coco.json", "one", "two", "more"
    }  # fmt: skip
    for name in FORMATS:
        listed = list(format_of(name).read(out if name == "coco" else out / name))
        assert len(listed) == 3
        for image in listed:
            assert image.file_name.removeprefix("images/").removesuffix(".png") in NAMES
            (mask,) = image.decode(SIZE)
            assert (mask.array(SIZE) == ENTITY).all(), name
    assert f"{out / 'png'}: 3 masks of 3 images" in told.out
    warnings = dict(re.findall(r"warning: (\S+) does not hold: (.*)", told.err))
    assert set(warnings) == set(FORMATS) - {"coco", "geojson"}
    assert warnings["png"] == "scores (3), stability scores (3), prompts (3)"
    assert warnings["cvat"] == "prompts (3)"


def test_formats_of_kept_outputs_need_no_request(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, requests = tmp_path / "out", gateway[1].requests
    assert segment(gateway, out, images, *BOX) == 0
    assert (
        segment(gateway, out, images, *BOX, "--format", "cvat", "--format", "png", "--quiet") == 0
    )
    assert len(requests) == 3 and (out / "cvat/annotations.xml").is_file()
    assert (out / "png/more/three/001.png").is_file()
    assert "warning" not in capsys.readouterr().err
    # Another run replaces the folder as a whole.
    assert segment(gateway, out, images / "one.png", *BOX, "--format", "png") == 0
    assert {str(p.relative_to(out / "png")) for p in (out / "png").rglob("*.png")} == {
        "one/001.png"
    }


def test_a_single_image_gets_a_coco_file_if_it_is_asked_for(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert segment(gateway, out, images / "one.png", *BOX) == 0
    assert not (out / "coco.json").exists()
    assert segment(gateway, out, images / "one.png", *BOX, "--format", "coco") == 0
    coco = COCO(str(out / "coco.json"))
    assert coco.getAnnIds() == [1] and (coco.annToMask(coco.anns[1]) == ENTITY).all()


def test_formats_that_cannot_be_written_fail_before_the_first_request(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "geojson").mkdir(parents=True)
    (out / "geojson/mine.txt").write_text("mine")
    assert segment(gateway, out, images, *BOX, "--format", "geojson") == 2
    assert "geojson: got a folder with other files" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        segment(gateway, out, images, *BOX, "--format", "tiff")
    assert stopped.value.code == 2
    assert "got 'tiff', expected one of coco, png" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("no folder")
    assert segment(gateway, file, images, *BOX, "--format", "cvat") == 2
    assert "got the file" in capsys.readouterr().err
    assert gateway[1].requests == []


def test_written_formats_are_not_segmented_again(
    gateway: tuple[str, Peer], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [images, *BOX, "--format", "png,index,yolo-seg,ome-zarr,geojson"]
    assert segment(gateway, images / "out", *words) == 0
    before = len(gateway[1].requests)
    assert segment(gateway, images / "out", *words) == 0
    told = capsys.readouterr().out
    assert len(gateway[1].requests) == before == 3 and "left out" not in told


def test_coco_json_of_the_command_is_a_dataset_to_train_on(
    gateway: tuple[str, Peer], images: Path
) -> None:
    words = [images, "--class", "cell", "--format", "coco,cvat,label-studio,geojson,yolo-seg"]
    assert segment(gateway, images / "out", *words) == 0
    first, second = pb.Box(x0=1, y0=1, x1=6, y1=5), pb.Box(x0=8, y0=2, x1=12, y1=9)
    expected = np.where(entity(first, SIZE), 2, 0) + np.where(entity(second, SIZE), 1, 0)
    for name in ("coco", "cvat", "label-studio", "geojson", "yolo-seg"):
        root = images / "out/yolo-seg" if name == "yolo-seg" else images
        dataset = open_dataset(name, root)
        assert set(dataset.classes) == {"cell", "entity"}, name
        samples = [s for part in ("train", "validation", "test") for s in dataset.samples(part)]
        assert len(samples) == 3, name
        for sample in samples:
            assert (sample.instances == expected).all(), name
            assert sample.class_names == ("entity", "cell"), name


def test_client_writes_results_by_the_names_of_their_images(
    gateway: tuple[str, Peer], images: Path, tmp_path: Path
) -> None:
    with SegmentationClient(gateway[0]) as client:
        files = [images / f"{name}.png" for name in NAMES]
        results = {file: client.segment(file, [Prompt(box=(2, 3, 9, 10))]) for file in files}
    for name in FORMATS:
        summary = write_masks(results, name, tmp_path / name)
        assert (summary.format, summary.images, summary.masks) == (name, 3, 3)
        assert json.loads((tmp_path / name / MARKER).read_text())["lost"] == summary.lost
        for image in format_of(name).read(tmp_path / name):
            assert image.file_name.removeprefix("images/").removesuffix(".png") in NAMES
            (mask,) = image.decode(SIZE)
            assert (mask.array(SIZE) == ENTITY).all(), name
    assert os.stat(tmp_path / "png").st_mode & 0o777 == 0o755
    summary = write_masks({"absent/a.png": results[files[0]]}, "yolo-seg", tmp_path / "yolo-seg")
    assert summary.lost["images that are not at hand; put them into images/"] == 1
    assert (tmp_path / "yolo-seg/labels/a.txt").is_file()
    with pytest.raises(ContractError, match="results: got none"):
        write_masks({}, "png", tmp_path / "none")
    with pytest.raises(ConfigError, match="format"):
        write_masks(results, "tiff", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_images_of_formats_are_the_pages_that_were_segmented(
    gateway: tuple[str, Peer], tmp_path: Path
) -> None:
    file, chosen = tmp_path / "stack.tif", ReadOptions(page=2)
    pages = [Image.new("L", (SIZE[1], SIZE[0]), 60 * number) for number in range(4)]
    pages[0].save(file, save_all=True, append_images=pages[1:])
    with SegmentationClient(gateway[0]) as client:
        result = client.segment(file, [Prompt(box=(2, 3, 9, 10))], read_options=chosen)
    write_masks({file: result}, "yolo-seg", tmp_path / "yolo", read_options=chosen)
    with Image.open(tmp_path / "yolo/images/stack.png") as image:
        assert (np.asarray(image) == 120).all()
    record = ImageRecord("stack.tif", "stack", (5, 5), [], file)
    with pytest.raises(ContractError, match=r"stack\.tif: got .* pixels, expected 5 x 5, as it"):
        format_of("ome-zarr").write([record], tmp_path)


def test_kept_outputs_are_converted_although_the_class_or_the_server_is_gone(
    images: Path, tmp_path: Path
) -> None:
    out, by_class = tmp_path / "out", ("--class", "cell")
    with peer_gateway() as gateway:
        assert segment(gateway, out, images, *by_class) == 0
        text = (out / "one/masks.json").read_text()
        older = re.sub(r', "model": "d{64}", "intensity": ""', "", text)  # of earlier releases
        assert older != text
        (out / "one/masks.json").write_text(older)
        assert segment(gateway, out, images, *by_class) == 0
        assert len(gateway[1].requests) == len(NAMES)
        gateway[1].classes = ("other",)
        assert segment(gateway, out, images, *by_class, "--format", "geojson") == 0
        assert segment(gateway, out, images, *by_class, "--overwrite") == 2
    with peer_gateway(Forgotten()) as gateway:
        assert segment(gateway, out, images, *by_class, "--format", "png") == 0
    assert segment(gateway, out, images, *by_class, "--format", "cvat") == 0
    assert {"geojson", "png", "cvat"} < {path.name for path in out.iterdir()}


def test_images_of_16_bits_are_shown_and_copied_by_the_policy_of_the_model(
    gateway: tuple[str, Peer], tmp_path: Path
) -> None:
    gateway[1].model.intensity.MergeFrom(pb.Intensity(policy="range", low=0, high=2550))
    values = np.full((64, 96), 1000, np.uint16)
    values[40:], values[0, 0], values[-1, -1] = 2000, 0, 60_000
    Image.fromarray(values).save(tmp_path / "scan.tif")

    written = ["--channels", "0", "--format", "yolo-seg"]

    def shown(out: Path, *words: object) -> list[int]:
        assert segment(gateway, out, tmp_path / "scan.tif", *BOX, *written, *words) == 0
        (copied,) = (out / "yolo-seg").rglob("scan*.png")
        levels = []
        for path in (copied, out / "scan/overlay.png"):
            grey = np.asarray(Image.open(path).convert("L"))
            levels += [int(grey[30, 90]), int(grey[50, 90])]
        return levels

    assert shown(tmp_path / "out") == [100, 200, 100, 200]
    given = shown(tmp_path / "given", "--intensity", "range:0:5100")
    assert given == [50, 100, 50, 100]
    gateway[1].model.digest, gateway[1].model.intensity.high = "e" * 64, 5100
    assert shown(tmp_path / "out") == [50, 100, 50, 100]
