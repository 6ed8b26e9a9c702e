"""A TensorRT plan from an ONNX graph, by the Python API that TensorRT 10, 11 and RTX share.

The network is strongly typed: every precision is what the graph says. TensorRT 11 knows no other
network and ignores the flag that 10 needs. TensorRT itself is handed in as a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.contract import GraphSpec
from cpcsam.errors import CpcSamError, ExportError
from export.engines.profiles import Profile, profiles_of
from export.engines.progress import progress_monitor

__all__ = ["PlanOptions", "plan_from_onnx"]


@dataclass(frozen=True)
class PlanOptions:
    """How plans are built.

    Attributes:
        workspace_bytes: most scratch memory of the GPU that a kernel may take.
        timing_cache: file of measured kernel times, read and updated; None keeps none.
        compute_capability: GPU architecture, as in `8.9`, to build for without such a GPU, which
            only TensorRT-RTX can; None builds for the GPU that is there.
    """

    workspace_bytes: int
    timing_cache: Path | None = None
    compute_capability: str | None = None


def plan_from_onnx(
    trt: ModuleType, file: Path, graph: GraphSpec, image_size: int, options: PlanOptions
) -> bytes:
    """Build the plan of one graph for all its profiles.

    Args:
        trt: the module `tensorrt`, or `tensorrt_rtx_bindings`.
        file: the graph; weights beside it are found.
        graph: the graph of the contract.
        image_size: side of the encoder's frame.
        options: see `PlanOptions`.

    Raises:
        ExportError: TensorRT refuses the graph; the message names the node.
    """
    build = _Build(trt, file, profiles_of(graph, image_size), options)
    network = build.parse()
    plan = build.serialize(network, title=graph.name)
    if plan is None:
        complaint = build.log.complaint()
        raise build.failure(_named_layer(network, complaint) or _first_failing(build), complaint)
    return plan


class _Build:
    """One graph on its way; a failed build is repeated on parts of it, each parsed anew."""

    def __init__(
        self, trt: ModuleType, file: Path, profiles: Sequence[Profile], options: PlanOptions
    ) -> None:
        self.trt, self.file, self.profiles, self.options = trt, file, profiles, options
        self.log = _make_log(trt)
        self.builder = trt.Builder(self.log)

    def failure(self, node: str, complaint: str) -> CpcSamError:
        return ExportError.of(
            f"{self.file.name}, node {node}",
            got=complaint,
            expected=f"a graph that {self.trt.__name__} {self.trt.__version__} builds",
            fix="raise the limit of the workspace"
            if "OutOfMemory" in complaint
            else "correct the exported code",
        )

    def parse(self) -> Any:
        flags = self.trt.NetworkDefinitionCreationFlag
        network = self.builder.create_network(1 << int(flags.STRONGLY_TYPED))
        parser = self.trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(self.file)):
            error = parser.get_error(0)
            node = f"{error.node_name() or error.node()} ({error.node_operator()})"
            raise self.failure(node, _one_line(error.desc()))
        return network

    def serialize(self, network: Any, title: str | None = None) -> bytes | None:
        """Build a network; None if TensorRT fails. Progress is shown under a title."""
        trt, options = self.trt, self.options
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        # TF32 would round the products of a graph that is meant to be float32.
        config.clear_flag(trt.BuilderFlag.TF32)
        if options.compute_capability is not None:
            name = f"SM{options.compute_capability.replace('.', '')}"
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
        for profile in self.profiles:
            config.add_optimization_profile(self._profile(profile))
        if options.timing_cache is not None:
            _load_timing_cache(config, options.timing_cache)
        if title is not None:
            config.progress_monitor = progress_monitor(trt, title)
        plan = self.builder.build_serialized_network(network, config)
        if plan is None:
            return None
        if options.timing_cache is not None:
            write_atomic(options.timing_cache, bytes(config.get_timing_cache().serialize()))
        return bytes(plan)

    def _profile(self, ranges: Profile) -> Any:
        profile = self.builder.create_optimization_profile()
        for name, shapes in ranges.items():
            profile.set_shape(name, shapes.smallest, shapes.usual, shapes.largest)
        return profile


def _load_timing_cache(config: Any, file: Path) -> None:
    measured = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    # A cache of another TensorRT or GPU is refused; begin an empty one.
    if measured is None or not config.set_timing_cache(measured, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _make_log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        """Keeps the errors, which say more than the exception or None that the API returns."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def complaint(self) -> str:
            # Without a GPU the search for one is an error as well, but not the cause.
            causes = [text for text in self.errors if "catchCudaError" not in text]
            return _one_line((causes or self.errors or ["no reason"])[-1])

    return Log()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _layers(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def _named_layer(network: Any, complaint: str) -> str:
    """The layer that TensorRT's message names; layers are named after ONNX nodes."""
    named = [layer.name for layer in _layers(network) if layer.name in complaint]
    return max(named, key=len, default="")


def _first_failing(build: _Build) -> str:
    """The layer without which the layers before it build: found by halving the network."""
    network = build.parse()
    builds, fails = 0, network.num_layers
    while fails - builds > 1:
        middle = (builds + fails) // 2
        part = build.parse()
        _keep_first(part, middle)
        if build.serialize(part) is None:
            fails = middle
        else:
            builds = middle
    layer = network.get_layer(fails - 1)
    return f"{layer.name} ({layer.type.name})"


def _keep_first(network: Any, count: int) -> None:
    """Make the outputs of the first layers, as far as no other of them reads them, the outputs."""
    for index in reversed(range(network.num_outputs)):
        network.unmark_output(network.get_output(index))
    layers = _layers(network)[:count]
    read = {
        layer.get_input(index).name
        for layer in layers
        for index in range(layer.num_inputs)
        if layer.get_input(index) is not None
    }
    for layer in layers:
        for index in range(layer.num_outputs):
            tensor = layer.get_output(index)
            if tensor is not None and tensor.name not in read:
                network.mark_output(tensor)
