"""Embeddings kept under keys, the decoder that runs all steps in one process, and joined images."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpcsam.backends.onnx_backend import open_session
from cpcsam.contract import IMAGE_ENCODER, MASK_DECODER, PROMPT_ENCODER
from cpcsam.entry_points import DECODE
from cpcsam.errors import ArtifactError, ConfigError, ContractError
from cpcsam.gpu import visible_gpus
from serving.backend.decoder import open_decoder
from serving.backend.embedding_store import EmbeddingStore, open_embedding_store
from serving.backend.onnx_model import MODEL_FILE, open_graph
from serving.backend.postprocess import postprocess
from serving.backend.preprocess import scale_prompts
from serving.backend.step import Answer, NotStoredError, Request, Settings, each, together
from tests.support.tiny_models import publish_tiny_graphs

SIDE, MAX_PIXELS = 256, 1 << 20
SIZE = (90, 140)
EMBEDDING_BYTES = 256 * 16 * 16 * 4


def embedding(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 256, 16, 16)).astype(np.float32)


def naming(key: bytes, embeddings: np.ndarray | None = None) -> Request:
    tensors: dict[str, Any] = {"image_key": np.array([[key]], object)}
    if embeddings is not None:
        tensors["image_embeddings"] = embeddings
    return Request(tensors, frozenset({"stored_embeddings"}))


def test_store_returns_what_a_key_was_given_even_if_the_array_changes() -> None:
    store, given = EmbeddingStore(4 * EMBEDDING_BYTES), embedding()
    expected = given.copy()
    assert store.take(naming(b"a", given)) is given
    given[:] = 0
    assert np.array_equal(store.take(naming(b"a")), expected)


@pytest.mark.parametrize("key", [b"", b"another"])
def test_store_refuses_a_key_without_an_embedding_by_name(key: bytes) -> None:
    store = EmbeddingStore(4 * EMBEDDING_BYTES)
    store.take(naming(b"", embedding()))
    with pytest.raises(NotStoredError, match=r"^image_key: got a key without an embedding"):
        store.take(naming(key))


@pytest.mark.parametrize("again", [naming(b"a"), naming(b"a", embedding(0))])
def test_store_forgets_the_least_recently_used_beyond_its_bytes(again: Request) -> None:
    store = EmbeddingStore(2 * EMBEDDING_BYTES)
    for seed, key in enumerate((b"a", b"b")):
        store.take(naming(key, embedding(seed)))
    store.take(again)
    store.take(naming(b"c", embedding(2)))
    assert np.array_equal(store.take(naming(b"a")), embedding(0))
    assert np.array_equal(store.take(naming(b"c")), embedding(2))
    with pytest.raises(NotStoredError):
        store.take(naming(b"b"))


def test_store_too_small_for_one_embedding_is_refused() -> None:
    parameters = {"image_size": str(SIDE), "embedding_store_bytes": str(EMBEDDING_BYTES - 1)}
    with pytest.raises(ConfigError, match=f"expected at least {EMBEDDING_BYTES}"):
        open_embedding_store(Settings("embedding_store", Path(), parameters))


def test_embedding_store_step_answers_each_request() -> None:
    parameters = {"image_size": str(SIDE), "embedding_store_bytes": str(EMBEDDING_BYTES)}
    step = open_embedding_store(Settings("embedding_store", Path(), parameters))
    kept, missing = step([naming(b"a", embedding()), naming(b"b")])
    assert not isinstance(kept, Exception)
    assert np.array_equal(kept["stored_embeddings"], embedding())
    assert isinstance(missing, NotStoredError)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("decoder") / "onnx"
    publish_tiny_graphs(out, SIDE)
    return out


def parameters(**changed: str) -> dict[str, str]:
    return {
        "image_size": str(SIDE),
        "max_pixels": str(MAX_PIXELS),
        "intra_op_threads": "1",
        "embedding_store_bytes": str(8 * EMBEDDING_BYTES),
    } | changed


def prompts(count: int, **changed: Any) -> dict[str, Any]:
    coords = np.random.default_rng(count).uniform(0, 90, (1, count, 1, 2)).astype(np.float32)
    return {
        "image_key": np.array([[b"k"]], object),
        "image_embeddings": embedding(),
        "input_size": np.array([[165, 256]], np.int32),
        "original_size": np.array([SIZE], np.int32),
        "point_coords": coords,
        "point_labels": np.ones((1, count, 1), np.int32),
        "mask_selection": np.zeros((1, 1), np.int32),
    } | changed


def asked(tensors: dict[str, Any]) -> Request:
    return Request(tensors, frozenset((*DECODE.output_names, "stored_embeddings")))


def equal(answer: Answer, expected: Answer) -> bool:
    assert not isinstance(answer, Exception) and not isinstance(expected, Exception)
    return answer.keys() == expected.keys() and all(
        np.array_equal(answer[name], expected[name]) for name in expected
    )


def test_decoder_equals_its_steps_one_after_the_other(graphs: Path) -> None:
    tensors = prompts(3)
    [answer] = open_decoder(Settings("decoder", graphs, parameters()))([asked(tensors)])
    known = dict(tensors)
    known["point_coords"] = scale_prompts(asked(tensors), SIDE)["scaled_point_coords"]
    for graph in (PROMPT_ENCODER, MASK_DECODER):
        session = open_session(graphs / f"{graph.name}.onnx", 1)
        feeds = {name: known[name] for name in graph.input_names}
        known |= zip(graph.output_names, session.run(graph.output_names, feeds), strict=True)
    expected = dict(postprocess(Request(known, asked({}).outputs), SIDE, MAX_PIXELS))
    assert equal(answer, expected | {"stored_embeddings": embedding()})


def test_decoder_answers_by_key_and_with_masks_as_with_the_embedding(graphs: Path) -> None:
    decode = open_decoder(Settings("decoder", graphs, parameters()))
    mask = np.random.default_rng(5).normal(size=(1, 2, 1, 64, 64)).astype(np.float32)
    for tensors in (prompts(2), prompts(2, mask_input=mask)):
        [first] = decode([asked(tensors)])
        by_key = {name: value for name, value in tensors.items() if name != "image_embeddings"}
        [again] = decode([asked(by_key)])
        assert equal(again, first)
    [plain] = decode([asked(prompts(2))])
    assert not equal(first, plain)


def test_decoder_answers_the_same_in_any_company(graphs: Path) -> None:
    decode = open_decoder(Settings("decoder", graphs, parameters()))
    requests = [asked(prompts(count)) for count in (1, 4, 2, 3, 1)]
    bad = asked(prompts(1, mask_selection=np.full((1, 1), 9, np.int32)))
    alone = [decode([request])[0] for request in requests]
    together = decode([*requests[:2], bad, *requests[2:]])
    assert isinstance(together[2], ContractError)
    for answer, expected in zip([*together[:2], *together[3:]], alone, strict=True):
        assert equal(answer, expected)


def test_decoder_names_a_missing_graph(graphs: Path, tmp_path: Path) -> None:
    for graph in (PROMPT_ENCODER, MASK_DECODER):
        name = f"{graph.name}.onnx"
        (tmp_path / name).write_bytes((graphs / name).read_bytes())
    with pytest.raises(ArtifactError, match=r"prompt_encoder_with_mask\.onnx: got no such file"):
        open_decoder(Settings("decoder", tmp_path, parameters()))


@pytest.mark.skipif(bool(visible_gpus()), reason="there is a GPU")
def test_decoder_for_cuda_without_a_gpu_refuses_to_load(graphs: Path) -> None:
    with pytest.raises(ConfigError, match="^CUDAExecutionProvider: got .*; available providers: "):
        open_decoder(Settings("decoder", graphs, parameters(provider="cuda")))


def test_decoder_for_an_unknown_provider_names_the_parameter(graphs: Path) -> None:
    with pytest.raises(ConfigError, match="parameter provider: got 'rocm', expected cpu or cuda"):
        open_decoder(Settings("decoder", graphs, parameters(provider="rocm")))


def test_image_encoder_joins_the_images_of_a_batch(graphs: Path, tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes((graphs / f"{IMAGE_ENCODER.name}.onnx").read_bytes())
    encode = open_graph(Settings(IMAGE_ENCODER.name, tmp_path, parameters(), max_batch=4))
    rng = np.random.default_rng(0)
    requests = [
        Request(
            {
                "image": rng.integers(0, 256, (images, 3, SIDE, SIDE), dtype=np.uint8),
                "input_size": np.full((images, 2), SIDE, np.int32),
            },
            frozenset(outputs),
        )
        for images, outputs in (
            (1, {"image_embeddings", "step_times"}),
            (2, {"image_embeddings"}),
            (1, {"step_times"}),
        )
    ]
    joined = encode(requests)
    # One call, whose times are those of each.
    times = [answer["step_times"].tolist() for answer in (joined[0], joined[2])]  # type: ignore[index]
    assert times[0] == times[1] and len(times[0][0]) == 2
    for request, answer in zip(requests, joined, strict=True):
        assert not isinstance(answer, Exception) and answer.keys() == request.outputs
        if "image_embeddings" in answer:
            [alone] = encode([request])
            np.testing.assert_allclose(
                answer["image_embeddings"],
                alone["image_embeddings"],  # type: ignore[index]
                atol=1e-5,
            )


def test_each_runs_as_many_requests_at_a_time_as_it_has_threads() -> None:
    barrier = threading.Barrier(2, timeout=30)

    def meet(request: Request) -> dict[str, Any]:
        barrier.wait()
        return dict(request.tensors)

    requests = [Request({"x": np.array([i])}, frozenset({"step_times"})) for i in range(4)]
    answers = each(meet, threads=2)(requests)
    assert all(np.diff(a["step_times"]).item() >= 0 for a in answers)  # type: ignore[index]
    assert [a["x"][0] for a in each(meet, threads=2)(requests)] == [0, 1, 2, 3]  # type: ignore[index]


def test_together_gives_each_request_its_own_rows_or_the_error_of_all() -> None:
    def double(request: Request) -> dict[str, Any]:
        if (request.tensors["x"] < 0).any():
            raise ContractError("a negative number")
        return {"y": 2 * request.tensors["x"]}

    def requests(*rows: list[int]) -> list[Request]:
        return [Request({"x": np.array([row]).T}, frozenset({"y"})) for row in rows]

    answers = together(double)(requests([1], [2, 3], [4]))
    assert [a["y"].ravel().tolist() for a in answers] == [[2], [4, 6], [8]]  # type: ignore[index]
    failed = together(double)(requests([1], [-1]))
    assert [type(answer) for answer in failed] == [ContractError, ContractError]
