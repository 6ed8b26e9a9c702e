"""napari plugin, used without a screen in napari's environment, against the gateway's masks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cpcsam.client import Everything, Intensity, Mask, Prompt, ReadOptions
from tests.integration.annotators.nuclei import NUCLEUS, Nuclei, run_in
from tests.support.annotators import annotator
from tests.support.paths import ROOT

# Of run_napari.py, whose coordinates count from the first pixel's centre, as napari's do.
POINTS = Prompt(((60.5, 40.5), (5.5, 5.5)), (1, 0))
RECTANGLE = Prompt(box=(20.5, 20.5, 100.5, 90.5))
PLUGIN = ROOT / "integrations/napari-cpcsam"


@pytest.fixture(scope="module")
def used(nuclei: Nuclei) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """What the widget told, and the labels that it painted."""
    arrays = nuclei.path.with_name("labels.npz")
    told = run_in(
        annotator("napari"),
        "run_napari.py",
        *(nuclei.address, nuclei.path, arrays),
        PYTHONPATH=f"{ROOT}:{PLUGIN}",
        QT_QPA_PLATFORM="offscreen",
        HOME=str(nuclei.path.parent),
    )
    return told, np.load(arrays)


Used = tuple[dict[str, Any], Mapping[str, np.ndarray]]


class AtOnce:
    """Stands in for napari's worker in a thread."""

    def __init__(self, work: Callable[[], Any], **_: Any) -> None:
        self.work = work
        self.returned = SimpleNamespace(connect=lambda done: setattr(self, "done", done))

    def start(self) -> None:
        self.done(self.work())


def square(left: int, side: int = 2) -> Mask:
    right = left + side
    ring = ((left, 0), (right, 0), (right, side), (left, side))
    return Mask((4, 9), "", 0.9, (left, 0, right, side), side**2, rings=(ring,) if side else ())


def test_empty_mask_takes_no_number_of_another_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = SimpleNamespace(FunctionWorker=AtOnce, create_worker=AtOnce)
    monkeypatch.setitem(sys.modules, "napari.qt.threading", worker)
    monkeypatch.syspath_prepend(PLUGIN)
    calls, painting = map(import_module, ("napari_cpcsam.calls", "napari_cpcsam.painting"))
    client = SimpleNamespace(send=lambda masks: SimpleNamespace(masks=masks, warnings=()))
    monkeypatch.setattr(calls, "SegmentationClient", lambda *_, **__: client)
    labels = SimpleNamespace(data=np.zeros((4, 9), int), features=pd.DataFrame(), refresh=bool)

    def done(masks: list[Mask], _: tuple[str, ...]) -> None:
        painting.paint_prompted(labels, SimpleNamespace(index=...), masks, 1)

    for second, numbers in ((square(3), [1, 2, 3]), (square(3, side=0), [1, 3])):
        results = [[square(0)], [second], [square(6)]]
        calls.Calls().start(calls.Address("a:1"), lambda _, results=results: results, done, print)
        assert labels.data[0, ::3].tolist() == [1, 2 * (2 in numbers), 3]
        assert labels.features["index"].tolist() == numbers


def test_widget_without_prompts_tells_what_to_add(used: Used) -> None:
    assert "add one to the chosen layers" in used[0]["nothing"]


def test_widget_paints_the_mask_of_points_pixel_by_pixel(nuclei: Nuclei, used: Used) -> None:
    told, arrays = used
    (mask,) = nuclei.client.segment(nuclei.image, [POINTS]).masks[0]
    assert told["points"].startswith("1 masks")
    assert mask.area > 0
    np.testing.assert_array_equal(arrays["points"], mask.array)


def test_widget_paints_the_next_object_beside_the_first(nuclei: Nuclei, used: Used) -> None:
    told, arrays = used
    (first,) = nuclei.client.segment(nuclei.image, [POINTS]).masks[0]
    (second,) = nuclei.client.segment(nuclei.image, [RECTANGLE]).masks[0]
    expected = np.where(second.array, 2, first.array)
    assert told["left"] == 0 and told["rows"] == [1, 2]
    np.testing.assert_array_equal(arrays["rectangle"], expected)


def test_widget_refines_in_one_layer_beside_labels_of_another_shape(used: Used) -> None:
    names = ["nuclei", "nuclei [CPC-SAM]", "clicks", "nuclei [CPC-SAM] [1]"]
    assert used[0]["layers"] == names


def test_widget_that_is_cancelled_paints_nothing(used: Used) -> None:
    told, arrays = used
    assert told["cancelled"] == ["cancelled", False]
    np.testing.assert_array_equal(arrays["cancelled"], arrays["rectangle"])


def test_widget_paints_the_entities_of_classes(nuclei: Nuclei, used: Used) -> None:
    told, arrays = used
    result = nuclei.client.segment(nuclei.image, classes=[NUCLEUS])
    expected = np.zeros(result.original_size, int)
    for number, (mask,) in reversed([*enumerate(result.masks, 1)]):
        expected[mask.array] = number
    np.testing.assert_array_equal(arrays["classes"], expected)
    assert set(told["named"][: len(result.masks)]) == {NUCLEUS}
    # Prompts that follow take none of the entities' numbers.
    assert told["selected"] == len(result.masks) + 1


def test_widget_segments_the_plane_of_a_stack_that_is_seen(nuclei: Nuclei, used: Used) -> None:
    _, arrays = used
    grey = (nuclei.image.astype(np.uint16).sum(axis=2) * 37).astype(np.uint16)
    click = Prompt.click(60.5, 40.5)
    by_contrast = ReadOptions(intensity=Intensity("range", 0, 20000))
    for name, options in (("stack", None), ("contrast", by_contrast)):
        (mask,) = nuclei.client.segment(grey, [click], read_options=options).masks[0]
        assert mask.area > 0
        np.testing.assert_array_equal(arrays[name][1], mask.array)
        assert not arrays[name][[0, 2]].any()


def test_widget_paints_everything(nuclei: Nuclei, used: Used) -> None:
    told, arrays = used
    grey = (nuclei.image.astype(np.uint16).sum(axis=2) * 37).astype(np.uint16)
    by_contrast = ReadOptions(intensity=Intensity("range", 0, 20000))
    result = nuclei.client.segment(
        grey,
        everything=Everything(points_per_side=8, min_iou=0.5, min_stability=0.5),
        tile_size=0,
        read_options=by_contrast,
    )
    assert result.masks
    assert told["everything"].startswith(f"{len(result.masks)} masks")
    union = np.zeros(result.original_size, bool)
    for (mask,) in result.masks:
        union |= mask.array
    np.testing.assert_array_equal(arrays["everything"][1] > 0, union)


def test_widget_in_a_volume_asks_for_a_plane(used: Used) -> None:
    assert "show the image in 2D" in used[0]["volume"]
