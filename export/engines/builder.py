"""TensorRT builder: a plan from an ONNX graph, through the API shared by TensorRT 10, 11 and RTX.

The network is strongly typed: the graph itself states every precision. TensorRT 11 has no other
networks and ignores the flag that 10 needs. TensorRT is passed in as a module.

Polygraphy's loaders are not used: they import `tensorrt` or `tensorrt_rtx` by one switch for the
whole process (the wheels here hold only `tensorrt_rtx_bindings`), set RTX configurations without a
way to clear TF32, report a failed build without its node, and are not in the Triton image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tqdm import tqdm

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.contract import GraphSpec
from cpcsam.errors import CpcSamError, ExportError
from export.engines.profiles import Profile, profiles_of

__all__ = ["AHEAD_OF_TIME", "PRECISIONS", "PlanOptions", "plan_from_onnx", "progress_monitor"]

PRECISIONS: Final = ("fp32", "fp16")
"""Precisions of graphs that TensorRT builds."""


@dataclass(frozen=True)
class PlanOptions:
    """Builder options.

    Attributes:
        workspace_bytes: largest GPU scratch memory of a kernel.
        timing_cache: file of measured kernel times, read and updated; None keeps none.
        compute_capability: GPU architecture, such as `8.9`, to build for ahead of time, without
            such a GPU; only TensorRT-RTX can. None builds for the GPU of this machine.
    """

    workspace_bytes: int
    timing_cache: Path | None = None
    compute_capability: str | None = None


AHEAD_OF_TIME: Final = PlanOptions(workspace_bytes=16 << 30, compute_capability="8.9")
"""Options for TensorRT-RTX on a machine without a GPU."""


def plan_from_onnx(
    trt: ModuleType, file: Path, graph: GraphSpec, image_size: int, options: PlanOptions
) -> bytes:
    """Build the serialized plan of a graph for all its profiles.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx_bindings`.
        file: the .onnx file; external weights are read from its folder.
        graph: specification of the graph.
        image_size: side S of the encoder's frame.
        options: builder options.

    Raises:
        ExportError: TensorRT rejects the graph; the message names the node.
    """
    build = _Build(trt, file, profiles_of(graph, image_size), options)
    network = build.parse()
    plan = build.serialize(network, title=graph.name)
    if plan is None:
        reason = build.log.reason()
        raise build.failure(_named_layer(network, reason) or _first_failing(build), reason)
    return plan


class _Build:
    """Build of a graph; a failed build is repeated on its parts, each parsed again."""

    def __init__(
        self, trt: ModuleType, file: Path, profiles: Sequence[Profile], options: PlanOptions
    ) -> None:
        self.trt, self.file, self.profiles, self.options = trt, file, profiles, options
        self.log = _make_log(trt)
        self.builder = trt.Builder(self.log)

    def failure(self, node: str, reason: str) -> CpcSamError:
        return ExportError.of(
            f"{self.file.name}, node {node}",
            got=reason,
            expected=f"a graph that {self.trt.__name__} {self.trt.__version__} builds",
            fix="raise the limit of the workspace"
            if "OutOfMemory" in reason
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
        """Build a network, with a progress bar if it has a title; None if TensorRT fails."""
        trt, options = self.trt, self.options
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        # TF32 would round the products of a float32 graph to 10 bits.
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
    # TensorRT rejects a cache of another version or GPU.
    if measured is None or not config.set_timing_cache(measured, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _make_log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        """Logger that keeps errors: the API itself returns None without a reason."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def reason(self) -> str:
            # Without a GPU, TensorRT also logs the failed search for it, which is not the cause.
            causes = [text for text in self.errors if "catchCudaError" not in text]
            return _one_line((causes or self.errors or ["no reason"])[-1])

    return Log()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _layers(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def _named_layer(network: Any, reason: str) -> str:
    """Return the layer, named after its ONNX node, that TensorRT's message mentions, or ""."""
    # Names may be prefixes of others; the longest match is the layer.
    named = [layer.name for layer in _layers(network) if layer.name in reason]
    return max(named, key=len, default="")


def _first_failing(build: _Build) -> str:
    """Return the first layer that fails to build, by bisection over prefixes of the network."""
    network = build.parse()
    # Invariant: the first `builds` layers build, the first `fails` do not.
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
    """Reduce a network to its first layers; tensors none of them reads become its outputs."""
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


SHOWN_DEPTH: Final = 3
"""Depth of nested phases that get a bar; deeper ones end too quickly to be read."""


def progress_monitor(trt: ModuleType, title: str) -> Any:
    """Return an `IProgressMonitor` with a bar for each of the outer phases.

    Args:
        trt: the module `tensorrt`.
        title: prefix of the outermost phase.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.bars: dict[str, tqdm[Any]] = {}
            self.depths: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            depth = self.depths.get(parent, 0) + 1 if parent else 0
            self.depths[phase] = depth
            if depth < SHOWN_DEPTH:
                name = phase if parent else f"{title}: {phase}"
                self.bars[phase] = tqdm(
                    total=steps, desc=name, unit="step", leave=depth == 0, position=depth
                )

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.bars:
                self.bars[phase].update()
            return True

        def phase_finish(self, phase: str) -> None:
            bar = self.bars.pop(phase, None)
            if bar is not None:
                bar.update((bar.total or 0) - bar.n)  # TensorRT may omit the last step of a phase
                bar.close()

    return Monitor()
