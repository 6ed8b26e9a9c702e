"""API over the real Triton with the shipped base, compared with official SAM."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from cpcsam.automatic.instance_mask import bbox_from_mask
from cpcsam.automatic.rle import mask_from_rle, rle_from_mask
from cpcsam.mask_prompts import logits_of_mask
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.sam import CpcSam
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.config import GatewayConfig
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.support.official_masks import Seen, assert_found
from tests.support.paths import ROOT
from tests.support.picture_files import Pixels, photograph, picture_files
from training.evaluation.one_click import iou_score

pytestmark = [pytest.mark.slow, pytest.mark.triton]

TOLERANCE = 1e-4
FILES = picture_files()
CLICK = pb.Prompt(points=[pb.Point(x=20, y=40), pb.Point(x=25, y=10, background=True)])
POINTS, LABELS = np.array([[20.0, 40.0], [25.0, 10.0]]), np.array([1, 0])
Call = Callable[..., pb.SegmentResponse]


@pytest.fixture(scope="module")
def stub(shipped: TritonServer, rare_probes: None) -> Iterator[pb_grpc.SegmentationStub]:
    """The API of a gateway over the shipped base."""
    config = GatewayConfig(
        triton=shipped.grpc_url, port=0, metrics_port=0, limits=Limits(max_clicks=600, max_tiles=40)
    )
    with (
        gateway_in_background(config) as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        yield pb_grpc.SegmentationStub(channel)


@pytest.fixture(scope="module")
def segment(stub: pb_grpc.SegmentationStub) -> Call:
    def call(image: Pixels | bytes, **fields: object) -> pb.SegmentResponse:
        data = image if isinstance(image, bytes) else png(image)
        return stub.Segment(pb.SegmentRequest(image_bytes=data, **fields), timeout=300)

    return call


@pytest.fixture(scope="module")
def model() -> CpcSam:
    return load_base(ROOT / "weights/vit_t")


def png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def array_of(mask: pb.Mask) -> np.ndarray:
    size = mask.coco_rle.size.height, mask.coco_rle.size.width
    return mask_from_rle(mask.coco_rle.counts.encode(), size)


def logits_of(mask: pb.Mask) -> np.ndarray:
    values = np.frombuffer(mask.low_res_mask.logits, "<f4").copy()
    return values.reshape(round(len(values) ** 0.5), -1)


def refused(call: Callable[[], object], message: str) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError, match=message) as caught:
        call()
    code: grpc.StatusCode = caught.value.code()
    return code


@pytest.mark.parametrize("kind", FILES)
def test_segment_of_every_image_format_equals_the_official_predictor(
    segment: Call, model: CpcSam, kind: str
) -> None:
    data, pixels = FILES[kind]
    response = segment(
        data,
        prompts=[CLICK],
        mask_selection=pb.MASK_SELECTION_ALL,
        return_low_res_masks=True,
    )
    predictor = SamPredictor(model.sam)
    predictor.set_image(np.ascontiguousarray(pixels))
    masks, scores, logits = predictor.predict(point_coords=POINTS, point_labels=LABELS)
    for found, mask, score, low_res in zip(
        response.results[0].masks, masks, scores, logits, strict=True
    ):
        assert (array_of(found) != mask).mean() <= 1e-3
        assert found.score == pytest.approx(float(score), abs=TOLERANCE)
        assert np.abs(logits_of(found) - low_res).max() <= TOLERANCE * np.abs(logits).max()


def test_segment_with_returned_logits_equals_the_official_predictor(
    segment: Call, model: CpcSam
) -> None:
    """A request may mix prompts with and without masks; results keep their order."""
    picture = photograph(75, 111)
    given = segment(picture, prompts=[CLICK], return_low_res_masks=True).results[0].masks[0]
    box = pb.Box(x0=10, y0=20, x1=60, y1=70)
    refined = pb.Prompt(points=CLICK.points, box=box, mask_input=given.low_res_mask)
    plain = pb.Prompt(points=CLICK.points, box=box)
    prompts = [refined, plain] * 9
    response = segment(picture, prompts=prompts, return_low_res_masks=True)
    predictor = SamPredictor(model.sam)
    predictor.set_image(picture)
    for index, mask_input in ((0, logits_of(given)[None]), (1, None)):
        masks, _, logits = predictor.predict(
            point_coords=POINTS,
            point_labels=LABELS,
            box=np.array([10, 20, 60, 70]),
            mask_input=mask_input,
            multimask_output=False,
        )
        for result in response.results[index::2]:
            (found,) = result.masks
            assert np.abs(logits_of(found) - logits[0]).max() <= TOLERANCE * np.abs(logits).max()
            assert (array_of(found) != masks[0]).mean() <= 1e-3
    differ = logits_of(response.results[0].masks[0]) - logits_of(response.results[1].masks[0])
    assert np.abs(differ).max() > 0.1, "the mask must matter"


def test_segment_with_a_binary_mask_equals_the_official_predictor(
    segment: Call, model: CpcSam
) -> None:
    picture = photograph(75, 111)
    mask = np.zeros((75, 111), bool)
    mask[20:60, 15:70] = True
    rle = pb.CocoRle(size=pb.Size(height=75, width=111), counts=rle_from_mask(mask).decode())
    given = pb.BinaryMask(coco_rle=rle)
    prompts = [pb.Prompt(points=CLICK.points, mask=given), pb.Prompt(mask=given)]
    response = segment(picture, prompts=prompts, return_low_res_masks=True)
    predictor = SamPredictor(model.sam)
    predictor.set_image(picture)
    side = logits_of(response.results[0].masks[0]).shape[0]
    mask_input = logits_of_mask(mask, side)[None]
    clicked, alone = (
        predictor.predict(mask_input=mask_input, multimask_output=False, **pointed)[2][0]
        for pointed in (
            {"point_coords": POINTS, "point_labels": LABELS},
            {"box": np.array(bbox_from_mask(mask).xyxy)},
        )
    )
    for result, expected in zip(response.results, (clicked, alone), strict=True):
        found = logits_of(result.masks[0])
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_segment_in_every_mask_format_returns_the_same_mask(segment: Call) -> None:
    picture = photograph(75, 111)
    answers = {
        form: segment(picture, prompts=[CLICK], mask_format=form).results[0].masks[0]
        for form in pb.MaskFormat.values()
    }
    expected = array_of(answers[pb.MASK_FORMAT_COCO_RLE])
    with Image.open(io.BytesIO(answers[pb.MASK_FORMAT_PNG].png)) as image:
        assert np.array_equal(np.array(image), expected)
    outline = answers[pb.MASK_FORMAT_POLYGONS].polygons
    surface = 0.0
    for ring in outline.rings:
        x, y = np.array(ring.coordinates).reshape(-1, 2).T
        surface += float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
    assert surface == expected.sum() > 0
    for mask in answers.values():
        assert (mask.area, mask.box) == (expected.sum(), answers[pb.MASK_FORMAT_NONE].box)
        assert 0 <= mask.stability <= 1 and not mask.HasField("low_res_mask")
    assert answers[pb.MASK_FORMAT_NONE].WhichOneof("format") is None


@pytest.mark.parametrize(("crop_layers", "points_per_side"), [(0, 12), (1, 8)])
def test_everything_equals_the_official_mask_generator(
    segment: Call, model: CpcSam, crop_layers: int, points_per_side: int
) -> None:
    picture = photograph(201, 220)
    settings = pb.Everything(
        points_per_side=points_per_side,
        min_iou=0.4,
        min_stability=0.4,
        crop_layers=crop_layers,
        crop_points_divisor=2,
    )
    response = segment(picture, everything=settings)
    generator = SamAutomaticMaskGenerator(
        model.sam,
        points_per_side=points_per_side,
        pred_iou_thresh=0.4,
        stability_score_thresh=0.4,
        crop_n_layers=crop_layers,
        crop_n_points_downscale_factor=2,
    )
    expected = generator.generate(picture)
    assert all(len(result.masks) == 1 for result in response.results)
    found = [
        Seen(array_of(mask), mask.score, mask.stability, (result.found_at.x, result.found_at.y))
        for result in response.results
        for mask in result.masks
    ]
    assert_found(expected, found)
    scores = [mask.score for mask in found]
    assert scores == sorted(scores, reverse=True)


def test_everything_in_tiles_merges_masks(segment: Call) -> None:
    picture = photograph(150, 200)
    settings = pb.Everything(points_per_side=6, min_iou=0.4, min_stability=0.4)
    response = segment(picture, everything=settings, tile_size=100, mask_format=pb.MASK_FORMAT_NONE)
    again = segment(picture, everything=settings, tile_size=100)
    assert again.cached and not response.cached and len(response.results) > 5
    assert [r.masks[0].box for r in again.results] == [r.masks[0].box for r in response.results]
    assert any(result.masks[0].box.x0 < 100 < result.masks[0].box.x1 for result in again.results)


def test_segment_with_tiles_encodes_the_tile_around_the_prompt(segment: Call) -> None:
    """The mask equals that of the tile alone, or of a larger tile if the first would cut it."""
    picture = photograph(240, 240)
    prompt = pb.Prompt(box=pb.Box(x0=70, y0=75, x1=100, y1=110))
    tiled = segment(
        picture, prompts=[prompt], tile_size=96, tile_overlap=0.5, return_low_res_masks=True
    )
    (mask,) = tiled.results[0].masks
    part = mask.low_res_mask.part
    assert (part.x0, part.y0, part.x1, part.y1) == (48, 48, 144, 144)
    shifted = pb.Prompt(box=pb.Box(x0=22, y0=27, x1=52, y1=62))
    alone = segment(np.ascontiguousarray(picture[48:144, 48:144]), prompts=[shifted])
    expected = np.pad(array_of(alone.results[0].masks[0]), ((48, 96), (48, 96)))
    assert iou_score(array_of(mask), expected) >= 0.999
    follow_up = pb.Prompt(points=[pb.Point(x=85, y=90)], mask_input=mask.low_res_mask)
    again = segment(picture, prompts=[follow_up], return_low_res_masks=True)
    assert again.cached and again.results[0].masks[0].low_res_mask.part == part

    background = pb.Prompt(points=[pb.Point(x=5, y=5)], box=pb.Box(x1=60, y1=60))
    large = pb.Prompt(box=pb.Box(x0=3, y0=3, x1=235, y1=236))
    for prompt in (background, large):
        whole = segment(picture, prompts=[prompt], return_low_res_masks=True)
        tiled = segment(picture, prompts=[prompt], tile_size=64, return_low_res_masks=True)
        (mask,) = tiled.results[0].masks
        if mask.low_res_mask.HasField("part"):
            part = mask.low_res_mask.part
            assert mask.box.x1 < part.x1 and mask.box.y1 < part.y1
        else:
            assert mask.coco_rle == whole.results[0].masks[0].coco_rle


def test_segment_beyond_a_limit_names_it(segment: Call) -> None:
    picture = photograph(90, 90)
    exhausted, invalid = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
    for fields, message, code in (
        ({"everything": pb.Everything()}, "everything, clicks: got 1024", exhausted),
        ({"everything": pb.Everything(points_per_side=2**31)}, "clicks: got 4611", exhausted),
        ({"everything": pb.Everything(crop_layers=3)}, "everything, crops: got 85", exhausted),
        ({"everything": pb.Everything(), "tile_size": 8}, "tiles: got an image of", exhausted),
        ({"everything": pb.Everything(min_iou=2)}, r"everything\.min_iou: got 2", invalid),
        ({"everything": pb.Everything(crop_layers=99)}, r"everything\.crop_layers", invalid),
        (
            {"prompts": [pb.Prompt(points=CLICK.points, mask_input=pb.LowResMask(logits=b"1"))]},
            r"mask_input\.logits: got 1 bytes, expected 64 rows",
            invalid,
        ),
    ):
        assert refused(lambda given=fields: segment(picture, **given), message) is code


def test_describe_returns_defaults_and_formats(stub: pb_grpc.SegmentationStub) -> None:
    description = stub.Describe(pb.DescribeRequest(), timeout=60)
    assert (description.model.low_res_size, description.model.mask_prompts) == (64, True)
    assert (description.model.window, description.model.spread) == (0, 0), "declares no scale"
    assert not description.model.calibrates
    assert len(description.model.digest) == len(description.model.trained_model) == 64
    assert list(description.mask_formats) == list(pb.MaskFormat.values())
    assert (description.limits.max_clicks, description.limits.max_tiles) == (600, 40)
    assert (description.limits.stream_window, description.limits.max_seconds) == (8, 60)
    everything = description.everything
    assert (everything.points_per_side, everything.crop_layers) == (32, 0)
    assert everything.min_iou == pytest.approx(0.88)
    assert {field.name for field, _ in everything.ListFields()} == {
        field.name for field in pb.Everything.DESCRIPTOR.fields
    }
    assert description.class_search.overlap == 0.5 and description.tile_overlap == 0.25
