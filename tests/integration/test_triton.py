from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from benchmarks.serving.scan import CLOSED_CALLS, CLOSED_PATHS
from cpcsam.artifacts.versions import list_versions, roll_back
from cpcsam.automatic.rle import mask_from_rle
from cpcsam.entry_points import DECODE, ENCODE, ENSEMBLES, SEGMENT
from cpcsam.transforms import upscale_masks
from export.triton_repository.config import RepositoryConfig, model_configs
from export.triton_repository.publishing import build_repository
from serving import watch
from serving.triton.launch import TritonServer, launch_triton
from tests.support.artifact_factory import export_shipped_base
from tests.support.servers.triton_calls import (
    Arrays,
    infer,
    noise_png,
    segment_inputs,
    wait_until_counted,
)
from tests.support.tiny_models import publish_tiny_graphs

pytestmark = pytest.mark.triton

IMAGE_SIZE = 256
WIDE, TALL = noise_png(90, 140, seed=1), noise_png(300, 200, seed=2)
ONE_PROMPT = [[[20.0, 30.0]]]
FOUR_PROMPTS = [[[10.0 * p, 40.0], [90.0, 15.0 * p]] for p in range(4)]


@pytest.fixture
def client(triton: TritonServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(triton.grpc_url) as opened:
        yield opened


def segment(client: InferenceServerClient, image: bytes, points: list) -> Arrays:
    return infer(client, "segment", segment_inputs(image, points), DECODE.output_names)


def test_triton_has_every_model_ready(client: InferenceServerClient) -> None:
    assert client.is_server_ready()
    assert all(client.is_model_ready(spec.name) for spec in ENSEMBLES)


def test_segment_returns_masks_of_the_original_size(client: InferenceServerClient) -> None:
    inputs = segment_inputs(WIDE, FOUR_PROMPTS)
    answer = infer(client, "segment", inputs, SEGMENT.output_names)
    assert answer["scores"].shape == (1, 4, 1)
    assert answer["original_size"].tolist() == [[90, 140]]
    assert answer["input_size"].tolist() == [[165, 256]]
    for prompt in range(4):
        logits = upscale_masks(
            answer["selected_low_res_masks"][0, prompt, 0], (165, 256), (90, 140), IMAGE_SIZE
        )
        mask = mask_from_rle(answer["masks_rle"][0, prompt, 0], (90, 140))
        assert np.array_equal(mask, logits > 0)
        assert 0 < mask.mean() < 1


def test_encode_then_decode_equals_segment(client: InferenceServerClient) -> None:
    inputs = segment_inputs(TALL, FOUR_PROMPTS)
    encoded = infer(
        client, "encode", {"image_bytes": inputs.pop("image_bytes")}, ENCODE.output_names
    )
    decoded = infer(client, "decode", inputs | encoded, DECODE.output_names)
    expected = segment(client, TALL, FOUR_PROMPTS)
    assert_same(decoded, expected, (300, 200))


@pytest.mark.parametrize(
    "outputs",
    [
        ("scores",),
        ("masks_rle", "original_size"),
        ("selected_low_res_masks", "input_size"),
        ("masks_rle", "scores", "image_embeddings", "input_size", "original_size"),
    ],
)
def test_segment_returns_only_requested_outputs(
    client: InferenceServerClient, outputs: tuple[str, ...]
) -> None:
    answer = infer(client, "segment", segment_inputs(WIDE, ONE_PROMPT), outputs)
    assert all(array is not None for array in answer.values())


def bad_requests() -> dict[str, Arrays]:
    good = segment_inputs(WIDE, ONE_PROMPT)
    return {
        "image_bytes: got 4 bytes": segment_inputs(b"text", ONE_PROMPT),
        "image_bytes: got 0 bytes": segment_inputs(b"", ONE_PROMPT),
        "that cannot be decoded": segment_inputs(TALL[:200], ONE_PROMPT),
        "a coordinate that is NaN": segment_inputs(WIDE, [[[float("nan"), 1.0]]]),
        "mask_selection: got 9": good | {"mask_selection": np.full((1, 1), 9, np.int32)},
        "unexpected shape": good | {"mask_selection": np.zeros((1, 2), np.int32)},
    }


@pytest.mark.parametrize("message", bad_requests())
def test_segment_with_invalid_input_returns_an_error_and_keeps_serving(
    client: InferenceServerClient, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        infer(client, "segment", bad_requests()[message], ["scores"])
    assert "INVALID_ARGUMENT" in str(caught.value.status())
    assert "Traceback" not in str(caught.value)
    assert "model.py" not in str(caught.value)
    assert infer(client, "segment", segment_inputs(WIDE, ONE_PROMPT), ["scores"])


@pytest.mark.parametrize("call", CLOSED_CALLS.values(), ids=CLOSED_CALLS)
def test_administration_over_grpc_is_closed(
    client: InferenceServerClient, call: Callable[[InferenceServerClient], object]
) -> None:
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        call(client)


@pytest.mark.parametrize("path", CLOSED_PATHS)
def test_administration_is_closed_over_http(triton: TritonServer, path: str) -> None:
    method = "POST" if path.startswith("repository") else "GET"
    request = urllib.request.Request(f"{triton.http_url}/v2/{path}", method=method)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=60)


def test_metrics_count_requests_and_report_quantiles(
    triton: TritonServer, client: InferenceServerClient
) -> None:
    success = ("nv_inference_request_success_total", "segment")
    wait_until_counted(client)
    before = counters(triton)
    segment(client, WIDE, ONE_PROMPT)
    wait_until_counted(client)
    after = counters(triton)
    # More than one where a gateway of other tests probes this server.
    assert after[success] >= before[success] + 1
    assert ("nv_inference_request_summary_us", "image_encoder") in after


def counters(triton: TritonServer) -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(triton.metrics_url, timeout=60) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return {
        (sample.name, sample.labels.get("model", "")): sample.value
        for family in families
        for sample in family.samples
    }


def executions(client: InferenceServerClient, model: str) -> dict[int, int]:
    """Return the number of a model's executions by batch size."""
    statistics = client.get_inference_statistics(model).model_stats[0]
    return {batch.batch_size: batch.compute_infer.count for batch in statistics.batch_stats}


def test_requests_of_any_shape_are_decoded_side_by_side_and_equal_single_ones(
    triton: TritonServer, client: InferenceServerClient
) -> None:
    tasks = [known(client, WIDE, ONE_PROMPT, b"wide"), known(client, TALL, FOUR_PROMPTS, b"tall")]
    alone = [infer(client, "decode", task, DECODE.output_names) for task in tasks]
    clients = [InferenceServerClient(triton.grpc_url) for _ in range(8)]
    with ThreadPoolExecutor(len(clients)) as pool:
        for _ in range(20):
            together = list(
                pool.map(
                    lambda i: infer(clients[i], "decode", tasks[i % 2], DECODE.output_names),
                    range(len(clients)),
                )
            )
            for index, answer in enumerate(together):
                for name, array in answer.items():
                    assert np.array_equal(array, alone[index % 2][name])
    wait_until_counted(client)
    assert max(executions(client, "decoder")) > 1
    assert set(executions(client, "image_encoder")) == {1}


def known(client: InferenceServerClient, image: bytes, points: list, key: bytes) -> Arrays:
    """Encode an image under a key; return the inputs of `decode`."""
    inputs = segment_inputs(image, points) | {"image_key": np.array([[key]], object)}
    sizes = infer(client, "segment", inputs, ["scores", "input_size", "original_size"])
    del sizes["scores"]
    del inputs["image_bytes"]
    return inputs | sizes


def test_decode_by_key_equals_segment(client: InferenceServerClient) -> None:
    inputs = known(client, TALL, FOUR_PROMPTS, b"key")
    expected = segment(client, TALL, FOUR_PROMPTS)
    decoded = infer(client, "decode", inputs, DECODE.output_names)
    for name in DECODE.output_names:
        assert np.array_equal(decoded[name], expected[name]), name
    logits = expected["selected_low_res_masks"]
    refined = infer(client, "decode_with_mask", inputs | {"mask_input": logits}, ["scores"])
    assert not np.array_equal(refined["scores"], expected["scores"])


def test_masks_below_the_thresholds_are_empty(client: InferenceServerClient) -> None:
    inputs = segment_inputs(TALL, FOUR_PROMPTS) | {"mask_selection": np.full((1, 1), 2, np.int32)}
    every = infer(client, "segment", inputs, DECODE.output_names)
    least = float(np.median(every["scores"]))
    inputs["mask_thresholds"] = np.array([[least, 0.0, 1.0]])
    some = infer(client, "segment", inputs, DECODE.output_names)
    kept = every["scores"] > least
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(some["areas"], np.where(kept, every["areas"], 0))
    assert np.array_equal(some["masks_rle"][kept], every["masks_rle"][kept])
    assert np.array_equal(some["scores"], every["scores"])


def test_decode_by_a_key_without_an_embedding_says_so(client: InferenceServerClient) -> None:
    inputs = known(client, WIDE, ONE_PROMPT, b"key") | {"image_key": np.array([[b"no"]], object)}
    with pytest.raises(InferenceServerException, match="image_key: got a key without") as caught:
        infer(client, "decode", inputs, ["scores"])
    assert "NOT_FOUND" in str(caught.value.status())


def assert_same(answer: Arrays, expected: Arrays, size: tuple[int, int]) -> None:
    """Compare logits within 1e-4 of their range, and masks at an IoU of at least 0.999."""
    logits, wanted = answer["selected_low_res_masks"], expected["selected_low_res_masks"]
    assert logits.shape == wanted.shape
    assert abs(logits - wanted).max() <= 1e-4 * abs(wanted).max()
    np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-4)
    for prompt in range(logits.shape[1]):
        mask = mask_from_rle(answer["masks_rle"][0, prompt, 0], size)
        other = mask_from_rle(expected["masks_rle"][0, prompt, 0], size)
        assert (mask & other).sum() >= 0.999 * (mask | other).sum()


