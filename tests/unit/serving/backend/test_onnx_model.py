from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cpcsam.contract import MASK_DECODER, TensorSpec
from cpcsam.errors import ArtifactError, ServingError
from serving.backend.onnx_model import MODEL_FILE, open_graph, run_together
from serving.backend.step import Request, Settings, Tensors

WANTED = frozenset({"doubled"})


def request(*values: float, width: int = 2) -> Request:
    rows = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
    return Request({"value": rows}, WANTED)


class Graph:
    """Doubles its input, fails if any value is negative, and remembers the batches it saw."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, tensors: Tensors) -> Tensors:
        value = tensors["value"]
        self.batches.append(len(value))
        if (value < 0).any():
            raise ValueError("negative")
        return {"doubled": 2 * value, "unwanted": value}


def test_run_together_batches_requests_and_splits_outputs() -> None:
    graph = Graph()
    answers = run_together(graph, [request(1), request(2, 3), request(4)])
    assert graph.batches == [4]
    assert [a["doubled"][:, 0].tolist() for a in answers] == [[2], [4, 6], [8]]
    assert all(a.keys() == WANTED for a in answers)


def test_run_together_groups_requests_by_shape() -> None:
    graph = Graph()
    answers = run_together(graph, [request(1), request(2, width=3), request(3)])
    assert graph.batches == [2, 1]
    assert [a["doubled"].shape for a in answers] == [(1, 2), (1, 3), (1, 2)]


def test_run_together_isolates_a_faulty_request() -> None:
    answers = run_together(Graph(), [request(1), request(-1), request(3)])
    assert answers[0]["doubled"].tolist() == [[2, 2]]
    assert isinstance(answers[1], ServingError)
    assert "negative" in str(answers[1])
    assert answers[2]["doubled"].tolist() == [[6, 6]]


def settings(directory: Path) -> Settings:
    return Settings(MASK_DECODER.name, directory, {"image_size": "256", "intra_op_threads": "1"})


def value(tensor: TensorSpec, dims: list[str | int]) -> onnx.ValueInfoProto:
    kind = TensorProto.INT32 if tensor.dtype == "int32" else TensorProto.FLOAT
    return helper.make_tensor_value_info(tensor.name, kind, dims)


def save_constant_decoder(path: Path, batch: str | int) -> None:
    """A decoder that answers zeros, with the given first dimension declared."""
    dims = {
        t.name: [batch, *t.dims[1:2], *t.shape(256)[2:]]
        for t in (*MASK_DECODER.inputs, *MASK_DECODER.outputs)
    }
    dims["image_embeddings"] = [batch, 256, 16, 16]
    dims["sparse_embeddings"] = [batch, "P", "N+1", 256]
    dims["token_mask"] = [batch, "P", "N+1"]
    nodes = [
        helper.make_node("ReduceMean", ["token_mask", "two"], ["mean"]),
        helper.make_node("Mul", ["mean", "zeros4"], ["iou_predictions"]),
        helper.make_node("Unsqueeze", ["iou_predictions", "three_four"], ["cells"]),
        helper.make_node("Mul", ["cells", "zeros64"], ["low_res_masks"]),
    ]
    constants = {
        "two": np.array([2]),
        "three_four": np.array([3, 4]),
        "zeros4": np.zeros((1, 1, 4), np.float32),
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
