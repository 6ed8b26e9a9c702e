from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from cpcsam.artifacts.golden import read_golden
from cpcsam.artifacts.manifest import publish, read_manifest, sha256_file
from cpcsam.artifacts.versions import current_version, list_versions
from cpcsam.client.images import encode_image
from cpcsam.contract import ENCODER_MAX_BATCH, GRAPHS, IMAGE_ENCODER, graphs_of
from cpcsam.errors import ArtifactError, ExportError
from cpcsam.images.intensity import eight_bits, rgb_of
from cpcsam.images.options import INTENSITY, Intensity
from cpcsam.scale import SCALE, Scale
from cpcsam.transforms import to_frame
from export.engines.profiles import nearest_profile, profiles_of
from export.provenance import COMPARED_IN
from export.repository import main
from export.triton_repository.config import RepositoryConfig, Target, model_configs
from export.triton_repository.publishing import build_repository
from serving.backend.preprocess import open_preprocess
from serving.backend.step import Request, Settings
from tests.support.version_models import publish_version_graphs, versions_of

CONFIG = {"model_size": "vit_b", "image_size": 512, "trained_model": "a" * 64}


def artifact(path: Path, kind: str, suffix: str, **config: object) -> Path:
    """Publish graphs that hold their names; the encoder's weights are in a second file."""
    with publish(path, kind, config=CONFIG | config) as staging:
        for graph in GRAPHS:
            (staging / f"{graph.name}{suffix}").write_text(graph.name)
        (staging / f"image_encoder{suffix}.data").write_text("weights")
    return path


def config_of(repository: Path, name: str) -> ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), ModelConfig())


@pytest.mark.parametrize(
    ("target", "kind", "suffix"),
    [("cpu", "onnx", ".onnx"), ("cuda", "onnx", ".onnx"), ("gpu", "engine", ".plan")],
)
def test_build_repository_copies_graphs_with_configuration(
    tmp_path: Path, target: Target, kind: str, suffix: str
) -> None:
    source = artifact(tmp_path / "source", kind, suffix)
    version = build_repository(source, tmp_path / "out", target=target, threads=3)
    assert version == tmp_path / "out" / "1"
    digest = sha256_file(source / "manifest.json")
    for graph in GRAPHS:
        # In ONNX Runtime all graphs of a decode lie in the folder of one model.
        together = target != "gpu" and graph is not IMAGE_ENCODER
        folder = version / ("decoder" if together else graph.name) / "1"
        file = f"{graph.name}{suffix}" if together else f"model{suffix}"
        assert (folder / file).read_text() == graph.name
        assert (folder / "model.py").exists() == (target != "gpu")
        parameters = config_of(version, folder.parent.name).parameters
        assert parameters["image_size"].string_value == "512"
        assert parameters["intra_op_threads"].string_value == "3"
    assert read_manifest(version, "repository").config["target"] == target
    parameters = config_of(version, "image_encoder").parameters
    assert parameters["model_size"].string_value == "vit_b"
    assert parameters["model_digest"].string_value == digest
    assert parameters["trained_model"].string_value == CONFIG["trained_model"]
    weights = version / "image_encoder" / "1" / f"image_encoder{suffix}.data"
    assert weights.read_text() == "weights"


@pytest.mark.parametrize(
    ("scale", "reported"),
    [(None, None), (Scale(96, 1.25), ("96", "1.25")), (Scale(None, 2), ("0", "2"))],
)
def test_build_repository_reports_the_scale_that_the_graphs_declare(
    tmp_path: Path, scale: Scale | None, reported: tuple[str, str] | None
) -> None:
    declared = {} if scale is None else {SCALE: scale.record()}
    source = artifact(tmp_path / "source", "onnx", ".onnx", **declared)
    version = build_repository(source, tmp_path / "out")
    assert Scale.of_manifest(read_manifest(version, "repository").config) == scale
    parameters = config_of(version, "image_encoder").parameters
    if reported is None:
        assert not {"window", "spread"} & set(parameters)
    else:
        window, spread = (parameters[name].string_value for name in ("window", "spread"))
        assert (window, float(spread)) == (reported[0], float(reported[1]))


