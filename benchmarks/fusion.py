"""Measure the decoder with fused calibration against the explicit logit bias."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, count, exit_code_of
from cpcsam.contract import EMBED_DIM, MASK_DECODER, PROMPT_ENCODER, grid_size
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule, draw_prompts, relative_difference
from export.graphs.tracing import onnx_from_torch

__all__ = ["Row", "main", "measure"]

PROG = "python -m benchmarks.fusion"
EXAMPLES = """examples:
  python -m benchmarks.fusion                             1, 4 and 16 prompts, 40 rounds
  python -m benchmarks.fusion --prompts 1 --rounds 5      a quick look

In every round both decoders run once, in turns first and second, on one thread; a ratio below 1
says that the fused one is faster. Times are CPU milliseconds of the process. CaPL's weights are
noise: they change what comes out, which is compared, and not how long it takes.
"""
SEED = 0
POINTS = 2
WARM_UP = 3
NOISE = 0.1

Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """One engine at one number of prompts.

    Attributes:
        engine: torch or onnxruntime.
        prompts: of one image.
        explicit_ms: CPU milliseconds a call, median over rounds.
        fused_ms: likewise.
        ratio: fused over explicit, median over rounds.
        ratio_low: 25th percentile.
        ratio_high: 75th percentile.
        relative_difference: between both decoders' masks.
    """

    engine: str
    prompts: int
    explicit_ms: float
    fused_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    relative_difference: float


def _calibrated(base: Path, config: CaplConfig) -> CpcSam:
    """A base with a CaPL that is far from the identity."""
    model = load_base(base)
    torch.manual_seed(SEED)
    model.capl = CaPL(config)
    for parameter in model.capl.parameters():
        nn.init.normal_(parameter, std=NOISE)
    return model.requires_grad_(False).eval()


def measure(engine: str, prompts: int, explicit: Run, fused: Run, rounds: int) -> Row:
    """Time two decoders that take turns.

    Args:
        engine: name for the row.
        prompts: what they decode.
        explicit: runs the one.
        fused: runs the other.
        rounds: timed calls of each.
    """
    difference = relative_difference(fused()[0], explicit()[0])
    spent: dict[Run, list[float]] = {explicit: [], fused: []}
    for turn in range(WARM_UP + rounds):
        for run in (explicit, fused) if turn % 2 else (fused, explicit):
            started = time.process_time()
            run()
            spent[run].append(1000 * (time.process_time() - started))
    explicit_ms, fused_ms = (np.array(spent[run][WARM_UP:]) for run in (explicit, fused))
    low, ratio, high = np.percentile(fused_ms / explicit_ms, [25, 50, 75])
    return Row(
        engine,
        prompts,
        float(np.median(explicit_ms)),
        float(np.median(fused_ms)),
        float(ratio),
        float(low),
        float(high),
        difference,
    )


def _torch_run(model: CpcSam, inputs: Mapping[str, Tensor]) -> Run:
    module = GraphModule(model, MASK_DECODER)

    @torch.no_grad()
    def run() -> list[Tensor]:
        return list(module(*inputs.values()))

    return run


def _onnx_session(model: CpcSam, file: Path) -> onnxruntime.InferenceSession:
    """Export a decoder and open it, on one thread."""
    onnx_from_torch(model, MASK_DECODER, file, {})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _onnx_run(session: onnxruntime.InferenceSession, inputs: Mapping[str, Tensor]) -> Run:
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}

    def run() -> list[Tensor]:
        return [torch.from_numpy(found) for found in session.run(None, feeds)]

    return run


@torch.no_grad()
def _inputs(model: CpcSam, prompts: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    grid = grid_size(model.image_size)
    embeddings = torch.randn(1, EMBED_DIM, grid, grid, generator=generator)
    drawn = draw_prompts(model.image_size, 1, prompts, POINTS, generator)
    sparse = GraphModule(model, PROMPT_ENCODER)(
        embeddings, drawn["point_coords"], drawn["point_labels"]
    )
    return dict(zip(MASK_DECODER.input_names, (embeddings, *sparse), strict=True))


def _measure_all(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    config = CaplConfig()
    explicit = _calibrated(options.base, config)
    fused = fuse(explicit)
    rows = []
    with TemporaryDirectory() as folder:
        models = {"explicit": explicit, "fused": fused}
        sessions = [_onnx_session(m, Path(folder) / f"{name}.onnx") for name, m in models.items()]
        for prompts in tqdm(options.prompts, desc="prompts"):
            inputs = _inputs(explicit, prompts)
            runs = {
                "torch": [_torch_run(model, inputs) for model in models.values()],
                "onnxruntime": [_onnx_run(session, inputs) for session in sessions],
            }
            for engine, (before, after) in runs.items():
                rows.append(measure(engine, prompts, before, after, options.rounds))
    return {
        "base_sha256": base_digest(options.base),
        "image_size": explicit.image_size,
        "capl": asdict(config),
        "machine": f"{platform.machine()}, 1 thread",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "rounds": options.rounds,
        "rows": [asdict(row) for row in rows],
    }


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['engine']:12} {row['prompts']:3} prompts: explicit {row['explicit_ms']:.1f} ms, "
        f"fused {row['fused_ms']:.1f} ms, ratio {row['ratio']:.3f} ({row['ratio_low']:.3f} to "
        f"{row['ratio_high']:.3f}), masks differ by {row['relative_difference']:.1e}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="PATH")
    parser.add_argument(
        "--prompts",
        type=count,
        nargs="+",
        default=[1, 4, 16],
        metavar="P",
        help="(default: 1 4 16)",
    )
    parser.add_argument("--rounds", type=count, default=40, metavar="N", help="(default: 40)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/fusion.json"), metavar="FILE"
    )
    options = parser.parse_args(arguments)

    def command() -> None:
        report = _measure_all(options)
        write_atomic(options.out, (json.dumps(report, indent=2) + "\n").encode())
        for row in report["rows"]:
            print(_line(row))

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
