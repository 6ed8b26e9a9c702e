"""What supervision is given has the shapes that it documents, and it takes them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import supervision

from cpcsam.client.supervision_adapter import detection_arrays, detections_of
from cpcsam.errors import ConfigError, ContractError
from tests.unit.cpcsam.client.test_coco import SIZE, mask_of, result_of

RESULT = result_of(mask_of(3, "cell"), mask_of(9, "nucleus", 0.75), mask_of(20, "cell"))


def test_detection_arrays_have_equal_lengths_in_result_order() -> None:
    arrays = detection_arrays(RESULT)
    assert arrays["xyxy"].dtype == np.float32
    assert arrays["xyxy"].tolist() == [[3, 2, 7, 9], [9, 2, 13, 9], [20, 2, 24, 9]]
    assert arrays["mask"].shape == (3, *SIZE) and arrays["mask"].dtype == np.bool_
    for drawn, (_, _, mask) in zip(arrays["mask"], RESULT.each(), strict=True):
        assert (drawn == mask.array).all()
    assert arrays["confidence"].tolist() == [0.5, 0.75, 0.5]
    assert arrays["class_id"].tolist() == [0, 1, 0]
    assert arrays["data"]["class_name"].tolist() == ["cell", "nucleus", "cell"]
    assert arrays["data"]["prompt_index"].tolist() == [0, 1, 2]


def test_detection_arrays_use_the_given_class_order() -> None:
    names = ["nucleus", "other", "cell"]
    assert detection_arrays(RESULT, names)["class_id"].tolist() == [2, 0, 2]
    with pytest.raises(ContractError, match="class_names: got nucleus, expected cell, nucleus"):
        detection_arrays(RESULT, ["nucleus"])


def test_detection_arrays_of_an_empty_result_have_the_right_shapes() -> None:
    arrays = detection_arrays(result_of())
    assert arrays["xyxy"].shape == (0, 4) and arrays["mask"].shape == (0, *SIZE)
    assert arrays["confidence"].shape == arrays["class_id"].shape == (0,)


def test_detections_without_supervision_name_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="supervision: got no such package.*pip install superv"):
        detections_of(RESULT)


def test_detections_are_accepted_by_supervision() -> None:
    detections = detections_of(RESULT)
    assert isinstance(detections, supervision.Detections) and len(detections) == 3
    assert detections.area.tolist() == [28, 28, 28]
    assert detections["class_name"].tolist() == ["cell", "nucleus", "cell"]
    assert len(detections[detections.confidence > 0.6]) == 1
    assert len(detections_of(result_of())) == 0