@pytest.mark.parametrize("declared", [None, Intensity("range", 0, 4095)])
def test_build_repository_passes_the_intensity_on(
    tmp_path: Path, declared: Intensity | None
) -> None:
    config = {} if declared is None else {INTENSITY: declared.record()}
    version = build_repository(
        artifact(tmp_path / "source", "onnx", ".onnx", **config), tmp_path / "out"
    )
    # Triton's step decodes whole images, and the gateway, by the encoder's parameters, tiles.
    for name in ("preprocess", "image_encoder"):
        stated = config_of(version, name).parameters[INTENSITY].string_value
        assert Intensity.parse(stated) == (declared or Intensity())
    parameters = config_of(version, "preprocess").parameters
    settings = {key: value.string_value for key, value in parameters.items()}
    execute = open_preprocess(Settings("preprocess", version, settings))
    values = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    request = Request({"image_bytes": np.array([[encode_image(values)]], object)}, frozenset())
    (answer,) = execute([request])
    expected = to_frame(rgb_of(eight_bits(values[..., None], declared)), 512)[0]
    assert np.array_equal(answer["image"][0], expected)


def test_build_repository_manifest_names_source(tmp_path: Path) -> None:
    source = artifact(tmp_path / "source", "onnx", ".onnx")
    manifest = read_manifest(build_repository(source, tmp_path / "out"), "repository")
    assert manifest.parents == {"onnx": sha256_file(source / "manifest.json")}
    assert manifest.config == CONFIG | {"target": "cpu", "threads": 0}
    assert "segment/config.pbtxt" in manifest.files


def test_build_repository_altered_graph_raises_and_writes_nothing(tmp_path: Path) -> None:
    source = artifact(tmp_path / "source", "onnx", ".onnx")
    (source / "mask_decoder.onnx").write_text("altered")
    with pytest.raises(ArtifactError, match=r"mask_decoder\.onnx: .* altered"):
        build_repository(source, tmp_path / "out")
    assert not list_versions(tmp_path / "out")


def test_build_repository_missing_graph_is_named(tmp_path: Path) -> None:
    with publish(tmp_path / "source", "onnx", config=CONFIG):
        pass
    with pytest.raises(ArtifactError, match="expected the graph image_encoder"):
        build_repository(tmp_path / "source", tmp_path / "out")
    assert not list_versions(tmp_path / "out")


