"""ONNX Runtime backend and its sessions, on the CPU or a GPU; onnxruntime is imported when used."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from numpy.typing import NDArray

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.backends.protocol import GraphBackend
from cpcsam.contract import CALIBRATE, IMAGE_ENCODER, PROMPT_ENCODER, GraphSpec, calibrates_of
from cpcsam.errors import ArtifactError, ConfigError, ExportError

__all__ = [
    "PROVIDER",
    "PROVIDERS",
    "OnnxBackend",
    "OnnxGraphs",
    "Provider",
    "open_session",
    "require_cuda",
]

Provider: TypeAlias = Literal["cpu", "cuda"]
"""Execution provider of ONNX Runtime."""
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)
PROVIDER: Final = "provider"
"""Parameter of a model in Triton; without it, `cpu`."""

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CUDA_OPTIONS: Final = {
    # TF32 would leave float32 ten bits of its mantissa.
    "use_tf32": "0",
    # The default times all algorithms at each new shape, in the middle of a request, and so takes
    # another one, which rounds otherwise, after each start.
    "cudnn_conv_algo_search": "HEURISTIC",
}
DRIVER: Final = "libcuda.so.1"


def open_session(
    path: Path, threads: int = 0, *, memory_arena: bool = True, provider: Provider = "cpu"
) -> Any:
    """Open an ONNX graph as an `onnxruntime.InferenceSession`.

    Args:
        path: the graph's file.
        threads: for one operator; 0 leaves the choice to ONNX Runtime.
        memory_arena: keep the host's freed memory for the next run.
        provider: `cuda` computes on the first GPU, and on the CPU what that provider leaves to it.

    Raises:
        ArtifactError: no such file, or ONNX Runtime refuses it.
        ConfigError: the provider cannot be used here.
    """
    import onnxruntime

    if not path.is_file():
        raise ArtifactError.of(
            str(path), got="no such file", expected="an ONNX graph", fix="export it again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = memory_arena
    # Idle threads that spin would take the cores from other sessions and processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = [CPU_PROVIDER]
    missing = ""
    if provider == "cuda":
        missing = require_cuda()
        providers = [(CUDA_PROVIDER, CUDA_OPTIONS), CPU_PROVIDER]
    try:
        # By itself, ONNX Runtime goes on with the CPU after a call that failed on the GPU.
        session = onnxruntime.InferenceSession(
            path, options, providers=providers, enable_fallback=False
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        message = " ".join(str(error).split())
        # Those of graphs are its own; a provider's are Python's.
        if provider == "cuda" and isinstance(error, (RuntimeError, ValueError)):
            raise _no_cuda(message) from error
        raise ArtifactError.of(
            str(path),
            got=f"a file that ONNX Runtime refuses ({message})",
            expected="an ONNX graph",
            fix="export it again",
        ) from error
    if provider == "cuda" and CUDA_PROVIDER not in session.get_providers():
        in_use = ", ".join(session.get_providers())
        raise _no_cuda(missing or f"a session in {in_use} alone, for the reason in its log")
    return session


@cache
def require_cuda() -> str:
    """Check for ONNX Runtime's CUDA provider and NVIDIA's driver, and load CUDA's libraries.

    Returns:
        What was said of libraries that did not load; the provider may find them itself.

    Raises:
        ConfigError: this build has no such provider, or there is no driver.
    """
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise _no_cuda("a build of ONNX Runtime without it")
    try:
        ctypes.CDLL(DRIVER)
    except OSError as error:
        raise _no_cuda(f"no driver of NVIDIA ({error})") from error
    # It looks for them among the installed wheels first, and prints those that it cannot load.
    with redirect_stdout(StringIO()) as said:
        onnxruntime.preload_dlls()
    return " ".join(said.getvalue().split())


def _no_cuda(got: str) -> ConfigError:
    import onnxruntime

    return ConfigError.of(
        CUDA_PROVIDER,
        got=f"{got}; available providers: {', '.join(onnxruntime.get_available_providers())}",
        expected=f"onnxruntime-gpu with CUDA {onnxruntime.cuda_version or '13'}, cuDNN 9 and a GPU",
        fix="give this process a GPU and those libraries, or publish the graphs for the CPU: "
        "make repository",
    )


class OnnxGraphs:
    """The exported graphs of a directory, each opened when it is first run."""

    def __init__(self, directory: Path, threads: int = 0, provider: Provider = "cpu") -> None:
        self._directory, self._threads, self._provider = directory, threads, provider
        self._sessions: dict[str, Any] = {}

    @property
    def image_size(self) -> int:
        """Side S of the encoder's frame in pixels, as the image encoder declares it."""
        return int(self._session(IMAGE_ENCODER).get_inputs()[0].shape[-1])

    @property
    def calibrates(self) -> bool:
        """Whether they tell the calibrated prompts, and can do without calibration."""
        inputs = self._session(PROMPT_ENCODER).get_inputs()
        return CALIBRATE.name in {node.name for node in inputs}

    def run(self, graph: GraphSpec, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run one graph.

        Args:
            graph: of the contract.
            inputs: at least the graph's own, by name, with the contract's shapes and dtypes.

        Returns:
            The outputs in the contract's order.

        Raises:
            ArtifactError: the graph cannot be opened.
            ConfigError: the provider cannot be used here.
            ExportError: it fails on these inputs.
        """
        session = self._session(graph)
        feeds = {name: inputs[name] for name in graph.input_names}
        try:
            return list(session.run(graph.output_names, feeds))
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ExportError.of(
                f"{graph.name} of {shapes}",
                got=f"a failure of ONNX Runtime ({str(error).splitlines()[0]})",
                expected="outputs",
                fix="the graph has frozen a dynamic dimension; correct the exported code",
            ) from error

    def _session(self, graph: GraphSpec) -> Any:
        if graph.name not in self._sessions:
            # The arena would keep the encoder's peak: for ViT-B at 1024, 7.7 instead of 4.9 GB.
            self._sessions[graph.name] = open_session(
                self._directory / f"{graph.name}.onnx",
                self._threads,
                memory_arena=False,
                provider=self._provider,
            )
        return self._sessions[graph.name]


class OnnxBackend(GraphBackend):
    """`Backend` over the graphs of an artifact of kind `onnx`, on the CPU.

    Attributes:
        image_size: side S of the encoder's frame in pixels.
        calibrates: what `calibrates_of` tells of its manifest.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Verify the artifact and open its image encoder.

        Args:
            path: the artifact's directory, which `export.to_onnx` wrote.
            threads: for one operator; 0 leaves the choice to ONNX Runtime.

        Raises:
            ArtifactError: missing, altered, of another kind, or no ONNX graphs.
        """
        manifest = read_manifest(Path(path), "onnx")
        graphs = OnnxGraphs(Path(path), threads)
        super().__init__(graphs.run, graphs.image_size, calibrates=calibrates_of(manifest.config))
