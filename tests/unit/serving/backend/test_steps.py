"""Steps inside Triton: pre- and postprocessing, and graphs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from cpcsam.automatic.rle import mask_from_rle
from cpcsam.contract import MASK_DECODER, MAX_PIXELS, MaskSelection, TensorSpec
from cpcsam.entry_points import DECODE
from cpcsam.errors import ArtifactError, ConfigError, ContractError, ServingError
from cpcsam.transforms import input_size_of, upscale_masks
from serving.backend.onnx_model import MODEL_FILE, open_graph
from serving.backend.postprocess import postprocess
from serving.backend.preprocess import open_preprocess, preprocess, scale_prompts
from serving.backend.step import Request, Settings

SIDE = 256
ORIGINAL_SIZE = (90, 60)


def request(outputs: tuple[str, ...] = (), **tensors: object) -> Request:
    return Request({name: np.asarray(value) for name, value in tensors.items()}, frozenset(outputs))


def image_bytes(original_size: tuple[int, int] = ORIGINAL_SIZE) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (*original_size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return np.array([[buffer.getvalue()]], object)


def decoded(selection: int = MaskSelection.SINGLE, **changed: object) -> Request:
    """A request of `postprocess` with two prompts, the second of them padding."""
    rng = np.random.default_rng(1)
    low_res_masks = np.repeat(np.repeat(rng.normal(size=(1, 2, 4, 8, 8)), 8, 3), 8, 4)
    tensors = {
        "low_res_masks": low_res_masks.astype(np.float32),
        "iou_predictions": np.array([[[0.9, 0.2, 0.8, 0.3]] * 2], np.float32),
        "input_size": np.array([input_size_of(ORIGINAL_SIZE, SIDE)], np.int32),
        "original_size": np.array([ORIGINAL_SIZE], np.int32),
        "point_labels": np.array([[[1, -1], [-1, -1]]], np.int32),
        "mask_selection": np.array([[selection]], np.int32),
    }
    return request(DECODE.output_names, **(tensors | changed))


def run(asked: Request) -> dict[str, np.ndarray]:
    return dict(postprocess(asked, SIDE, MAX_PIXELS))


def test_preprocess_returns_the_encoders_frame() -> None:
    answer = preprocess(request(image_bytes=image_bytes()), SIDE, MAX_PIXELS)
    assert answer["image"].shape == (1, 3, SIDE, SIDE)
    assert answer["input_size"].tolist() == [[256, 171]]
    assert answer["original_size"].tolist() == [list(ORIGINAL_SIZE)]
    assert answer["image"][..., :171].any()
    assert not answer["image"][..., 171:].any()


def test_preprocess_isolates_a_bad_image(tmp_path: Path) -> None:
    parameters = {"image_size": str(SIDE), "max_pixels": str(MAX_PIXELS)}
    execute = open_preprocess(Settings("preprocess", tmp_path, parameters))
    bad = request(image_bytes=np.array([[b"text"]], object))
    answers = execute([bad, request(image_bytes=image_bytes())])
    assert isinstance(answers[0], ContractError)
    assert not isinstance(answers[1], Exception)


def test_open_preprocess_missing_parameter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"preprocess/config.pbtxt, parameter max_pixels"):
        open_preprocess(Settings("preprocess", tmp_path, {"image_size": "256"}))


def test_scale_prompts_maps_points_to_the_encoders_frame() -> None:
    coords = np.array([[[[60.0, 90.0], [0.0, 0.0]]]], np.float32)
    asked = request(point_coords=coords, original_size=np.array([ORIGINAL_SIZE], np.int32))
    scaled = scale_prompts(asked, SIDE)["scaled_point_coords"]
    assert scaled.tolist() == [[[[171.0, 256.0], [0.0, 0.0]]]]


def test_scale_prompts_completes_the_switch_if_it_is_requested() -> None:
    coords = np.zeros((1, 1, 1, 2), np.float32)
    given = {"point_coords": coords, "original_size": np.array([ORIGINAL_SIZE], np.int32)}
    names = ("scaled_point_coords", "chosen_calibrate")
    assert scale_prompts(request(names, **given), SIDE)["chosen_calibrate"].tolist() == [[1]]
    off = request(names, **given, calibrate=np.zeros((1, 1), np.float32))
    assert scale_prompts(off, SIDE)["chosen_calibrate"].tolist() == [[0]]
    assert set(scale_prompts(request(**given), SIDE)) == {"scaled_point_coords"}


def test_postprocess_returns_moved_points_in_the_image_and_others_to_the_bit() -> None:
    tensors = dict(decoded(MaskSelection.SINGLE).tensors)
    shape = tensors["point_labels"].shape
    given = np.random.default_rng(1).uniform(0, 60, (*shape, 2)).astype(np.float32)
    tensors |= {"point_coords": given, "original_size": np.array([ORIGINAL_SIZE], np.int32)}
    size = input_size_of(ORIGINAL_SIZE, SIDE)
    tensors["input_size"] = np.array([size], np.int32)
    asked = Request(tensors, frozenset({"scaled_point_coords"}))
    taken = scale_prompts(asked, SIDE)["scaled_point_coords"].copy()
    taken[0, 0, 0] += (17.1, 25.6)
    tensors["calibrated_coords"] = taken
    answer = run(Request(tensors, frozenset({"calibrated_point_coords"})))
    restored = answer["calibrated_point_coords"]
    assert np.allclose(restored[0, 0, 0] - given[0, 0, 0], (6, 9), atol=1e-4)
    assert np.array_equal(restored[0, :, 1:], given[0, :, 1:])
    assert np.array_equal(restored[0, 1:], given[0, 1:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scale_prompts_nonfinite_coordinates_raise(value: float) -> None:
    coords = np.full((1, 1, 1, 2), value, np.float32)
    with pytest.raises(ContractError, match="point_coords"):
        scale_prompts(request(point_coords=coords, original_size=[ORIGINAL_SIZE]), SIDE)


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [(MaskSelection.SINGLE, [0]), (MaskSelection.BEST, [2]), (MaskSelection.ALL, [1, 2, 3])],
)
def test_postprocess_selects_masks_and_scores(selection: int, chosen: list[int]) -> None:
    asked = decoded(selection)
    answer = run(asked)
    masks = asked.tensors["low_res_masks"]
    assert np.array_equal(answer["selected_low_res_masks"], masks[:, :, chosen])
    expected = asked.tensors["iou_predictions"][0, 0, chosen]
    assert np.array_equal(answer["scores"][0, 0], expected)
    assert answer["masks_rle"].shape == (1, 2, len(chosen))


def test_postprocess_rle_equals_upscaled_logits_above_0() -> None:
    asked = decoded()
    mask = mask_from_rle(run(asked)["masks_rle"][0, 0, 0], ORIGINAL_SIZE)
    logits = upscale_masks(asked.tensors["low_res_masks"][0, 0, 0], (256, 171), ORIGINAL_SIZE, SIDE)
    assert np.array_equal(mask, logits > 0)
    assert 0 < mask.mean() < 1


def test_postprocess_boxes_and_areas_describe_the_run_lengths() -> None:
    answer = run(decoded(MaskSelection.ALL))
    assert answer["bboxes"].shape == (1, 2, 3, 4) and answer["areas"].shape == (1, 2, 3)
    assert answer["bboxes"].dtype == answer["areas"].dtype == np.int32
    for index in np.ndindex(2, 3):
        mask = mask_from_rle(answer["masks_rle"][0][index], ORIGINAL_SIZE)
        rows, columns = np.nonzero(mask)
        expected = [0, 0, 0, 0]
        if len(rows):
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert answer["bboxes"][0][index].tolist() == expected
        assert answer["areas"][0][index] == mask.sum()


def test_postprocess_padding_prompts_are_empty() -> None:
    answer = run(decoded(MaskSelection.ALL))
    assert not answer["scores"][0, 1].any()
    assert not any(
        mask_from_rle(counts, ORIGINAL_SIZE).any() for counts in answer["masks_rle"][0, 1]
    )


@pytest.mark.parametrize("output", DECODE.output_names)
def test_postprocess_computes_only_requested_outputs(output: str) -> None:
    asked = Request(decoded().tensors, frozenset({output}))
    assert run(asked).keys() == {output}


def test_postprocess_returns_the_stability_of_each_mask() -> None:
    asked = decoded(MaskSelection.ALL)
    stability = run(asked)["stability"]
    assert stability.shape == (1, 2, 3) and not stability[0, 1].any()
    for index in range(3):
        low_res_masks = asked.tensors["low_res_masks"][0, 0, 1 + index]
        logits = upscale_masks(low_res_masks, (256, 171), ORIGINAL_SIZE, SIDE)
        expected = (logits > 1).sum() / (logits > -1).sum()
        assert stability[0, 0, index] == pytest.approx(expected, abs=1e-4)


def test_postprocess_leaves_masks_below_the_thresholds_empty() -> None:
    every = run(decoded(MaskSelection.ALL))
    stabilities = every["stability"][0, 0]
    for thresholds, kept in {
        (0.25, 0.0, 1.0): [False, True, True],  # of 0.2, 0.8 and 0.3
        (0.3, 0.0, 1.0): [False, True, False],
        (0.0, float(stabilities.max()) - 1e-6, 1.0): list(stabilities == stabilities.max()),
    }.items():
        some = run(decoded(MaskSelection.ALL, mask_thresholds=np.array([thresholds])))
        empty = every["masks_rle"][0, 1, 0]
        assert [rle != empty for rle in some["masks_rle"][0, 0]] == kept
        assert (some["areas"][0, 0] > 0).tolist() == kept
        assert np.array_equal(some["areas"][0, 0][kept], every["areas"][0, 0][kept])
        assert np.array_equal(some["scores"], every["scores"])


def test_postprocess_moves_the_threshold_of_the_stability_by_the_offset() -> None:
    near, far = (
        run(decoded(MaskSelection.ALL, mask_thresholds=np.array([[-1.0, 0.0, offset]])))
        for offset in (0.1, 1.0)
    )
    assert (near["stability"][0, 0] > far["stability"][0, 0]).all()


def test_postprocess_unknown_selection_raises() -> None:
    with pytest.raises(ContractError, match=r"mask_selection: got 7, expected 0 \(SINGLE\)"):
        run(decoded(7))


@pytest.mark.parametrize(
    "changed",
    [
        {"original_size": np.array([[0, 60]])},
        {"original_size": np.array([[9000, 9000]])},
        {"input_size": np.array([[256, 170]])},
        {"original_size": np.array([[60, 90]])},
    ],
)
def test_postprocess_inconsistent_sizes_raise(changed: dict[str, np.ndarray]) -> None:
    with pytest.raises(ContractError, match=r"original_size|input_size"):
        run(decoded(**changed))


def settings(directory: Path, max_batch: int = 1) -> Settings:
    parameters = {"image_size": "256", "intra_op_threads": "1"}
    return Settings(MASK_DECODER.name, directory, parameters, max_batch)


def value(tensor: TensorSpec, dims: list[str | int]) -> onnx.ValueInfoProto:
    kind = TensorProto.INT32 if tensor.dtype == "int32" else TensorProto.FLOAT
    return helper.make_tensor_value_info(tensor.name, kind, dims)


def save_constant_decoder(path: Path, batch: str | int, most: int = 4) -> None:
    """A decoder that answers zeros for `most` images, with the given first dimension declared."""
    dims = {
        t.name: [batch, *t.dims[1:2], *t.shape(256)[2:]]
        for t in (*MASK_DECODER.inputs, *MASK_DECODER.outputs)
    }
    dims["image_embeddings"] = [batch, 256, 16, 16]
    dims["sparse_embeddings"] = [batch, "P", "N+1", 256]
    dims["token_mask"] = [batch, "P", "N+1"]
    nodes = [
        helper.make_node("ReduceMean", ["token_mask", "two"], ["mean"]),
        helper.make_node("Shape", ["token_mask"], ["images"], end=1),
        helper.make_node("Neg", ["images"], ["from_the_end"]),
        helper.make_node("Gather", ["rows", "from_the_end"], ["zeros4"]),
        helper.make_node("Mul", ["mean", "zeros4"], ["iou_predictions"]),
        helper.make_node("Unsqueeze", ["iou_predictions", "three_four"], ["cells"]),
        helper.make_node("Mul", ["cells", "zeros64"], ["low_res_masks"]),
    ]
    constants = {
        "two": np.array([2]),
        "three_four": np.array([3, 4]),
        "rows": np.zeros((most, 1, 4), np.float32),
        "zeros64": np.zeros((64, 64), np.float32),
    }
    body = helper.make_graph(
        nodes,
        "decoder",
        [value(t, dims[t.name]) for t in MASK_DECODER.inputs],
        [value(t, dims[t.name]) for t in MASK_DECODER.outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path / MODEL_FILE)


def test_open_graph_runs_a_graph_of_the_contract(tmp_path: Path) -> None:
    save_constant_decoder(tmp_path, "B")
    tensors = {
        t.name: np.ones([2, *map(abs, t.shape(256)[1:])], t.dtype) for t in MASK_DECODER.inputs
    }
    [answer] = open_graph(settings(tmp_path))([Request(tensors, frozenset({"iou_predictions"}))])
    assert not isinstance(answer, Exception)
    assert {name: array.shape for name, array in answer.items()} == {"iou_predictions": (2, 1, 4)}


def test_open_graph_fixed_batch_raises(tmp_path: Path) -> None:
    save_constant_decoder(tmp_path, 1)
    with pytest.raises(ServingError, match="mask_decoder, inputs"):
        open_graph(settings(tmp_path))


def test_open_graph_missing_or_broken_file_raises(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="got no such file"):
        open_graph(settings(tmp_path))
    (tmp_path / MODEL_FILE).write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="ONNX Runtime refuses"):
        open_graph(settings(tmp_path))


def test_open_graph_whose_largest_batch_fails_refuses_to_load(tmp_path: Path) -> None:
    save_constant_decoder(tmp_path, "B", most=3)
    open_graph(settings(tmp_path, 3))
    with pytest.raises(ServingError, match="^the graph mask_decoder failed: "):
        open_graph(settings(tmp_path, 4))
