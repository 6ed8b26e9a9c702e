from __future__ import annotations

from dataclasses import fields

import pytest

from cpcsam.automatic.config import ClassSearchConfig, MaskGeneratorConfig
from cpcsam.errors import ContractError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.validation.search_config import (
    CLASS_SEARCH_FIELDS,
    EVERYTHING_FIELDS,
    class_search_config,
    default_class_search,
    default_everything,
    mask_generator_config,
)


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
