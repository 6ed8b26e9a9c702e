"""CLIP's towers as graphs: exported, published, opened as in Triton, and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.clip.onnx_towers import IMAGE_FILE, OnnxTowers
from cpcsam.clip.preprocess import ClipInfo
from cpcsam.clip.towers import ClipTowers
from cpcsam.entry_points import CLIP, CLIP_CROPS, CLIP_EMBEDDINGS, CLIP_TEXTS
from cpcsam.errors import ArtifactError, ConfigError, ContractError, ServingError
from export.text_encoder import main
from export.triton_repository.layout import ClipSource
from export.triton_repository.publishing import build_repository
from serving.backend.clip import open_clip_towers
from serving.backend.step import Request, Settings
from tests.support.tiny_clip import write_tiny_clip
from tests.support.tiny_models import publish_tiny_graphs


def export(folder: Path, seed: int) -> Path:
    name, weights = write_tiny_clip(folder, seed)
    out = folder / f"clip-{seed}"
    assert main(["--clip", name, "--weights", str(weights), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("clip"), seed=0)


@pytest.fixture(scope="module")
def towers(exported: Path) -> ClipTowers:
    return ClipTowers.load(*write_tiny_clip(exported.parent))


def info_of(exported: Path) -> ClipInfo:
    return ClipInfo.of_json(read_manifest(exported, "clip").config["clip"])


def test_exported_towers_equal_torch(exported: Path, towers: ClipTowers) -> None:
    onnx = OnnxTowers(exported, info_of(exported), threads=1)
    assert onnx.info.digest == towers.digest and onnx.info.logit_scale == towers.logit_scale
    texts = ["nucleus", "mitotic cell " * 50, "", "細胞"]
    assert np.abs(onnx.embed_texts(texts) - towers.embed_texts(texts)).max() < 1e-5
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (5, 40, 90, 32)]
    found = onnx.embed_crops(onnx.info.preprocess.resize(images))
    assert np.abs(found - towers.embed_images(images)).max() < 1e-5
    assert onnx.embed_texts([]).shape == (0, 16)


def test_export_is_repeated_only_after_a_change(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_manifest(exported, "clip").metrics["difference"] < 1e-5
    export(exported.parent, seed=0)
    assert "unchanged" in capsys.readouterr().out


def test_published_model_embeds_as_torch(
    exported: Path, towers: ClipTowers, tmp_path: Path
) -> None:
    publish_tiny_graphs(tmp_path / "onnx")
    version = build_repository(tmp_path / "onnx", tmp_path / "out", clip=exported)
    assert build_repository(tmp_path / "onnx", tmp_path / "out", clip=exported) == version
    assert read_manifest(version).config["clip"] == towers.digest
    assert build_repository(tmp_path / "onnx", tmp_path / "out").name == "2"
    config = text_format.Parse((version / "clip/config.pbtxt").read_text(), ModelConfig())
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    execute = open_clip_towers(Settings(CLIP.name, version / "clip/1", parameters))
    outputs = frozenset({CLIP_EMBEDDINGS.name})
    texts = Request({CLIP_TEXTS.name: np.array([[b"cell", b""]], object)}, outputs)
    crops = Request({CLIP_CROPS.name: np.zeros((1, 3, 32, 32, 3), np.uint8)}, outputs)
    wrong = Request({CLIP_CROPS.name: np.zeros((1, 3, 16, 32, 3), np.uint8)}, outputs)
    answers = execute([texts, crops, wrong, Request({}, outputs)])
    embedded = answers[0][CLIP_EMBEDDINGS.name]
    assert np.abs(embedded[0] - towers.embed_texts(["cell", ""])).max() < 1e-5
    assert answers[1][CLIP_EMBEDDINGS.name].shape == (1, 3, 16)
    assert isinstance(answers[2], ContractError) and "expected (1, N, 32, 32, 3)" in str(answers[2])
    assert isinstance(answers[3], ContractError)


def test_model_refuses_towers_that_differ_from_golden(exported: Path, tmp_path: Path) -> None:
    other = export(tmp_path / "other", seed=1)
    mixed = tmp_path / "mixed"
    shutil.copytree(exported, mixed)
    shutil.copy(other / IMAGE_FILE, mixed / IMAGE_FILE)
    facts = {"clip": info_of(exported).to_json(), "intra_op_threads": "1"}
    with pytest.raises(ServingError, match=r"golden image_embeddings of tiny-clip: got"):
        open_clip_towers(Settings(CLIP.name, mixed, facts))
    with pytest.raises(ConfigError, match="CLIP: got unreadable facts"):
        open_clip_towers(Settings(CLIP.name, exported, {"intra_op_threads": "1"}))
    with pytest.raises(ArtifactError, match="expected .* as its manifest says"):
        ClipSource.read(mixed)
