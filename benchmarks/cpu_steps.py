"""Measure the CPU time of a request's steps around the model, and reckon with it for one H100.

Examples:
  python -m benchmarks.cpu_steps --report                      2 minutes
  python -m benchmarks.cpu_steps --rounds 2 --requests 4       a quick look

A request brings a full-HD JPEG and one click. The service runs with random weights and an encoder
of one block, so that all else works on tensors as large as with vit_b and vit_h. Times are CPU
time, which other programs change little: of processes, means over all requests; of functions,
medians over rounds in which all take turns, on one thread. Further decoders are measured where they
are installed: simplejpeg, PyTurboJPEG, OpenCV, pyvips.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from benchmarks.capacity.process_seconds import CLIENT, SERVER, process_seconds
from benchmarks.capacity.service_times import GATEWAY
from benchmarks.common.output import OUT, add_report_option, publish, write_json
from benchmarks.cpu_functions import (
    FULL_HD,
    IMAGE_SIZE,
    SIZES,
    jpeg_of_photographs,
    measure_on_one_thread,
)
from benchmarks.serving.followup import PATIENT, TIMEOUT_S
from benchmarks.serving.load import answered, connections
from benchmarks.serving.stack import service, shallow_repository
from cpcsam.commands import count, parser_of, run_command
from cpcsam.contract import EMBED_DIM, IMAGE_ENCODER, PATCH_SIZE, grid_size
from cpcsam.entry_points import EMBEDDING_STORE, POSTPROCESS, PREPROCESS
from cpcsam.model.build_sam import ENCODERS, EncoderSize
from cpcsam.v1 import segmentation_pb2 as pb
from demo.commands import Service
from export.triton_repository.config import INSTANCES
from reporting.run_report import RunReport, Table, machine_of
from reporting.tables import Cell

__all__ = [
    "encoder_flops",
    "main",
    "measure_requests",
    "reckon_encoders",
    "report_of",
    "share_of_encoder",
    "steps_of",
]

PROG: Final = "python -m benchmarks.cpu_steps"
CORES: Final = 16
KINDS: Final = ("new image", "follow-up")
BLOCK: Final = 4
"""Requests of one kind in sequence, before the other kind's turn."""
A100_IMAGES_S: Final = {"vit_b": 94.92, "vit_h": 23.21}
"""Images a second of segment-anything-fast in bfloat16 on an A100, prompts and masks included: `NT`
in results_bs32.csv (vit_b) and results_bs8_vit_h.csv of its experiments/p4d_results."""
A100_TFLOPS: Final = 312.0
H100_TFLOPS: Final = 989.0
"""Of the data sheets: SXM, 16 bits, dense."""


