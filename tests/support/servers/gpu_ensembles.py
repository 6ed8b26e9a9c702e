"""A repository with the ensembles of the GPU whose graphs run in ONNX Runtime, not as engines."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.contract import GRAPHS, calibrates_of
from export.triton_repository.config import RepositoryConfig, config_text, model_configs
from export.triton_repository.publishing import COMMITTED
from serving.backend.onnx_model import MODEL_FILE

__all__ = ["publish_gpu_ensembles"]

SHIM: Final = """
from cpcsam.contract import graphs_of
from serving.backend.onnx_model import load_graph
from serving.backend.python_backend import triton_model
from serving.backend.step import each


def open_step(settings):
    calibrates = bool(settings.integer("calibrates"))
    graph = next(graph for graph in graphs_of(calibrates) if graph.name == settings.name)
    run = load_graph(settings, graph, settings.directory / "model.onnx")

    def wanted(request):
        outputs = run(request.tensors)
        return {name: outputs[name] for name in request.outputs}

    return each(wanted)


TritonPythonModel = triton_model(open_step)
"""


def publish_gpu_ensembles(onnx: Path, out: Path) -> Path:
    """Publish an artifact of kind `repository`, a single version, for a Triton without a GPU.

    Steps, ensembles and the batching of graphs are those of the GPU's repository.
    """
    manifest = read_manifest(onnx, "onnx")
    calibrates = calibrates_of(manifest.config)
    repository = RepositoryConfig(
        str(manifest.config["model_size"]),
        int(manifest.config["image_size"]),
        "gpu",
        threads=1,
        calibrates=calibrates,
    )
    with publish(out, "repository", config={"target": "cpu"}) as staging:
        for name, config in model_configs(repository).items():
            version = staging / name / "1"
            version.mkdir(parents=True)
            (version / ".keep").touch()
            if name in {graph.name for graph in GRAPHS}:
                _run_in_python(config, bool(calibrates))
                (version / "model.py").write_text(SHIM)
                shutil.copy(onnx / f"{name}.onnx", version / MODEL_FILE)
            elif config.backend == "python":
                shutil.copy(COMMITTED / f"python/{name}/1/model.py", version)
            config.ClearField("model_metrics")
            (staging / name / "config.pbtxt").write_text(config_text(config))
    return out


def _run_in_python(config: ModelConfig, calibrates: bool) -> None:
    config.platform, config.backend, config.default_model_filename = "", "python", "model.py"
    config.parameters["calibrates"].string_value = str(int(calibrates))
    del config.instance_group[:]
    config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=1)
