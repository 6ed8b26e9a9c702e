"""Classes over gRPC: added from three images, found at once and after a restart, as by torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from cpcsam.artifacts.versions import resolve_version
from cpcsam.automatic.predictor import segment_image
from cpcsam.automatic.vocabulary_io import load_vocabulary
from cpcsam.cli.main import main as cli
from cpcsam.client import ClassSearch, Example, SegmentationClient, encode_image
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import (
    ExistsError,
    ForbiddenError,
    LimitError,
    NotFoundError,
    PreconditionError,
)
from cpcsam.model.torch_backend import TorchBackend
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from demo.scene import load_scene
from serving.gateway.auth.tokens import EDITOR, USER, digest_of
from serving.gateway.config import GatewayConfig
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.support.paths import ROOT
from tests.support.servers.triton_calls import wait_until_counted
from training.data.sample import Sample, read_pair
from training.data.sources import cut_region
from training.evaluation.one_click import iou_score
from training.evaluation.torch_model import open_model

pytestmark = pytest.mark.triton

BASE = ROOT / "weights/vit_t"
SUPPORT = [(0, 0, 160, 160), (0, 160, 160, 320), (0, 320, 160, 480)]
HELD_OUT = (300, 100, 500, 300)


@pytest.fixture(scope="module")
def nuclei() -> Sample:
    scene = load_scene(BASE)
    return read_pair(scene.image_path, scene.instances_path)


@pytest.fixture(scope="module")
def examples(nuclei: Sample) -> list[Example]:
    parts = [cut_region(nuclei, region) for region in SUPPORT]
    return [Example(part.image, part.instances) for part in parts]


@pytest.fixture(scope="module")
def config(shipped: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> GatewayConfig:
    folder = tmp_path_factory.mktemp("classes")
    tokens = folder / "tokens.txt"
    lines = [("lab", EDITOR, "editor"), ("lab", USER, "user"), ("ward", EDITOR, "other")]
    tokens.write_text("".join(f"{a} {b} {digest_of(token)}\n" for a, b, token in lines))
    return GatewayConfig(
        triton=shipped.grpc_url,
        port=0,
        metrics_port=0,
        tokens=tokens,
        classes=folder / "kept",
        limits=Limits(max_tiles=64),
    )


@pytest.fixture(scope="module")
def address(config: GatewayConfig, examples: list[Example], rare_probes: None) -> Iterator[str]:
    """A gateway with the class `nucleus`."""
    with gateway_in_background(config) as gateway:
        with SegmentationClient(gateway.address, token="editor") as editor:
            assert editor.classes() == ()
            (taught,) = editor.add_class("nucleus", examples, tile_size=100)
            assert taught.name == "nucleus" and 1 <= taught.prototypes <= 16
        yield gateway.address


@pytest.fixture(scope="module")
def user(address: str) -> Iterator[SegmentationClient]:
    with SegmentationClient(address, token="user") as connected:
        yield connected


@pytest.fixture(scope="module")
def held_out(nuclei: Sample) -> Sample:
    return cut_region(nuclei, HELD_OUT)


def foreground(result: SegmentResult) -> np.ndarray:
    return np.any([mask.array for (mask,) in result.masks], axis=0)


def dice(mask: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (mask & other).sum() / (mask.sum() + other.sum()))


def test_segment_by_a_new_class_finds_its_entities(
    user: SegmentationClient, held_out: Sample
) -> None:
    result = user.segment(held_out.image, classes=["nucleus"])
    assert dice(foreground(result), held_out.instances > 0) > 0.75
    assert {mask.label for (mask,) in result.masks} == {"nucleus"}
    scores = [mask.score for (mask,) in result.masks]
    assert scores == sorted(scores, reverse=True) and 0 < min(scores) <= max(scores) <= 1.1
    for prompt, (mask,) in zip(result.prompts, result.masks, strict=True):
        assert mask.area == mask.array.sum() > 0
        ((x, y),) = prompt.point_coords
        assert mask.box[0] - 9 <= x <= mask.box[2] + 9 and mask.box[1] - 9 <= y <= mask.box[3] + 9


def test_segment_by_class_equals_the_evaluation_with_torch(
    user: SegmentationClient, held_out: Sample, config: GatewayConfig
) -> None:
    model, digest = open_model(BASE, None)
    assert config.classes is not None
    vocabulary = load_vocabulary(resolve_version(config.classes / "lab"), digest)
    assert vocabulary.tile == 100
    expected = segment_image(held_out.image, vocabulary, TorchBackend(model))
    result = user.segment(held_out.image, classes=["nucleus"])
    assert len(result.masks) == len(expected) > 10
    whole = Box(0, 0, *held_out.instances.shape)
    for (mask,), reference in zip(result.masks, expected, strict=True):
        assert iou_score(mask.array, reference.in_region(whole)) > 0.98
        assert mask.score == pytest.approx(reference.score, abs=1e-3)


def test_segment_by_class_after_a_restart_finds_it(
    user: SegmentationClient, held_out: Sample, config: GatewayConfig
) -> None:
    before = user.segment(held_out.image, classes=["nucleus"])
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address, token="user") as again,
    ):
        assert [known.name for known in again.classes()] == ["nucleus"]
        assert again.describe().classes == ("nucleus",)
        after = again.segment(held_out.image, classes=["nucleus"])
    assert [mask.counts for (mask,) in after.masks] == [mask.counts for (mask,) in before.masks]


@pytest.mark.usefixtures("without_probes")
def test_segment_by_class_of_a_cached_image_sends_and_encodes_nothing(
    user: SegmentationClient, nuclei: Sample, shipped: TritonServer
) -> None:
    def encoded() -> int:
        with InferenceServerClient(shipped.grpc_url) as client:
            wait_until_counted(client)
            (model,) = client.get_inference_statistics("image_encoder").model_stats
            return int(model.inference_count)

    image = encode_image(np.ascontiguousarray(nuclei.image[200:330, 150:300]))
    first = user.segment(image, classes=["nucleus"])
    before = encoded()
    again = user.segment(first.image_id, classes=["nucleus"])
    few = user.segment(
        first.image_id, classes=["nucleus"], class_search=ClassSearch(min_iou=0.95, threshold=0.8)
    )
    assert encoded() == before
    assert (first.cached, again.cached) == (False, True)
    assert [mask.counts for (mask,) in again.masks] == [mask.counts for (mask,) in first.masks]
    assert len(few.masks) < len(first.masks)


def test_second_class_is_added_and_removed(
    address: str, user: SegmentationClient, nuclei: Sample, held_out: Sample
) -> None:
    """A class of all bright pixels as a single entity leaves the first class unchanged."""
    before = user.segment(held_out.image, classes=["nucleus"])
    part = cut_region(nuclei, (400, 0, 512, 112))
    both = Example.of_masks(part.image, [part.instances > 0])
    with SegmentationClient(address, token="editor") as editor:
        names = [known.name for known in editor.add_class("tissue", [both])]
        assert names == ["nucleus", "tissue"]
        with pytest.raises(ExistsError, match="name: got 'tissue', which exists"):
            editor.add_class("tissue", [both])
        with SegmentationClient(address, token="other") as other:
            assert other.classes() == ()
            with pytest.raises(ContractError, match="classes: got 'tissue', expected none, as no"):
                other.segment(held_out.image, classes=["tissue"])
        result = user.segment(held_out.image, classes=["tissue"])
        assert {mask.label for (mask,) in result.masks} <= {"tissue"}
        (left,) = editor.remove_class("tissue")
        assert left.name == "nucleus"
        with pytest.raises(NotFoundError, match="name: got 'tissue', expected one of nucleus"):
            editor.remove_class("tissue")
    after = user.segment(held_out.image, classes=["nucleus"])
    assert [mask.counts for (mask,) in after.masks] == [mask.counts for (mask,) in before.masks]


def test_add_class_without_the_editor_role_is_refused(
    user: SegmentationClient, examples: list[Example]
) -> None:
    for change in (
        lambda: user.add_class("cell", examples),
        lambda: user.remove_class("nucleus"),
    ):
        with pytest.raises(ForbiddenError, match="got a token of lab that may not change classes"):
            change()


def test_add_class_with_invalid_examples_names_them_and_changes_nothing(
    address: str, examples: list[Example]
) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    blank = np.zeros((40, 50), np.int32)
    text = Example(b"text", blank + 1)
    cases = {
        "name: got ''": ("", examples),
        "name: got ' x'": (" x", examples),
        "examples: got 0, expected 1 to 64": ("x", []),
        r"examples\[0\].entities: got 0": ("x", [Example(image, blank)]),
        r"examples\[0\].entities\[0\].size: got 30 x 50, expected 40 x 50": (
            "x",
            [Example(image, blank[:30] + 1)],
        ),
        r"^examples\[1\].image_bytes: got 4 bytes": ("x", [examples[0], text]),
    }
    with SegmentationClient(address, token="editor") as editor:
        for message, (name, examples_of_class) in cases.items():
            with pytest.raises(ContractError, match=message):
                editor.add_class(name, examples_of_class)
        entity = pb.CocoRle(size=pb.Size(height=40, width=50), counts="01")
        request = pb.AddClassRequest(
            name="x",
            examples=[pb.Example(image_bytes=encode_image(image), entities=[entity])],
        )
        with grpc.insecure_channel(address) as channel:
            stub: Any = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
            with pytest.raises(grpc.RpcError, match="got 2 bytes that do not fill 40 x"):
                stub.AddClass(request, metadata=[("authorization", "Bearer editor")])
        assert [known.name for known in editor.classes()] == ["nucleus"]


def test_segment_by_class_with_too_many_tiles_or_unknown_names_is_refused(
    user: SegmentationClient,
) -> None:
    with pytest.raises(LimitError, match="tiles: got an image of 900 x 900 in tiles of 100 pixels"):
        user.segment(np.zeros((900, 900, 3), np.uint8), classes=["nucleus"])
    with pytest.raises(ContractError, match="classes: got 'cat', expected some of nucleus"):
        user.segment(np.zeros((90, 90, 3), np.uint8), classes=["nucleus", "cat"])
    with pytest.raises(ContractError, match=r"class_search.overlap: got 1\.0"):
        user.segment(
            np.zeros((90, 90, 3), np.uint8),
            classes=["nucleus"],
            class_search=ClassSearch(overlap=1.0),
        )


def test_classes_command_adds_lists_and_removes(
    address: str, nuclei: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, image, labels = (tmp_path / name for name in ("token", "cells.png", "labels.png"))
    token.write_text("other\n")
    part = cut_region(nuclei, SUPPORT[0])
    Image.fromarray(part.image).save(image)
    Image.fromarray(part.instances.astype(np.uint16)).save(labels)
    gateway = ["--address", address, "--token-file", str(token)]
    example = ["--example", str(image), str(labels), "--tile-size", "100"]
    assert cli(["classes", "add", "cell", *example, *gateway]) == 0
    assert cli(["classes", "list", *gateway]) == 0
    added, listed = capsys.readouterr().out.splitlines()
    assert added == listed and added.startswith("cell\t")
    out = tmp_path / "out"
    assert cli(["segment", str(image), "--class", "cell", "--out", str(out), *gateway]) == 0
    found = json.loads((out / "cells/masks.json").read_text())
    assert found["categories"] == [{"id": 1, "name": "cell"}] and len(found["annotations"]) > 5
    capsys.readouterr()
    assert cli(["segment", str(image), "--class", "dog", "--out", str(out), *gateway]) == 2
    assert capsys.readouterr().err.startswith("cpcsam segment: --class: got dog, expected cell;")
    assert cli(["classes", "add", "cell", *example, *gateway]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli(["classes", "remove", "cell", *gateway]) == 0
    assert capsys.readouterr().out == ""


def test_add_class_without_a_folder_is_refused(
    shipped: TritonServer, examples: list[Example]
) -> None:
    config = GatewayConfig(triton=shipped.grpc_url, port=0, metrics_port=0)
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address) as client,
        pytest.raises(PreconditionError, match="expected a gateway started with --classes"),
    ):
        client.add_class("nucleus", examples)
