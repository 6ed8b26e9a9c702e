"""Command: compare exported graphs with torch over a grid of shapes.

python -m export.compare --merged build/merged --onnx build/onnx

The export does it before it publishes anything; this repeats it on what was published.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime
import torch
from torch import Tensor
from tqdm import tqdm

from cpcsam.artifact import MANIFEST_NAME, read_manifest, sha256_file
from cpcsam.checkpoint import load_merged
from cpcsam.contract import GRAPHS, IMAGE_ENCODER, GraphSpec
from cpcsam.errors import ArtifactError, CpcSamError, ExportError
from cpcsam.model.sam import CpcSam
from export.graphs import GraphModule, draw_images, draw_prompts, relative_difference

__all__ = ["TOLERANCE", "Comparison", "Row", "compare", "main", "open_graph"]

TOLERANCE: Final = 1e-5
"""Of every output, relative to its largest value; float32 rounding makes about 1e-6."""

BATCHES: Final = {256: (1, 2, 5), 512: (1, 2, 5), 1024: (1, 2)}
"""B of the grid by image_size; five images of 1024 pixels would need about 30 GB."""
PROMPTS: Final = (1, 3, 16)
POINTS: Final = (1, 2, 7)

Session = Callable[[Mapping[str, Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """One output at one shape; prompts and points are 0 for the image encoder."""

    graph: str
    output: str
    batch: int
    prompts: int
    points: int
    relative_difference: float


@dataclass(frozen=True)
class Comparison:
    """What was compared and how far it was apart."""

    rows: tuple[Row, ...]

    def worst(self) -> dict[str, float]:
        """Return the largest relative difference of every output, keyed by `graph/output`."""
        worst: dict[str, float] = {}
        for row in self.rows:
            name = f"{row.graph}/{row.output}"
            worst[name] = max(worst.get(name, 0.0), row.relative_difference)
        return worst

    def report(self) -> dict[str, Any]:
        """Return the plain data of `comparison.json`."""
        return {
            "engines": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
            "tolerance": TOLERANCE,
            "measure": "largest absolute difference over the largest absolute value of torch",
            "worst": self.worst(),
            "rows": [asdict(row) for row in self.rows],
        }


def open_graph(file: Path, graph: GraphSpec) -> Session:
    """Load an exported graph into ONNX Runtime, on the CPU.

    Returns:
        A function from the inputs by name to the outputs in the contract's order.

    Raises:
        ExportError: ONNX Runtime refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ExportError.of(
            graph.name,
            got=f"a graph that ONNX Runtime refuses ({str(error).splitlines()[0]})",
            expected="a loadable graph",
            fix="export it again",
        ) from error

    def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(found) for found in session.run(graph.output_names, feeds)]

    return run


def compare(model: CpcSam, directory: Path, seed: int = 0) -> Comparison:
    """Compare every graph in a directory with torch; each is fed with torch's own tensors.

    Args:
        model: the fused model that was exported.
        directory: where `GRAPH.onnx` are.
        seed: of weights-independent random images and prompts.

    Raises:
        ExportError: an output's shape, dtype or values are not torch's; names graph, output, shape.
    """
    generator = torch.Generator().manual_seed(seed)
    sessions = {graph.name: open_graph(directory / f"{graph.name}.onnx", graph) for graph in GRAPHS}
    modules = {graph.name: GraphModule(model, graph) for graph in GRAPHS}
    size = model.image_size
    batches, shapes = BATCHES[size], tuple(itertools.product(PROMPTS, POINTS))
    rows: list[Row] = []
    with tqdm(
        total=len(batches) * (1 + (len(GRAPHS) - 1) * len(shapes)), desc="compare", unit="graph"
    ) as progress:

        def check(
            graph: GraphSpec, tensors: dict[str, Tensor], shape: tuple[int, int, int]
        ) -> None:
            rows.extend(_compare_graph(modules[graph.name], sessions[graph.name], tensors, shape))
            progress.update()

        for batch in batches:
            tensors = draw_images(size, batch, generator)
            check(IMAGE_ENCODER, tensors, (batch, 0, 0))
            for prompts, points in shapes:
                tensors |= draw_prompts(size, batch, prompts, points, generator)
                for graph in GRAPHS:
                    if graph is not IMAGE_ENCODER:
                        check(graph, tensors, (batch, prompts, points))
    return Comparison(tuple(rows))


@torch.no_grad()
def _compare_graph(
    module: GraphModule, session: Session, tensors: dict[str, Tensor], shape: tuple[int, int, int]
) -> list[Row]:
    """Compare one graph at one shape; torch's outputs join `tensors` for the graphs after it."""
    graph = module.spec
    inputs = {name: tensors[name] for name in graph.input_names}
    expected = module(*inputs.values())
    tensors.update(zip(graph.output_names, expected, strict=True))
    where = "B={} P={} N={}".format(*shape)
    try:
        outputs = session(inputs)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ExportError.of(
            f"{graph.name} at {where}",
            got=f"a failure of ONNX Runtime ({str(error).splitlines()[0]})",
            expected="outputs",
            fix="the graph has frozen a dynamic dimension; correct the exported code",
        ) from error
    rows = []
    for name, found, wanted in zip(graph.output_names, outputs, expected, strict=True):
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ExportError.of(
                f"{graph.name}, {name} at {where}",
                got=f"{found.dtype} {tuple(found.shape)}",
                expected=f"{wanted.dtype} {tuple(wanted.shape)}",
                fix="the graph has frozen a dynamic dimension; correct the exported code",
            )
        difference = relative_difference(found, wanted)
        if not difference <= TOLERANCE:
            raise ExportError.of(
                f"{graph.name}, {name} {tuple(wanted.shape)} at {where}",
                got=f"a relative difference of {difference:.2e} to torch",
                expected=f"at most {TOLERANCE:.0e}",
                fix="the exported graph computes something else; correct the exported code",
            )
        rows.append(Row(graph.name, name, *shape, difference))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all agree, 2 after an error, told in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.compare",
        description="Compare exported graphs with torch over a grid of shapes.",
    )
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--onnx", type=Path, metavar="DIR", required=True)
    args = parser.parse_args(argv)
    try:
        made_from = read_manifest(args.onnx, "onnx").parents.get("merged", "nothing")
        model = load_merged(args.merged)
        digest = sha256_file(args.merged / MANIFEST_NAME)
        if made_from != digest:
            raise ArtifactError.of(
                str(args.onnx),
                got=f"graphs of the merged model {made_from[:12]}",
                expected=f"graphs of {args.merged}, {digest[:12]}",
                fix="export that model, or give the one that was exported",
            )
        comparison = compare(model, args.onnx)
    except (CpcSamError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, difference in comparison.worst().items():
        print(f"{name:50} {difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
