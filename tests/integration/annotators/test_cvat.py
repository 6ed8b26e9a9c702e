"""Functions for CVAT, run by cvat-sdk's and cvat-cli's own drivers, against the gateway's masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cpcsam.client import Everything, Prompt
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ConfigError
from cpcsam.integrations.cvat_parameters import client_of
from tests.integration.annotators.nuclei import NUCLEUS, Nuclei, run_in
from tests.support.annotators import annotator
from tests.support.polygons import filled
from training.evaluation.one_click import iou_score

Shapes = list[dict[str, Any]]
SEARCH = Everything(points_per_side=8, min_iou=0.5, min_stability=0.5)


@pytest.fixture(scope="module")
def found(nuclei: Nuclei) -> dict[str, Shapes]:
    """What the driver uploads for each function."""
    answer: dict[str, Shapes] = run_in(
        annotator("cvat"), "run_cvat.py", nuclei.address, nuclei.path
    )
    return answer


def decoded(points: list[float], size: tuple[int, int]) -> np.ndarray:
    """Decode CVAT's masks: run lengths in a box, beginning with background, and the box."""
    *lengths, left, top, right, bottom = map(int, points)
    mask = np.zeros(size, bool)
    runs = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    mask[top : bottom + 1, left : right + 1] = runs.reshape(bottom + 1 - top, right + 1 - left)
    return mask


def assert_equal_masks(shapes: Shapes, result: SegmentResult) -> None:
    masks = [mask for _, _, mask in result.each()]
    assert len(shapes) == len(masks) > 0
    for shape, mask in zip(shapes, masks, strict=True):
        assert shape["type"] == "mask"
        assert iou_score(decoded(shape["points"], result.original_size), mask.array) >= 0.99


def test_detection_of_classes_uploads_the_gateways_masks(
    nuclei: Nuclei, found: dict[str, Shapes]
) -> None:
    result = nuclei.client.segment(nuclei.image, classes=[NUCLEUS])
    assert_equal_masks(found["nuclei"], result)
    for shape, (mask,) in zip(found["nuclei"], result.masks, strict=True):
        assert shape["score"] == pytest.approx(min(mask.score, 1), abs=1e-3)
        # The driver has replaced the function's own number of the label by the task's.
        assert (shape["label_id"], shape["frame"], shape["source"]) == (40, 7, "auto")


def test_detection_with_a_threshold_leaves_out_lower_scores(found: dict[str, Shapes]) -> None:
    expected = [shape for shape in found["nuclei"] if shape["score"] >= 0.5]
    assert found["good"] == expected and 0 < len(expected) < len(found["nuclei"])


def test_detection_of_polygons_holds_the_masks_pixels(
    nuclei: Nuclei, found: dict[str, Shapes]
) -> None:
    size = nuclei.image.shape[:2]
    union, polygons = np.zeros(size, bool), np.zeros(size, bool)
    for shape in found["nuclei"]:
        union |= decoded(shape["points"], size)
    for shape in found["polygons"]:
        assert shape["type"] == "polygon"
        polygons |= filled([np.reshape(shape["points"], (-1, 2))], size)
    assert len(found["polygons"]) >= len(found["nuclei"])
    assert iou_score(polygons, union) >= 0.99


def test_detection_of_everything_uploads_the_gateways_masks(
    nuclei: Nuclei, found: dict[str, Shapes]
) -> None:
    result = nuclei.client.segment(nuclei.image, everything=SEARCH)
    assert_equal_masks(found["everything"], result)
    assert {shape["label_id"] for shape in found["everything"]} == {50}


def test_interactor_answers_clicks_and_boxes_with_the_gateways_masks(
    nuclei: Nuclei, found: dict[str, Shapes]
) -> None:
    click = Prompt(((60.25, 40.5), (10.0, 60.0)), (1, 0))
    box = Prompt(box=(20.5, 30.0, 160.0, 160.0))
    for name, prompt in (("click", click), ("box", box)):
        result = nuclei.client.segment(nuclei.image, [prompt], tile_size=0)
        assert_equal_masks(found[name], result)
        (confidence,) = found[name][0]["attributes"]
        assert confidence["spec_id"] == 0
        expected = min(result.masks[0][0].score, 1)
        assert float(confidence["value"]) == pytest.approx(expected, abs=1e-3)


def test_interactor_without_a_positive_prompt_answers_nothing(found: dict[str, Shapes]) -> None:
    assert found["none"] == []


def test_parameters_with_a_missing_token_file_name_it() -> None:
    with pytest.raises(ConfigError, match="no-such-file"):
        client_of("127.0.0.1:1", "no-such-file", tls=False, ca="", timeout_s=1)
