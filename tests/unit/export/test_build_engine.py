"""Engines: the build_engine command, its container, and the optimization profiles."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest
import yaml

from cpcsam.artifacts.manifest import publish
from cpcsam.contract import (
    DECODER_MAX_BATCH,
    ENCODER_MAX_BATCH,
    GRAPHS,
    IMAGE_ENCODER,
    MAX_IMAGES_TIMES_PROMPTS,
    POINT_BUCKETS,
    PROMPT_BUCKETS,
    GraphSpec,
)
from cpcsam.errors import ExportError
from cpcsam.gpu import Gpu
from export.build_engine import build_engines, main
from export.engines.builder import AHEAD_OF_TIME
from export.engines.container import INSIDE, container_command, triton_image
from export.engines.importing import require_tensorrt_rtx
from export.engines.profiles import Profile, nearest_profile, profiles_of
from tests.support.paths import ROOT

SIZE = 1024
PROMPTED = [graph for graph in GRAPHS if graph is not IMAGE_ENCODER]


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    config = {"model_size": "vit_t", "image_size": 256, "precision": "fp32"}
    with publish(tmp_path / "onnx", "onnx", config=config):
        pass
    return tmp_path / "onnx"


def test_triton_image_is_the_serving_image() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert triton_image() == services["triton-gpu"]["image"]
    dockerfile = (ROOT / services["triton-gpu"]["build"]["dockerfile"]).read_text()
    assert f"WORKDIR {INSIDE}" in dockerfile and f"PYTHONPATH={INSIDE}" in dockerfile


def test_container_command_runs_as_this_user(tmp_path: Path) -> None:
    mounts = {tmp_path / "onnx": "/onnx:ro", tmp_path / "build": "/out"}
    command = container_command("image:1", "export.some", ["--onnx=/onnx"], mounts)
    assert command[:3] == ["docker", "run", "--rm"]
    inner = command.index("image:1")
    assert set(command[3:inner]) >= {
        "--gpus=1",
        "--interactive",
        "--network=none",
        f"--user={os.getuid()}:{os.getgid()}",
        f"--volume={ROOT}/cpcsam:{INSIDE}/cpcsam:ro",
        f"--volume={ROOT}/export:{INSIDE}/export:ro",
        f"--volume={tmp_path}/onnx:/onnx:ro",
        f"--volume={tmp_path}/build:/out",
    }
    assert command[inner + 1 :] == ["python3", "-m", "export.some", "--onnx=/onnx"]


def test_build_engine_command_without_tensorrt_and_docker_names_both(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--onnx", str(onnx), "--out", str(tmp_path / "engines")]
    assert main(arguments) == 2
    assert "got neither its Python module nor docker" in capsys.readouterr().err
    assert main([*arguments, "--here"]) == 2
    errors = capsys.readouterr().err
    assert "TensorRT: got No module named 'tensorrt'; No module named 'tensorrt_bind" in errors


def test_build_engines_int8_graphs_raises(tmp_path: Path) -> None:
    config = {"model_size": "vit_t", "image_size": 256, "precision": "int8"}
    with publish(tmp_path / "onnx", "onnx", config=config):
        pass
    gpu = Gpu("NVIDIA L4", "8.9")
    with pytest.raises(ExportError, match="got graphs in int8, expected fp32 or fp16"):
        build_engines(
            tmp_path / "onnx",
            tmp_path / "engines",
            trt=require_tensorrt_rtx(),
            gpu=gpu,
            options=AHEAD_OF_TIME,
        )


def shapes(graph: GraphSpec, **sizes: int) -> dict[str, tuple[int, ...]]:
    sizes = {"N+1": sizes.get("N", 0) + 1, "S": SIZE, "G": SIZE // 16, "4G": SIZE // 4} | sizes
    return {
        tensor.name: tuple(dim if isinstance(dim, int) else sizes[dim] for dim in tensor.dims)
        for tensor in graph.inputs
    }


def fits(profile: Profile, required: dict[str, tuple[int, ...]]) -> bool:
    return all(
        all(
            low <= size <= high
            for low, size, high in zip(r.smallest, shape, r.largest, strict=True)
        )
        for r, shape in ((profile[name], shape) for name, shape in required.items())
    )


def test_encoder_profile_fits_every_batch() -> None:
    [profile] = profiles_of(IMAGE_ENCODER, SIZE)
    for batch in range(1, ENCODER_MAX_BATCH + 1):
        assert fits(profile, shapes(IMAGE_ENCODER, B=batch))
    assert not fits(profile, shapes(IMAGE_ENCODER, B=ENCODER_MAX_BATCH + 1))


@pytest.mark.parametrize("graph", PROMPTED, ids=lambda graph: graph.name)
def test_profiles_fit_every_padded_request(graph: GraphSpec) -> None:
    profiles, chosen = profiles_of(graph, SIZE), set()
    batches = range(1, DECODER_MAX_BATCH + 1)
    for images, prompts, points in product(batches, PROMPT_BUCKETS, POINT_BUCKETS):
        required = shapes(graph, B=images, P=prompts, N=points)
        assert any(fits(profile, required) for profile in profiles), required
        chosen.add(nearest_profile(profiles, required))
    assert chosen == {*range(len(profiles))}, "each is what Triton takes for some requests"
    for profile in profiles:
        assert all(shape.usual[0] == graph.max_batch for shape in profile.values())


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_profile_ranges_are_ordered_and_bounded(graph: GraphSpec) -> None:
    for profile in profiles_of(graph, SIZE):
        assert profile.keys() == set(graph.input_names)
        for name, shape in profile.items():
            assert all(
                low <= usual <= high
                for low, usual, high in zip(shape.smallest, shape.usual, shape.largest, strict=True)
            )
            if "P" in next(tensor for tensor in graph.inputs if tensor.name == name).dims:
                assert shape.largest[0] * shape.largest[1] <= MAX_IMAGES_TIMES_PROMPTS


@pytest.mark.parametrize("graph", PROMPTED, ids=lambda graph: graph.name)
@pytest.mark.parametrize(
    ("images", "prompts", "profile"),
    [(4, 1, 0), (1, 1, 0), (4, 16, 1), (2, 16, 1), (1, 4, 1), (1, 2, 1)],
)
def test_nearest_profile_chooses_nearest_that_fits(
    graph: GraphSpec, images: int, prompts: int, profile: int
) -> None:
    required = shapes(graph, B=images, P=prompts, N=2)
    assert nearest_profile(profiles_of(graph, 256), required) is None
    assert nearest_profile(profiles_of(graph, SIZE), required) == profile


@pytest.mark.parametrize("sizes", [(5, 16, 2), (5, 1, 2), (1, 17, 2), (1, 1, 17)], ids=str)
def test_nearest_profile_beyond_every_profile_is_none(sizes: tuple[int, int, int]) -> None:
    images, prompts, points = sizes
    required = shapes(PROMPTED[0], B=images, P=prompts, N=points)
    assert nearest_profile(profiles_of(PROMPTED[0], SIZE), required) is None
