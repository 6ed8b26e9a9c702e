"""Compare the decoder's speed with fused logit calibration, with an explicit bias, and without.

Examples:
  python -m benchmarks.fusion                             1, 4 and 16 prompts, 40 rounds
  python -m benchmarks.fusion --prompts 1 --rounds 5      a quick look

In every round each decoder runs once, in turn first, second and third, on one thread; a ratio below
1 says that the fused decoder is faster. Times are CPU milliseconds of the process. CaPL's weights
are noise: they change the masks, which are compared, and not the time. The decoder without logit
calibration is the default model's, whose CaPL has no entity module.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.commands import count, parser_of, run_command
from cpcsam.contract import EMBED_DIM, MASK_DECODER, PROMPT_ENCODER, grid_size
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.capl import FULL_CAPL, CaPL, CaplConfig
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule, draw_prompts, relative_difference
from export.graphs.tracing import onnx_from_torch
from reporting.run_report import RunReport, Table, machine_of
from reporting.tables import Cell

__all__ = ["Row", "main", "measure", "report_of"]

PROG = "python -m benchmarks.fusion"
SEED = 0
POINTS = 2
WARM_UP = 3
NOISE = 0.1

Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """Times of the decoders in an engine at a number of prompts.

    Attributes:
        engine: torch or onnxruntime.
        prompts: of one image.
        explicit_ms: CPU milliseconds a call, median over rounds.
        fused_ms: CPU milliseconds a call, median over rounds.
        without_ms: CPU milliseconds a call without logit calibration, median over rounds.
        ratio: fused over explicit, quartiles over rounds, the median second.
        entity_ratio: fused over without, quartiles over rounds.
        relative_difference: largest between the fused and the explicit decoder's masks, relative to
            the largest value.
    """

    engine: str
    prompts: int
    explicit_ms: float
    fused_ms: float
    without_ms: float
    ratio: tuple[float, ...]
    entity_ratio: tuple[float, ...]
    relative_difference: float


def _calibrated(base: Path, config: CaplConfig) -> CpcSam:
    """Load a base and add a random CaPL far from the identity."""
    model = load_base(base)
    torch.manual_seed(SEED)
    model.capl = CaPL(config)
    for parameter in model.capl.parameters():
        # Zero-initialised, CaPL would calibrate nothing, and the decoders would agree vacuously.
        nn.init.normal_(parameter, std=NOISE)
    return model.requires_grad_(False).eval()


def measure(engine: str, prompts: int, runs: Mapping[str, Run], rounds: int) -> Row:
    """Time decoders that take turns.

    Args:
        engine: name for the row.
        prompts: number of prompts that they decode.
        runs: of the decoders `explicit`, `fused` and `without`.
        rounds: timed calls of each.
    """
    difference = relative_difference(runs["fused"]()[0], runs["explicit"]()[0])
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + rounds):
        # Whichever runs later finds warmer caches.
        for place in range(len(runs)):
            name = list(runs)[(turn + place) % len(runs)]
            started = time.process_time()
            runs[name]()
            spent[name].append(1000 * (time.process_time() - started))
    by_name = {name: np.array(times[WARM_UP:]) for name, times in spent.items()}

    def quartiles(other: str) -> tuple[float, ...]:
        # Of ratios by round, as load that slows a round slows all of its calls.
        shares = by_name["fused"] / by_name[other]
        return tuple(float(share) for share in np.percentile(shares, [25, 50, 75]))

    return Row(
        engine=engine,
        prompts=prompts,
        **{f"{name}_ms": float(np.median(times)) for name, times in by_name.items()},
        ratio=quartiles("explicit"),
        entity_ratio=quartiles("without"),
        relative_difference=difference,
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
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(file), session_options, providers=["CPUExecutionProvider"]
    )


def _onnx_run(session: onnxruntime.InferenceSession, inputs: Mapping[str, Tensor]) -> Run:
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}

    def run() -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

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


def _measure_all(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    config = FULL_CAPL
    explicit = _calibrated(args.base, config)
    models = {
        "explicit": explicit,
        "fused": fuse(explicit),
        "without": fuse(_calibrated(args.base, CaplConfig())),
    }
    rows = []
    with TemporaryDirectory() as folder:
        sessions = {
            name: _onnx_session(model, Path(folder) / f"{name}.onnx")
            for name, model in models.items()
        }
        for prompts in tqdm(args.prompts, desc="prompts"):
            inputs = _inputs(explicit, prompts)
            engines = {
                "torch": {name: _torch_run(model, inputs) for name, model in models.items()},
                "onnxruntime": {name: _onnx_run(one, inputs) for name, one in sessions.items()},
            }
            for engine, runs in engines.items():
                rows.append(measure(engine, prompts, runs, args.rounds))
    return {
        "base_sha256": base_digest(args.base),
        "image_size": explicit.image_size,
        "capl": asdict(config),
        "machine": f"{machine_of()}, 1 thread",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "rounds": args.rounds,
        "rows": [asdict(row) for row in rows],
    }


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result."""
    heads = ["engine", "prompts", "explicit ms", "fused ms", "without ms"]
    for ratio in ("fused / explicit", "fused / without"):
        heads += [ratio, "25 %", "75 %"]
    heads.append("relative difference of masks")
    rows = [
        [
            row["engine"],
            row["prompts"],
            Cell(row["explicit_ms"]),
            Cell(row["fused_ms"]),
            Cell(row["without_ms"]),
            *(
                Cell(row[name][quartile], decimals=3)
                for name in ("ratio", "entity_ratio")
                for quartile in (1, 0, 2)
            ),
            f"{row['relative_difference']:.1e}",
        ]
        for row in result["rows"]
    ]
    note = (
        f"Decoder at {result['image_size']} pixels, {result['rounds']} rounds, "
        f"{result['machine']}; base `{result['base_sha256'][:12]}`. CPU milliseconds a call, "
        "median over rounds, and the ratios of the fused decoder to the one with an explicit bias "
        "and to the one without logit calibration, with their quartiles; the masks of the former "
        "two are compared."
    )
    return RunReport(
        "fusion", "Time of the decoder with logit calibration", note, [Table("", heads, rows)]
    )


def _run(args: argparse.Namespace) -> None:
    result = _measure_all(args)
    write_json(args.out, result)
    publish(report_of(result), args.out.with_suffix(".md"), args, result["base_sha256"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
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
        "--out", type=Path, default=OUT / "fusion.json", metavar="FILE", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