MODELS = list(model_configs(RepositoryConfig("tiny", IMAGE_SIZE, "cpu")))
INPUTS = segment_inputs(noise_png(90, 140), [[[20.0, 30.0]]])


def served(triton: TritonServer) -> tuple[set[str], np.ndarray]:
    """Return the versions of all models, and the outputs of `segment`."""
    with InferenceServerClient(triton.grpc_url) as client:
        versions = {v for name in MODELS for v in client.get_model_metadata(name).versions}
        return versions, infer(client, "segment", INPUTS, ["scores"])["scores"]


def test_server_keeps_its_version_and_a_restart_takes_the_current_one(
    triton: TritonServer, graphs: Path, tmp_path: Path
) -> None:
    _, old = served(triton)
    store = tmp_path / "store"
    build_repository(graphs, store)
    for number in (1, 2):
        publish_tiny_graphs(tmp_path / f"new{number}", seed=number)
    build_repository(tmp_path / "new1", store)
    roll_back(store, "repository")
    with launch_triton(store) as rolled_back:
        versions, again = served(rolled_back)
        assert versions == {"1"} and np.array_equal(again, old)
        build_repository(tmp_path / "new2", store)
        versions, same = served(rolled_back)
        assert versions == {"1"} and np.array_equal(same, old)
    with launch_triton(store) as restarted:
        versions, new = served(restarted)
        assert versions == {"3"} and not np.allclose(new, old)


def test_golden_answers_tell_the_served_model_from_another(
    triton: TritonServer,
    graphs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish_tiny_graphs(tmp_path / "other", seed=1)
    right = build_repository(graphs, tmp_path / "right", golden=graphs)
    other = build_repository(tmp_path / "other", tmp_path / "wrong", golden=tmp_path / "other")
    port = triton.http_url.rpartition(":")[2]
    for version, message in (
        (right, ""),
        (other, "golden answers, image 0, low_res_masks: got a relative difference of"),
    ):
        assert watch.main(["--golden", str(version), "--http-port", port]) == (2 if message else 0)
        assert message in capsys.readouterr().err


def test_export_of_an_unchanged_model_rebuilds_nothing(shipped_build: Path) -> None:
    made = [shipped_build / "onnx/manifest.json", shipped_build / "repository/1/manifest.json"]
    before = [file.stat().st_mtime_ns for file in made]
    export_shipped_base(shipped_build)
    assert [file.stat().st_mtime_ns for file in made] == before
    assert [*list_versions(shipped_build / "repository")] == [1]
