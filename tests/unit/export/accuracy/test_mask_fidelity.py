"""Mask fidelity, the accuracy gate, and the page with the worst masks."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

from cpcsam.contract import IMAGE_ENCODER, MASK_DECODER, GraphSpec
from cpcsam.entry_points import IMAGE_BYTES
from cpcsam.errors import DataError, ExportError
from cpcsam.images.options import INTENSITY, Intensity
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.fusion import FusedCpcSam, fuse
from export import to_onnx
from export.accuracy.comparison import Comparison, require_fidelity, write_accepted
from export.accuracy.mask_fidelity import Case, find_cases, measure
from export.accuracy.runners import TorchRunner
from export.accuracy.self_prompts import stability
from export.real_images import Scene, packaged_images, read_scenes
from serving.backend.preprocess import preprocess
from serving.backend.step import Request
from tests.support.model_factory import noisy_cpcsam
from tests.support.paths import ROOT


class Shifted(TorchRunner):
    """Engine whose decoder without mask prompts shifts the logits."""

    name = "shifted"

    def __init__(self, model: FusedCpcSam, shift: float) -> None:
        super().__init__(model)
        self.shift = shift

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        outputs = super().__call__(graph, inputs)
        if graph is MASK_DECODER:
            outputs[0] = outputs[0] + self.shift
        return outputs


@pytest.fixture(scope="module")
def model() -> FusedCpcSam:
    return fuse(load_base(ROOT / "weights/vit_t"))


@pytest.fixture(scope="module")
def cases(model: FusedCpcSam) -> list[Case]:
    return find_cases(TorchRunner(model), read_scenes(packaged_images()[:1], 256, Intensity()))


def test_find_cases_prompts_are_of_every_kind_and_distinct(cases: list[Case]) -> None:
    [case] = cases
    click, box, mask = case.prompts
    assert [group.kind for group in case.prompts] == ["click", "box", "mask"]
    prompts = click.tensors["point_labels"].shape[1]
    assert 3 <= prompts <= 16
    assert box.tensors["point_labels"][0, 0].tolist() == [2, 3, 1, -1]
    assert mask.tensors["mask_input"].shape == (1, prompts, 1, 64, 64)
    masks = mask.tensors["mask_input"][0, :, 0] > 0
    for index in range(prompts):
        rows, columns = (torch.nonzero(masks[index].any(axis)).flatten() for axis in (1, 0))
        assert box.tensors["point_coords"][0, index, :2].tolist() == [
            [4 * columns[0], 4 * rows[0]],
            [4 * columns[-1] + 4, 4 * rows[-1] + 4],
        ]
    assert all(stability(logits) >= 0.8 for logits in mask.tensors["mask_input"][0, :, 0])


def test_measure_same_engine_is_perfect(model: FusedCpcSam, cases: list[Case]) -> None:
    fidelity = measure(cases, TorchRunner(model))
    summary = fidelity.summary()
    assert summary["iou_min"] == summary["iou_mean"] == 1.0
    assert summary["boundary_max"] == summary["logits_max"] == summary["embeddings_max"] == 0.0
    assert summary["scores_max"] == 0.0
    assert summary["masks"] + summary["masks_left_out"] == 6 * cases[0].expected[0][0].shape[1]
    require_fidelity(fidelity, "fp32", 256)


def test_measure_shifted_masks_exceed_tolerance(model: FusedCpcSam, cases: list[Case]) -> None:
    """Masks grown by a shift of the logits: IoU is the ratio of areas, errors name the worst."""
    fidelity = measure(cases, Shifted(model, 0.5))
    of_masks = [row for row in fidelity.rows if row.prompt.startswith("mask")]
    assert all(row.iou == 1 for row in of_masks)
    grown = [row for row in fidelity.counted if not row.prompt.startswith("mask")]
    assert all(0.3 < row.iou < 1 and row.boundary_mean > 0 for row in grown)
    assert [pair.row.iou for pair in fidelity.worst] == sorted(
        pair.row.iou for pair in fidelity.worst
    )
    for pair in fidelity.worst:
        assert pair.row.iou == pair.expected.sum() / pair.actual.sum()
        assert not (pair.expected & ~pair.actual).any()
    with pytest.raises(
        ExportError,
        match=r"^shifted, mean mask IoU .* got 0\.\d+ \(worst nuclei\.png, \w+ \d+",
    ):
        require_fidelity(fidelity, "int8", 256)


def test_measure_missing_masks_have_zero_iou_and_diagonal_distance(
    model: FusedCpcSam, cases: list[Case]
) -> None:
    fidelity = measure(cases, Shifted(model, -1e3))
    row = fidelity.worst[0].row
    assert row.iou == 0
    assert (
        row.boundary_mean
        == row.boundary_max
        == pytest.approx(np.hypot(*fidelity.worst[0].expected.shape))
    )


def test_scores_of_every_image_count_though_two_have_one_name(
    model: FusedCpcSam, cases: list[Case]
) -> None:
    class BadAtFirst(TorchRunner):
        name = "bad at first"
        images = 0

        def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
            outputs = super().__call__(graph, inputs)
            self.images += graph is IMAGE_ENCODER
            return [2 * output for output in outputs] if self.images == 1 else outputs

    summary = measure(cases * 2, BadAtFirst(model)).summary()
    assert summary["embeddings_max"] == 1.0 and summary["scores_max"] > 0.1


@pytest.mark.parametrize("factor", [-1.0, 0.9, math.nan])
def test_require_fidelity_refuses_other_scores_of_equal_masks(
    factor: float, model: FusedCpcSam, cases: list[Case]
) -> None:
    class Rating(TorchRunner):
        name = "rating"

        def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
            names = [spec.name for spec in graph.outputs]
            outputs = zip(names, super().__call__(graph, inputs), strict=True)
            return [factor * x if name == "iou_predictions" else x for name, x in outputs]

    fidelity = measure(cases, Rating(model))
    assert fidelity.summary()["iou_min"] == 1.0
    with pytest.raises(ExportError, match="rating, predicted IoUs' relative difference"):
        require_fidelity(fidelity, "int8", 256)


def test_require_fidelity_without_stable_mask_accepts_only_fp32_that_the_grid_has_proved(
    tmp_path: Path,
) -> None:
    model = fuse(noisy_cpcsam())
    model.sam.mask_decoder.output_hypernetworks_mlps.apply(_zero)
    runner = TorchRunner(model)
    scenes = read_scenes(packaged_images()[:1], 256, Intensity())
    fidelity = measure(find_cases(runner, scenes), runner)
    assert fidelity.summary() == {
        "embeddings_max": 0.0,
        "scores_max": 0.0,
        "masks": 0,
        "masks_left_out": 0,
    }
    require_fidelity(fidelity, "fp32", 256, on_grid=True)
    refusal = "no mask that the model itself draws.*--images"
    with pytest.raises(ExportError, match=f"{refusal}.*, or export in fp32"):
        require_fidelity(fidelity, "int8", 256, on_grid=True)
    engines = Comparison("fp32", {}, [fidelity])
    with pytest.raises(ExportError, match=f"{refusal} of the kind that the model was trained on$"):
        write_accepted(engines, ["fp32"], 256, tmp_path, tmp_path / "engines")
    compared = Comparison("fp32", {fidelity.engine: []}, [fidelity])
    write_accepted(compared, ["fp32"], 256, tmp_path, tmp_path / "onnx")


def _zero(module: torch.nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        torch.nn.init.zeros_(parameter)


def test_comparison_write_gives_self_contained_page_and_json(
    model: FusedCpcSam, cases: list[Case], tmp_path: Path
) -> None:
    fidelity = measure(cases, Shifted(model, 0.5))
    comparison = Comparison("int8", {"shifted": []}, [fidelity])
    comparison.write(tmp_path / "a.json", tmp_path / "a.html", "too <far>")
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["masks"]["shifted"]["iou_min"] == fidelity.worst[0].row.iou
    assert len(report["mask_rows"]["shifted"]) == len(fidelity.rows)
    page = (tmp_path / "a.html").read_text()
    assert "too &lt;far&gt;" in page
    assert page.count("data:image/png;base64,") == len(fidelity.worst)
    assert "http" not in page and 'src="/' not in page


def test_read_scenes_unreadable_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "no.png"
    with pytest.raises(DataError, match=r"no\.png: got an unreadable image"):
        read_scenes([file], 256, Intensity())
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no\.png: got an unreadable image"):
        read_scenes([file], 256, Intensity())


def test_read_scenes_of_one_file_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    files = [tmp_path / "day1/001.png", tmp_path / "day2/001.png", tmp_path / "day2/002.png"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        shutil.copy(packaged_images()[0], file)
    names = [scene.name for scene in read_scenes(files, 256, Intensity())]
    assert names == [str(files[0]), str(files[1]), "002.png"]


def test_export_reads_the_pixels_that_the_service_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intensity = Intensity("range", 0, 4095)
    page = np.random.default_rng(0).integers(100, 400, (256, 256), np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", page)
    shown: list[Scene] = []

    def read(*arguments: Any) -> list[Scene]:
        shown.extend(read_scenes(*arguments))
        raise InterruptedError

    monkeypatch.setattr(to_onnx, "read_scenes", read)
    config = {INTENSITY: intensity.record()}
    with pytest.raises(InterruptedError):
        to_onnx.export_graphs(
            fuse(noisy_cpcsam()),
            tmp_path / "onnx",
            config=config,
            images=[tmp_path / "cells.tif"],
        )
    data = np.array([[(tmp_path / "cells.tif").read_bytes()]], object)
    request = Request({IMAGE_BYTES.name: data}, frozenset())
    assert np.array_equal(
        shown[0].image.numpy(), preprocess(request, 256, 1 << 26, intensity)["image"]
    )


def test_packaged_images_can_be_read() -> None:
    for scene in read_scenes(packaged_images(), 256, Intensity()):
        assert scene.image.shape == IMAGE_SHAPE and max(scene.shown.shape) == 256


IMAGE_SHAPE = (1, *IMAGE_ENCODER.inputs[0].shape(256)[1:])