def test_build_repository_unknown_image_size_raises(tmp_path: Path) -> None:
    source = artifact(tmp_path / "source", "onnx", ".onnx", image_size=300)
    with pytest.raises(ArtifactError, match="image_size: got 300"):
        build_repository(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "--onnx", "."], "the following arguments are required: --out"),
        (["publish", "--out", "x"], "one of the arguments --onnx --engines is required"),
        (["publish", "--onnx", "x", "--engines", "y", "--out", "z"], "not allowed with"),
    ],
)
def test_repository_command_wrong_options_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "--onnx", "missing", "--out", "x"], "missing: got no manifest.json"),
        (["list", "missing"], "missing: got no version, expected numbered versions"),
        (["verify", "missing"], "missing: got no version, expected numbered versions"),
        (["rollback", "missing"], "missing: got no version, expected a folder of versions"),
    ],
)
def test_repository_command_fails_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"python -m export.repository: {message}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_repository_command_publishes_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = artifact(tmp_path / "source", "onnx", ".onnx")
    arguments = ["publish", "--onnx", str(source), "--out", str(tmp_path / "out"), "--no-golden"]
    assert main(arguments) == main(arguments) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert (first, second) == (f"{tmp_path}/out/1: current", f"{first}, unchanged")
    assert read_manifest(tmp_path / "out/current").config["model_size"] == "vit_b"
    assert main([*arguments, "--threads", "2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/2: current\n"
    assert main([*arguments, "--threads", "3", "--no-switch"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/3: published\n"
    assert current_version(tmp_path / "out") == 2
    assert main(["switch", str(tmp_path / "out"), "--to", "3"]) == 0
    assert current_version(tmp_path / "out") == 3


def test_build_repository_keeps_golden_answers_of_the_graphs(tmp_path: Path) -> None:
    publish_version_graphs(tmp_path / "onnx", 3)
    bare = build_repository(tmp_path / "onnx", tmp_path / "out")
    version = build_repository(tmp_path / "onnx", tmp_path / "out", golden=tmp_path / "onnx")
    assert (bare.name, version.name) == ("1", "2") and read_golden(bare) is None
    golden = read_golden(version)
    assert golden is not None
    for case in golden[0]:
        assert {versions_of(score) for score in case.scores} == {(3, 3)}
        assert {versions_of(score) for score in case.refined_scores} == {(3, 3)}
        assert not np.array_equal(case.refined_masks, case.low_res_masks)
    for kept in (None, tmp_path / "onnx"):
        assert build_repository(tmp_path / "onnx", tmp_path / "out", golden=kept) == version


def test_cuda_differs_from_cpu_in_who_runs_the_graphs_and_in_the_encoders_batches() -> None:
    cpu, cuda = (
        model_configs(RepositoryConfig("vit_b", 1024, target, calibrates=True))
        for target in ("cpu", "cuda")
    )
    assert [name for name in cpu if cpu[name] != cuda[name]] == ["image_encoder", "decoder"]
    assert cpu.keys() == cuda.keys()
    for name in ("image_encoder", "decoder"):
        assert cuda[name].parameters["provider"].string_value == "cuda"
        assert "provider" not in cpu[name].parameters
        [group] = cuda[name].instance_group
        assert (group.kind, group.count) == (ModelInstanceGroup.KIND_MODEL, 1)
    encoder = cuda["image_encoder"]
    assert encoder.max_batch_size == ENCODER_MAX_BATCH
    assert encoder.dynamic_batching.max_queue_delay_microseconds > 0
    assert cuda["decoder"].max_batch_size == cpu["decoder"].max_batch_size


def test_repository_command_publishes_for_cuda_and_says_whether_graphs_were_compared_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["publish", "--out", str(tmp_path / "out"), "--no-golden", "--provider", "cuda"]
    for number, compared in enumerate(({}, {COMPARED_IN: "cuda"}), start=1):
        source = artifact(tmp_path / f"source{number}", "onnx", ".onnx", **compared)
        assert main([*words, "--onnx", str(source)]) == 0
        published, said = capsys.readouterr().out.splitlines()
        assert published == f"{tmp_path}/out/{number}: current"
        assert said.startswith(
            f"{tmp_path}/out/{number}: {'' if compared else 'not '}compared with"
        )
    # Back on the CPU, the same graphs are another version.
    assert main([*words[:-1], "cpu", "--onnx", str(source)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/3: current\n"
    assert main([*words, "--engines", str(source)]) == 2
    assert "--provider: got cuda with --engines, expected --onnx" in capsys.readouterr().err


def test_build_repository_for_cuda_refuses_int8(tmp_path: Path) -> None:
    source = artifact(tmp_path / "source", "onnx", ".onnx", precision="int8")
    with pytest.raises(ExportError, match="got graphs in int8, .* expected fp32 or fp16"):
        build_repository(source, tmp_path / "out", target="cuda")
    assert not list_versions(tmp_path / "out")
    build_repository(source, tmp_path / "out")


def test_build_repository_with_golden_answers_of_other_graphs_is_refused(tmp_path: Path) -> None:
    engines = artifact(tmp_path / "engines", "engine", ".plan")
    other = artifact(tmp_path / "onnx", "onnx", ".onnx")
    with pytest.raises(ArtifactError, match="expected those of .*/engines; give the graphs"):
        build_repository(engines, tmp_path / "out", target="gpu", golden=other)
    assert not list_versions(tmp_path / "out")


def test_warm_up_requests_run_every_profile_of_an_engine(tmp_path: Path) -> None:
    for calibrates in (False, True):
        repository = RepositoryConfig("vit_b", 1024, "gpu", calibrates=calibrates)
        configs = model_configs(repository)
        for graph in graphs_of(calibrates):
            warmups = configs[graph.name].model_warmup
            profiles = profiles_of(graph, 1024)
            chosen = [
                nearest_profile(
                    profiles,
                    {
                        name: (request.batch_size, *tensor.dims)
                        for name, tensor in request.inputs.items()
                    },
                )
                for request in warmups
            ]
            assert chosen == [*range(len(profiles))]
        python = [model for model in configs.values() if model.backend == "python"]
        assert python and not any(model.model_warmup for model in python)