def encoder_flops(encoder: EncoderSize) -> float:
    """Count the operations of an image, two a multiplication, but those of relative positions.

    Args:
        encoder: with windows, at 1024 pixels.
    """
    grid, width, window = grid_size(IMAGE_SIZE), encoder.embed_dim, encoder.window_size
    tokens, padded = grid**2, (-(-grid // window) * window) ** 2
    whole = len(encoder.global_attn_indexes)
    windowed = encoder.depth - whole
    projections = 4 * width**2 * (whole * tokens + windowed * padded)
    mlp = 8 * width**2 * tokens * encoder.depth
    attention = 2 * width * (whole * tokens**2 + windowed * padded * window**2)
    patches, neck = 3 * PATCH_SIZE**2 * width, (width + 9 * EMBED_DIM) * EMBED_DIM
    return 2.0 * (projections + mlp + attention + (patches + neck) * tokens)


def reckon_encoders() -> dict[str, dict[str, float]]:
    """Reckon the encoder on an H100, by model, from the share of an A100's peak that it reaches.

    The share of the H100's peak is assumed to be the same.
    """
    models = {}
    for model, images_s in A100_IMAGES_S.items():
        flops = encoder_flops(ENCODERS[model])
        rate = images_s * H100_TFLOPS / A100_TFLOPS
        models[model] = {
            "gflop": flops / 1e9,
            "a100_images_s": images_s,
            "share_of_peak": images_s * flops / (A100_TFLOPS * 1e12),
            "h100_images_s": rate,
            "encoder_ms": 1e3 / rate,
        }
    return models


def share_of_encoder(cpu_ms: float, model: Mapping[str, float]) -> float:
    """Return what a step takes of 16 cores, over the encoder's time of `reckon_encoders`."""
    return cpu_ms / CORES / model["encoder_ms"]


def steps_of(functions: Mapping[str, float], processes: Mapping[str, float]) -> dict[str, float]:
    """Return the CPU milliseconds of a request with a new image, by step of the GPU's repository.

    Args:
        functions: of `measure_functions`, at full HD.
        processes: CPU milliseconds of the processes.
    """
    return {
        GATEWAY: processes[GATEWAY],
        SERVER: processes[SERVER],
        PREPROCESS.name: processes[PREPROCESS.name],
        # Steps of the CPU's `decoder`, where the graphs run in the same process.
        EMBEDDING_STORE.name: functions["store the embedding"],
        POSTPROCESS.name: functions["postprocess"],
    }


async def measure_requests(running: Service, requests: int) -> dict[str, dict[str, float]]:
    """Return the CPU milliseconds of a request, by kind and process.

    Args:
        running: the service.
        requests: number of each kind, rounded up to whole blocks.

    Raises:
        ServingError: a request was not answered.
    """
    file, (height, width) = jpeg_of_photographs(SIZES[FULL_HD]), SIZES[FULL_HD]
    click = pb.Prompt(points=[pb.Point(x=width // 2, y=height // 2)])
    spent = {kind: dict[str, float]() for kind in KINDS}
    blocks, copies = -(-requests // BLOCK), itertools.count()
    async with connections(running.gateway, 1) as (stub,):

        async def ask(kind: str, image_id: str) -> str:
            request = pb.SegmentRequest(prompts=[click], image_id=image_id)
            if kind == KINDS[0]:
                # Decoders read nothing behind an image's end: equal pixels, and a cache miss.
                request.image_bytes = file + next(copies).to_bytes(8, "big")
            outcome = await answered(stub, 0, request, TIMEOUT_S)
            assert outcome.response is not None  # as `answered` has it
            return outcome.response.image_id

        image_id = ""
        for block in tqdm(range(1 + blocks), desc="requests"):
            for kind in KINDS:
                before = process_seconds(running.pid)
                for _ in range(BLOCK):
                    image_id = await ask(kind, image_id)
                after = process_seconds(running.pid)
                for name in after if block else ():  # the first warms up
                    taken = 1e3 * (after[name] - before.get(name, 0.0)) / BLOCK
                    spent[kind][name] = spent[kind].get(name, 0.0) + taken
    return {
        kind: {name: ms / blocks for name, ms in taken.items() if name != CLIENT}
        for kind, taken in spent.items()
    }


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result."""
    functions, processes = result["functions"], result["processes"]
    sizes, models, steps = list(SIZES), result["models"], result["steps_ms"]

    def table(title: str, key: str, head: str) -> Table:
        names = functions[sizes[0]][key]
        heads = [head, *(f"{size}, ms" for size in sizes)]
        differing = key != "steps"
        if differing:
            heads += [f"{size}, values that differ, %" for size in sizes]
            heads += [f"{size}, largest difference" for size in sizes]
        rows = []
        for name in names:
            row: list[object] = [name]
            row += [Cell(functions[size][key][name], decimals=2) for size in sizes]
            if differing:
                found = [functions[size]["differences"][name] for size in sizes]
                row += [Cell(100 * one["share"], decimals=2) for one in found]
                row += [Cell(one["largest"], decimals=0) for one in found]
            rows.append(row)
        return Table(title, heads, rows)

    names = [name for name in processes[KINDS[0]] if name != IMAGE_ENCODER.name]
    of_processes = Table(
        "Processes of the service, full HD",
        ["process", *(f"{kind}, ms" for kind in KINDS)],
        [[name, *(Cell(processes[kind][name], decimals=1) for kind in KINDS)] for name in names],
        "`decoder` holds the prompt encoder, the mask decoder and `postprocess` on the CPU.",
    )
    encoders = Table(
        "The encoder on an H100, reckoned",
        ["model", "GFLOP", "A100, images/s", "of its peak, %", "H100, images/s", "H100, ms"],
        [
            [
                name,
                Cell(one["gflop"], decimals=0),
                Cell(one["a100_images_s"], decimals=2),
                Cell(100 * one["share_of_peak"], decimals=1),
                Cell(one["h100_images_s"], decimals=1),
                Cell(one["encoder_ms"], decimals=2),
            ]
            for name, one in models.items()
        ],
    )
    total = {**steps, "all": sum(steps.values())}
    shares = Table(
        f"Steps on {CORES} cores over the encoder, full HD and one click",
        ["step", "CPU ms", *(f"of {name}'s encoder, %" for name in models), "processes",
         "images/s of these"],
        [
            [
                name,
                Cell(ms, decimals=1),
                *(Cell(100 * share_of_encoder(ms, one), decimals=1) for one in models.values()),
                instances,
                None if instances is None else Cell(1e3 * instances / ms, decimals=0),
            ]
            for name, ms in total.items()
            for instances in (result["instances"].get(name),)
        ],
        "Processes are those of the shipped repository for a GPU, and one gateway. Of "
        "`embedding_store` and `postprocess` it is their functions alone.",
    )  # fmt: skip
    missing = functions["missing"]
    note = (
        f"CPU time of one request, {result['machine']}: of processes the mean over "
        f"{result['requests']} requests, of functions the median over {result['rounds']} rounds on "
        f"one thread. JPEG files of {' and '.join(_megabytes(functions, size) for size in sizes)}"
        f"{'; not installed: ' + ', '.join(missing) if missing else ''}."
    )
    tables = [
        table("Functions", "steps", "function"),
        of_processes,
        encoders,
        shares,
        table("JPEG decoders, to RGB", "decoders", "decoder"),
        table("From a JPEG file to the encoder's frame", "frames", "way"),
    ]
    return RunReport("cpu_steps", "CPU time of a request's steps", note, tables)


def _megabytes(functions: Mapping[str, Any], size: str) -> str:
    return f"{functions[size]['bytes'] / 1e6:.2f} MB ({size})"


def _run(args: argparse.Namespace) -> None:
    build = args.out / "build"
    repository = shallow_repository(IMAGE_SIZE, build)
    with service(repository, build, *PATIENT) as running:
        processes = asyncio.run(measure_requests(running, args.requests))
    functions = measure_on_one_thread(args.rounds)
    steps = steps_of(functions[FULL_HD]["steps"], processes[KINDS[0]])
    result = {
        "machine": machine_of(),
        "requests": args.requests,
        "rounds": args.rounds,
        "functions": functions,
        "processes": processes,
        "steps_ms": steps,
        "models": reckon_encoders(),
        "instances": {GATEWAY: 1, SERVER: None, **{spec.name: n for spec, n in INSTANCES.items()}},
    }
    write_json(args.out / "cpu_steps.json", result)
    publish(report_of(result), args.out / "cpu_steps.md", args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    add = parser.add_argument
    text = "of each function (default: %(default)s)"
    add("--rounds", type=count, default=15, metavar="N", help=text)
    text = "of each kind, in blocks of 4 (default: %(default)s)"
    add("--requests", type=count, default=16, metavar="N", help=text)
    add("--out", type=Path, default=OUT / "cpu_steps", metavar="DIR", help="(%(default)s)")
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
