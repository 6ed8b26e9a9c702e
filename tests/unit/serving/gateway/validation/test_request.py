"""Validation of requests, image headers and search settings, and the gateway's limits."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cpcsam.automatic.config import ClassSearchConfig, MaskGeneratorConfig
from cpcsam.contract import MaskSelection
from cpcsam.errors import ConfigError, ContractError
from cpcsam.grpc_errors import LimitError
from cpcsam.images.formats import IMAGE_FORMATS
from cpcsam.images.reading import decode_image
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import Limits
from serving.gateway.validation.request import check_image_id, check_request, original_size_of
from serving.gateway.validation.search_config import (
    CLASS_SEARCH_FIELDS,
    EVERYTHING_FIELDS,
    class_search_config,
    default_class_search,
    default_everything,
    mask_generator_config,
)

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

HEIGHT, WIDTH = 40, 60
LIMITS = Limits(max_image_bytes=100_000, max_pixels=10_000, max_prompts=5, max_in_flight=1)
FORM = r".*: got .+, expected .+; .+"
EVERYTHING = {"prompts": [], "everything": pb.Everything()}


def image_file(
    width: int = WIDTH, height: int = HEIGHT, kind: str = "PNG", orientation: int = 1
) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 90, 200)).save(file, kind, exif=exif)
    return file.getvalue()


def click(x: float, y: float) -> pb.Prompt:
    return pb.Prompt(points=[pb.Point(x=x, y=y)])


def request(**fields: object) -> pb.SegmentRequest:
    return pb.SegmentRequest(
        **{"image_bytes": image_file(), "prompts": [click(1, 2)], **fields}  # type: ignore[arg-type]
    )


def test_check_request_with_valid_fields_passes() -> None:
    check_request(request(), LIMITS)
    check_request(request(prompts=[], classes=["nucleus"]), LIMITS)
    check_request(request(prompts=[], classes=["nucleus"], tile_size=0), LIMITS)
    check_request(request(**EVERYTHING, tile_size=64, tile_overlap=0.5), LIMITS)
    assert original_size_of(image_file(), LIMITS) == (HEIGHT, WIDTH)
    check_image_id("0123456789abcdef" * 4)


@pytest.mark.parametrize("image_id", ["", "0" * 63, "G" * 64, "A" * 64])
def test_check_image_id_with_an_invalid_id_names_it(image_id: str) -> None:
    with pytest.raises(ContractError, match="image_id: got ") as caught:
        check_image_id(image_id)
    assert caught.match(FORM)


@pytest.mark.parametrize(
    ("fields", "kind", "what"),
    [
        ({"prompts": []}, ContractError, "prompts, classes and everything: got none"),
        ({"classes": ["nucleus"]}, ContractError, "got prompts and classes, expected one"),
        ({"prompts": [click(1, 2)] * 6}, LimitError, "prompts: got 6, expected at most 5"),
        ({"prompts": [], "classes": ["x"] * 6}, LimitError, "classes: got 6, expected at most 5"),
        ({"mask_selection": 7}, ContractError, "mask_selection: got 7"),
        ({"request_id": "x" * 129}, ContractError, "request_id: got 129 characters"),
        ({"everything": pb.Everything()}, ContractError, "got prompts and everything"),
        ({"mask_format": 9}, ContractError, "mask_format: got 9"),
        ({"prompts": [], "classes": ["x"], "tile_size": 64}, ContractError, "tile_size: got 64"),
        ({"tile_overlap": 1.0}, ContractError, "tile_overlap: got 1"),
        ({"tile_overlap": math.nan}, ContractError, "tile_overlap: got nan"),
        (EVERYTHING | {"return_low_res_masks": True}, ContractError, "return_low_res_masks: got"),
        (EVERYTHING | {"without_calibration": True}, ContractError, "without_calibration: got"),
        (
            {"prompts": [], "everything": pb.Everything(crop_layers=1), "tile_size": 64},
            ContractError,
            "tile_size: got 64 and 1 crop_layers",
        ),
    ],
)
def test_check_request_with_an_invalid_field_names_it(
    fields: dict[str, object], kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what) as caught:
        check_request(request(**fields), LIMITS)
    assert type(caught.value) is kind
    assert caught.match(FORM)


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (b"", ContractError, "image_bytes: got nothing"),
        (b"not an image", ContractError, "that cannot be decoded"),
        (bytes(100_001), LimitError, "got 100001 bytes, expected at most 100000"),
        (image_file(101, 100), LimitError, "got 101 x 100 pixels"),
    ],
)
def test_original_size_of_invalid_bytes_names_the_problem(
    content: bytes, kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what) as caught:
        original_size_of(content, LIMITS)
    assert type(caught.value) is kind
    assert caught.match(FORM)


def test_original_size_of_a_decompression_bomb_is_refused() -> None:
    png = bytearray(image_file())
    png[16:24] = struct.pack(">II", 60_000, 60_000)  # width and height in IHDR
    with pytest.raises((LimitError, ContractError), match=FORM):
        original_size_of(bytes(png), LIMITS)
    bmp = bytearray(image_file(kind="BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    with pytest.raises(LimitError, match="pixels, expected at most 10000"):
        original_size_of(bytes(bmp), LIMITS)


@UNHURRIED
@given(st.binary(max_size=200))
def test_original_size_of_any_bytes_is_a_size_or_an_error(data: bytes) -> None:
    for prefix in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"II*\x00", b"BM", b"RIFF"):
        try:
            height, width = original_size_of(prefix + data, LIMITS)
        except (ContractError, LimitError):
            continue
        assert 0 < height * width <= LIMITS.max_pixels


@UNHURRIED
@given(st.data())
def test_original_size_of_damaged_headers_is_a_size_or_an_error(data: st.DataObject) -> None:
    for kind in IMAGE_FORMATS:
        damaged = bytearray(image_file(kind=kind, orientation=6))
        for _ in range(3):
            damaged[data.draw(st.integers(0, min(200, len(damaged)) - 1))] = data.draw(
                st.integers(0, 255)
            )
        try:
            original_size_of(bytes(damaged), LIMITS)
        except (ContractError, LimitError) as error:
            assert "; " in str(error)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_original_size_of_a_header_equals_the_decoded_size(kind: str, orientation: int) -> None:
    data = image_file(kind=kind, orientation=orientation)
    assert original_size_of(data, LIMITS) == decode_image(data).shape[:2]


def test_original_size_of_other_formats_is_refused() -> None:
    with pytest.raises(ContractError, match="JPEG, PNG, TIFF, BMP, WEBP"):
        original_size_of(image_file(kind="PPM"), LIMITS)


def test_mask_selections_of_api_and_contract_are_equal() -> None:
    ours = {f"MASK_SELECTION_{choice.name}": choice.value for choice in MaskSelection}
    assert dict(pb.MaskSelection.items()) == ours


@pytest.mark.parametrize("name", ["max_image_bytes", "max_pixels", "max_prompts", "max_in_flight"])
def test_limits_below_their_minimum_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: got 0, expected at least 1"):
        Limits(**{name: 0})


def test_limits_beyond_the_contracts_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_pixels"):
        Limits(max_pixels=10**9)


def test_field_mapping_covers_every_wire_and_configuration_field() -> None:
    assert set(EVERYTHING_FIELDS) == {field.name for field in pb.Everything.DESCRIPTOR.fields}
    assert set(EVERYTHING_FIELDS.values()) == {f.name for f in fields(MaskGeneratorConfig)}
    assert set(CLASS_SEARCH_FIELDS.values()) <= {f.name for f in fields(ClassSearchConfig)}


def test_mask_generator_config_reads_set_fields_and_defaults_the_rest() -> None:
    config = mask_generator_config(pb.Everything(points_per_side=5, max_box_iou=0.5, min_area=9))
    assert config == MaskGeneratorConfig(
        points_per_side=5, box_nms_thresh=0.5, min_mask_region_area=9
    )
    assert class_search_config(pb.ClassSearch(min_iou=0.0)) == ClassSearchConfig(min_iou=0.0)


def test_default_messages_round_trip_to_the_default_configuration() -> None:
    config = mask_generator_config(default_everything())
    for field in fields(MaskGeneratorConfig):
        assert getattr(config, field.name) == pytest.approx(field.default)
    search = class_search_config(default_class_search())
    assert search.threshold == pytest.approx(ClassSearchConfig().threshold)


@pytest.mark.parametrize("name", ["min_iou", "min_stability", "max_box_iou", "max_crop_box_iou"])
def test_mask_generator_config_out_of_range_names_the_wire_field(name: str) -> None:
    with pytest.raises(ContractError, match=rf"^everything\.{name}: got 2"):
        mask_generator_config(pb.Everything(**{name: 2}))
