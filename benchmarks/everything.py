"""Measure the speed of segmenting everything through Triton and by the official generator.

Examples:
  python -m benchmarks.everything                                a photograph of 512 x 512
  python -m benchmarks.everything --points 16 --rounds 1         a quick look

build/repository must serve the base, which `make export` exports from build/merged. The two take
turns. The served time includes gRPC, the gateway, Triton and encoding; nothing is cached between
rounds, as each sends the image with other bytes behind its end.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator

from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.artifacts.versions import resolve_version
from cpcsam.automatic.rle import mask_from_rle
from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError
from cpcsam.images.reading import decode_image
from cpcsam.model.base_checkpoint import load_base
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from export.real_images import packaged_images
from reporting.run_report import RunReport, Table, machine_of
from reporting.tables import Cell
from serving.gateway.config import GatewayConfig
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.triton.launch import launch_triton

__all__ = ["main", "report_of"]

PROG = "python -m benchmarks.everything"
SAME_IOU = 0.99
Mask = NDArray[np.bool_]
Result = TypeVar("Result")


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result."""
    found = None if result["found_share"] is None else 100 * float(result["found_share"])
    rows = [
        ["official generator", Cell(result["official_s"]), result["official_masks"], None],
        ["served", Cell(result["served_s"]), result["found_masks"], found and Cell(found)],
        ["ratio of the times", Cell(result["ratio"], decimals=2), None, None],
    ]
    heads = ["", "seconds", "masks", f"% of the official masks at IoU ≥ {SAME_IOU}"]
    height, width = result["image"]
    note = (
        f"{result['clicks']} clicks on an image of {height} × {width} pixels, median of "
        f"{result['rounds']} rounds, {result['machine']}."
    )
    return RunReport("everything", "Segmenting everything", note, [Table("", heads, rows)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the result is written, 2 after an error."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument(
        "--image",
        type=Path,
        default=packaged_images()[1],
        metavar="FILE",
        help="image to segment (scikit-image's astronaut)",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path("build/repository"),
        metavar="DIR",
        help="model repository (%(default)s)",
    )
    parser.add_argument(
        "--base",
        type=Path,
        default=Path("weights/vit_t"),
        metavar="DIR",
        help="the same model in torch (%(default)s)",
    )
    parser.add_argument(
        "--points", type=int, default=32, metavar="N", help="clicks a side (%(default)s)"
    )
    for name in ("min-iou", "min-stability"):
        text = "of the masks that stay (%(default)s)"
        parser.add_argument(f"--{name}", type=float, default=0.5, metavar="X", help=text)
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="number of measurements; their median counts (%(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=OUT / "everything.json", metavar="FILE", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    try:
        image = decode_image(args.image.read_bytes())
    except OSError as error:
        raise ConfigError.of(
            "--image", got=str(error), expected="a readable image", fix="correct the path"
        ) from error
    result = _measure(args, image)
    write_json(args.out, result)
    publish(report_of(result), args.out.with_suffix(".md"), args)


def _measure(args: argparse.Namespace, image: NDArray[np.uint8]) -> dict[str, object]:
    official = SamAutomaticMaskGenerator(
        load_base(args.base).sam,
        points_per_side=args.points,
        pred_iou_thresh=args.min_iou,
        stability_score_thresh=args.min_stability,
    )
    everything = pb.Everything(
        points_per_side=args.points, min_iou=args.min_iou, min_stability=args.min_stability
    )
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    times: dict[str, list[float]] = {"official": [], "served": []}
    limits = Limits(max_clicks=max(args.points**2, 1))
    expected: list[dict[str, Any]] = []
    response = pb.SegmentResponse()
    with launch_triton(resolve_version(args.repository)) as triton:
        config = GatewayConfig(triton=triton.grpc_url, port=0, metrics_port=0, limits=limits)
        with (
            gateway_in_background(config) as gateway,
            # An answer of many masks may exceed gRPC's default of 4 MiB.
            grpc.insecure_channel(
                gateway.address, options=[("grpc.max_receive_message_length", -1)]
            ) as channel,
        ):
            stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
            for turn in range(args.rounds + 1):  # the first of each warms up
                data = png.getvalue() + bytes([turn % 256])
                request = pb.SegmentRequest(image_bytes=data, everything=everything)
                expected = _timed(times["official"], lambda: official.generate(image))
                response = _timed(times["served"], partial(stub.Segment, request))
    size = image.shape[0], image.shape[1]
    masks = [
        mask_from_rle(result.masks[0].coco_rle.counts.encode(), size) for result in response.results
    ]
    same = [_best_iou(mask["segmentation"], masks) >= SAME_IOU for mask in expected]
    seconds = {name: median(taken[1:]) for name, taken in times.items()}
    return {
        "image": list(size),
        "clicks": args.points**2,
        "official_masks": len(expected),
        "found_masks": len(masks),
        "found_share": sum(same) / len(same) if same else None,
        "official_s": round(seconds["official"], 3),
        "served_s": round(seconds["served"], 3),
        "ratio": round(seconds["official"] / seconds["served"], 2),
        "rounds": args.rounds,
        "machine": machine_of(),
    }


def _timed(times: list[float], work: Callable[[], Result]) -> Result:
    started = perf_counter()
    result = work()
    times.append(perf_counter() - started)
    return result


def _best_iou(mask: Mask, others: Sequence[Mask]) -> float:
    return max(
        (float((mask & other).sum() / (mask | other).sum()) for other in others), default=0.0
    )


if __name__ == "__main__":
    sys.exit(main())
