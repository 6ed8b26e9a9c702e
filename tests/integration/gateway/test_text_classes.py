"""Classes by text over gRPC, against torch's own numbers of the same random CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpcsam.artifacts.versions import resolve_version, switch_to
from cpcsam.automatic.vocabulary_io import load_vocabulary, save_vocabulary
from cpcsam.cli.main import main as cli
from cpcsam.client import ClassSearch, Everything, Example, SegmentationClient
from cpcsam.client.masks import Mask
from cpcsam.clip.text_classes import TextClass, TextClasses, phrases_of, pool_phrases
from cpcsam.clip.towers import ClipTowers
from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import ExistsError, NotFoundError, PreconditionError
from cpcsam.images.reading import decode_image
from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.inference import embedder
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import LIMITS, picture

pytestmark = pytest.mark.triton

CELL = TextClass("cell", ("nucleus", "cell nucleus"), ("debris",))
STROMA = TextClass("stroma", ("Bindegewebe – 結合組織",))
PROPOSALS = Everything(points_per_side=4, min_iou=0, min_stability=0, max_box_iou=0.9)


@pytest.fixture(scope="module")
def config(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> GatewayConfig:
    folder = tmp_path_factory.mktemp("classes")
    return GatewayConfig(
        triton=triton.grpc_url, port=0, metrics_port=0, limits=LIMITS, classes=folder
    )


@pytest.fixture(scope="module")
def teaching(config: GatewayConfig, rare_probes: None) -> Iterator[Gateway]:
    """A gateway with two classes by text."""
    with gateway_in_background(config) as gateway:
        with SegmentationClient(gateway.address, timeout_s=120) as client:
            for new in (CELL, STROMA):
                client.add_class(new.name, texts=new.texts, negatives=new.negatives)
        yield gateway


@pytest.fixture(scope="module")
def client(teaching: Gateway) -> Iterator[SegmentationClient]:
    with SegmentationClient(teaching.address, timeout_s=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return picture(7)


def probabilities(towers: ClipTowers, image: np.ndarray, masks: list[Mask]) -> np.ndarray:
    """The probability of both classes for masks, (n, 2), by torch."""
    known = TextClasses.empty(towers.digest, towers.logit_scale, towers.embed_dim)
    for new in (CELL, STROMA):
        known = known.add(new, pool_phrases(towers.embed_texts(phrases_of(new.all_texts))))
    boxes = [Box(y0, x0, y1, x1) for x0, y0, x1, y1 in (map(int, mask.box) for mask in masks)]
    crops = [towers.preprocess.crop(image, box) for box in boxes]
    return known.probabilities(towers.embed_images(crops))


def everything(client: SegmentationClient, image: np.ndarray) -> list[Mask]:
    return [mask for (mask,) in client.segment(image, everything=PROPOSALS).masks]


def test_class_by_text_is_looked_for_in_the_tiles_that_it_was_taught_with(
    config: GatewayConfig, image: np.ndarray, tmp_path: Path
) -> None:
    side = max(image.shape[:2]) // 2
    with (
        gateway_in_background(replace(config, classes=tmp_path)) as gateway,
        SegmentationClient(gateway.address, timeout_s=120) as client,
    ):
        client.add_class(CELL.name, texts=CELL.texts, tile_size=side)
        assert load_vocabulary(next(tmp_path.rglob("manifest.json")).parent).tile == side
        search = ClassSearch(min_similarity=0)
        found = client.segment(
            image, classes=[CELL.name], everything=PROPOSALS, class_search=search
        )
        shown = client.segment(image, everything=PROPOSALS, tile_size=side)
        whole = client.segment(image, everything=PROPOSALS)
        entity = np.zeros(image.shape[:2], np.int32)
        entity[5:30, 5:30] = 1
        client.add_class("blob", [Example(image, entity)])
        (vocabulary,) = tmp_path.rglob("current/manifest.json")
        assert load_vocabulary(vocabulary.parent).tile == side
    counts = [{mask.counts for (mask,) in result.masks} for result in (found, shown, whole)]
    assert counts[0] == counts[1] != counts[2]


def test_list_tells_how_classes_were_taught(client: SegmentationClient, towers: ClipTowers) -> None:
    listed = [(one.name, one.prototypes, one.texts, one.negatives) for one in client.classes()]
    assert listed == [(one.name, 0, one.texts, one.negatives) for one in (CELL, STROMA)]
    description = client.describe()
    assert description.classes == ("cell", "stroma") and description.clip == towers.digest


def test_classes_by_text_are_those_masks_that_torch_chooses(
    client: SegmentationClient, towers: ClipTowers, image: np.ndarray
) -> None:
    proposals = everything(client, image)
    likely = probabilities(towers, image, proposals)
    least = float(np.median(likely.max(1)))
    expected = {}
    for mask, row in zip(proposals, likely, strict=True):
        if row.max() >= least:
            label = ("cell", "stroma")[int(row.argmax())]
            expected[mask.counts] = label, pytest.approx(mask.score * row.max(), abs=1e-5)
    found = client.segment(
        image,
        classes=["cell", "stroma"],
        everything=PROPOSALS,
        class_search=ClassSearch(min_similarity=least - 1e-6),
    )
    assert {mask.counts: (mask.label, mask.score) for (mask,) in found.masks} == expected
    assert 0 < len(expected) < len(proposals)
    scores = [mask.score for (mask,) in found.masks]
    assert scores == sorted(scores, reverse=True)


def test_classes_by_text_are_kept_over_a_restart_and_removed(
    client: SegmentationClient, config: GatewayConfig, image: np.ndarray
) -> None:
    search = ClassSearch(min_similarity=0)
    options = {"classes": ["cell"], "everything": PROPOSALS, "class_search": search}
    before = client.segment(image, **options)
    assert before.masks
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address, timeout_s=120) as again,
    ):
        after = again.segment(image, **options)
        assert [(m.counts, m.score) for (m,) in after.masks] == [
            (m.counts, m.score) for (m,) in before.masks
        ]
        again.add_class("other", texts=["other"])
        assert [known.name for known in again.remove_class("other")] == ["cell", "stroma"]
        with pytest.raises(NotFoundError, match="expected one of cell, stroma"):
            again.remove_class("other")
    with pytest.raises(ExistsError, match="'cell', which exists"):
        client.add_class("cell", texts=["x"])


def test_examples_and_texts_have_to_agree(
    client: SegmentationClient, towers: ClipTowers, image: np.ndarray
) -> None:
    example = Example.of_masks(image, [image.mean(axis=2) > image.mean()])
    search = ClassSearch(min_similarity=0.3)
    client.add_class("plain", [example], tile_size=0)
    alone = [m for (m,) in client.segment(image, classes=["plain"], class_search=search).masks]
    client.remove_class("plain")
    taught = client.add_class("both", [example], texts=["nucleus"], tile_size=0)
    assert [one.name for one in taught] == ["both", "cell", "stroma"] and taught[0].prototypes
    found = client.segment(
        image, classes=["both"], class_search=ClassSearch(min_similarity=0.3)
    ).masks
    client.remove_class("both")
    known = TextClasses.empty(towers.digest, towers.logit_scale, towers.embed_dim)
    for new in (CELL, STROMA, TextClass("both", ("nucleus",))):
        known = known.add(new, pool_phrases(towers.embed_texts(phrases_of(new.all_texts))))
    boxes = [Box(y0, x0, y1, x1) for x0, y0, x1, y1 in (map(int, mask.box) for mask in alone)]
    crops = [towers.preprocess.crop(image, box) for box in boxes]
    likely = known.probabilities(towers.embed_images(crops))[:, 2]
    expected = {
        mask.counts: pytest.approx(mask.score * p, abs=1e-4)
        for mask, p in zip(alone, likely, strict=True)
        if p >= 0.3
    }
    assert alone and {mask.counts: mask.score for (mask,) in found} == expected


def test_classes_of_both_kinds_are_compared_after_decoding_the_image_once(
    client: SegmentationClient, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Example.of_masks(image, [image.mean(axis=2) > image.mean()])
    client.add_class("both", [example], texts=["nucleus"], tile_size=0)
    decoded = []

    def decode(*args: Any) -> NDArray[np.uint8]:
        decoded.append(args)
        return decode_image(*args)

    monkeypatch.setattr(embedder, "decode_image", decode)
    search = ClassSearch(min_similarity=0, threshold=0.1)
    options = {"everything": PROPOSALS, "class_search": search}
    found = client.segment(image, classes=["both", "cell"], **options)
    monkeypatch.undo()
    client.remove_class("both")
    assert {mask.label for (mask,) in found.masks} == {"both", "cell"}
    assert len(decoded) == 1


def test_image_id_alone_is_refused_before_masks_are_made(
    client: SegmentationClient, image: np.ndarray
) -> None:
    nothing = replace(PROPOSALS, min_iou=1.0)
    shown = client.segment(image, classes=["cell"], everything=nothing)
    assert not shown.masks
    with pytest.raises(NotFoundError, match="send image_bytes again"):
        client.segment(shown.image_id, classes=["cell"], everything=nothing)


def test_other_towers_are_refused_by_name(
    client: SegmentationClient, config: GatewayConfig, image: np.ndarray, tmp_path: Path
) -> None:
    assert config.classes is not None
    kept = load_vocabulary(resolve_version(config.classes / EVERYBODY.tenant))
    assert kept.texts is not None
    other = replace(kept, texts=replace(kept.texts, towers="b" * 64))
    save_vocabulary(other, tmp_path / EVERYBODY.tenant / "1")
    switch_to(tmp_path / EVERYBODY.tenant, 1)
    with (
        gateway_in_background(replace(config, classes=tmp_path)) as gateway,
        SegmentationClient(gateway.address, timeout_s=120) as refused,
    ):
        for change in (
            lambda: refused.segment(image, classes=["cell"]),
            lambda: refused.add_class("new", texts=["new"]),
        ):
            with pytest.raises(PreconditionError, match=r"the towers bbbbbbbbbbbb, expected those"):
                change()
        assert refused.remove_class("cell")[0].name == "stroma"
        assert refused.remove_class("stroma") == ()
        assert [known.name for known in refused.add_class("new", texts=["new"])] == ["new"]


def test_invalid_texts_are_refused_by_name(client: SegmentationClient) -> None:
    for message, texts, negatives in (
        ("negatives: got no texts", [], ["x"]),
        (r"texts\[1\]: got ''", ["x", ""], []),
        (r"negatives\[0\]: got '\\n'", ["x"], ["\n"]),
        ("examples: got 0", [], []),
    ):
        with pytest.raises(ContractError, match=message):
            client.add_class("new", texts=texts, negatives=negatives)
    with pytest.raises(ContractError, match="expected a sequence of texts"):
        client.add_class("new", texts="nucleus")


def test_classes_command_adds_by_text(
    teaching: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = ["--address", teaching.address]
    assert cli(["classes", "add", "gland", "--text", "gland", "--not", "fat", *gateway]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "gland\ttext: gland; not: fat"
    assert cli(["classes", "remove", "gland", *gateway]) == 0
    assert cli(["classes", "add", "gland", *gateway]) == 2
    assert "got no example and no text" in capsys.readouterr().err
