"""Command: every stage on one real image, from fine-tuning to latency in Prometheus' format.

python -m demo
python -m demo --out out/demo --minutes 1
python -m demo --seeds 5

On one half of a real fluorescence image the shipped base is fine-tuned with and without CaPL (LoRA
in both); the former is merged, exported to ONNX and served by Triton behind the gRPC gateway. The
nuclei of the other half are then found by one click each, an accurate or a careless one. The
figures end up in report.json and report.html; moves.png shows four careless clicks that were moved.
It needs no GPU. Ctrl-C stops it and all that it started.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from cpcsam.client import Mask
from cpcsam.client.prompts import XY
from cpcsam.commands import count, exit_code_of, parser_of, positive
from demo.commands import DemoError, run_stage, serve
from demo.measure import latency_of, mean_dice, on_one_canvas, segment_nuclei
from demo.report import conclusion, report_of, write_report
from demo.scene import HELD_OUT, WINDOW, Scene, load_scene, otsu_component
from reporting.run_report import current_provenance

__all__ = ["main", "run"]

PROG: Final = "python -m demo"
BASE: Final = Path("weights/vit_t")
CONFIG: Final = Path("training/configs/demo.yaml")
MIN_MOVE: Final = 0.1
"""In pixels; with less CaPL stayed inert."""


def run(out: Path, minutes: float, seeds: int = 1) -> dict[str, Any]:
    """Run all stages and write the report.

    Args:
        out: folder of the results; the stages' artifacts go below `out/work`.
        minutes: longest time for a fine-tuning.
        seeds: number of fine-tunings with and without CaPL; the first of them is served.

    Returns:
        The figures of report.json.

    Raises:
        DemoError: a stage failed, or CaPL stayed inert.
    """
    # `make demo` passes the seconds that installing took, which count as well.
    started = time.monotonic() - float(os.environ.get("CPCSAM_SETUP_S", "0"))
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    scene = load_scene(BASE)
    print(
        f"{scene.image_path.name}: {len(scene.nuclei)} held-out nuclei; highest correlation with "
        f"a training image of the base {scene.training_similarity:.2f}"
    )
    seconds = _make(scene, work, minutes, seeds)
    trained = {
        name: [
            json.loads((work / f"scores-{name}-{seed}.json").read_text()) for seed in range(seeds)
        ]
        for name in ("run", "without_capl")
    }
    scores = trained["run"][0]
    for kind in ("accurate", "careless"):
        scores[kind]["without_capl"] = trained["without_capl"][0][kind]["run"]
    with serve(work / "repository", work / "serve.log") as service:
        served = segment_nuclei(service.gateway, scene.nuclei)
        latency = latency_of(service.gateway_metrics_url)
    report: dict[str, Any] = {
        **_dice(
            scene, [nucleus.click for nucleus in scene.nuclei], served.accurate, scores["accurate"]
        ),
        "careless": _dice(
            scene,
            [nucleus.careless_click for nucleus in scene.nuclei],
            served.careless,
            scores["careless"],
        ),
        "dice_click_torch": scores["accurate"]["run"]["dice"],
        "seeds": {
            name: {
                kind: [score[kind]["run"]["dice"] for score in each]
                for kind in ("accurate", "careless")
            }
            for name, each in trained.items()
        },
        "click_moves_px": scores["click_moves_px"],
        "nuclei": len(scene.nuclei),
        "requests": latency.requests,
        "p50_ms": latency.p50_ms,
        "p99_ms": latency.p99_ms,
        "triton_version": served.triton_version,
        "training_similarity": scene.training_similarity,
        "seconds": seconds,
        "machine": f"{os.cpu_count()} x {platform.machine()}",
    }
    report["conclusion"] = conclusion(report)
    report["wall_s"] = time.monotonic() - started
    write_report(
        out, scene.held_out.image, on_one_canvas(scene, served.careless, served.moved), report
    )
    command = f"{PROG} --seeds {seeds}" if seeds > 1 else PROG
    report_of(report).write(out, current_provenance([command]))
    # After the report is written, which shows what went wrong.
    if report["click_moves_px"]["careless"] < MIN_MOVE:
        raise DemoError.of(
            "CaPL",
            got=f"careless clicks moved by {report['click_moves_px']['careless']:.2g} pixels",
            expected=f"at least {MIN_MOVE:g}",
            fix="train longer",
        )
    return report


def _dice(
    scene: Scene, clicks: Sequence[XY], served: Iterable[Mask], scores: dict[str, Any]
) -> dict[str, float]:
    """Compute the mean Dice of each compared method, with a click per nucleus."""
    images = (nucleus.window.image for nucleus in scene.nuclei)
    return {
        "dice_click": mean_dice((mask.array for mask in served), scene.nuclei),
        "dice_base": scores["base"]["dice"],
        "dice_without_capl": scores["without_capl"]["dice"],
        "dice_no_capl": scores["no_capl"]["dice"],
        "dice_threshold": mean_dice(map(otsu_component, images, clicks), scene.nuclei),
    }


def _train(scene: Scene, work: Path, minutes: float, name: str, seed: int, *more: str) -> float:
    """Fine-tune and score a run `NAME-SEED`; return its seconds."""
    run, pair = f"{name}-{seed}", (scene.image_path, scene.instances_path)
    seconds = run_stage(
        f"Fine-tune the base on the left half: {run}",
        "training.train",
        CONFIG,
        f"name={run}",
        f"seed={seed}",
        f"out={work / 'runs'}",
        f"max_minutes={minutes}",
        f"model.base={BASE}",
        f"data.train.image={pair[0]}",
        f"data.train.instances={pair[1]}",
        *more,
    )
    return seconds + run_stage(
        f"Score {run} on the held-out half",
        "training.evaluate",
        *("--run", work / "runs" / run / "best"),
        *("--image", pair[0], "--instances", pair[1]),
        *("--region", ",".join(map(str, HELD_OUT)), "--window", str(WINDOW), "--around-entities"),
        *("--out", work / f"scores-{run}.json"),
    )


def _make(scene: Scene, work: Path, minutes: float, seeds: int) -> dict[str, float]:
    """Fine-tune, score, merge, export; returns the seconds of each stage."""
    trained = {
        f"{name}-{seed}": _train(scene, work, minutes, name, seed, *more)
        for seed in range(seeds)
        for name, more in (("run", ()), ("without_capl", ("model.capl=null",)))
    }
    return {
        "train": sum(trained.values()),
        "merge": run_stage(
            "Merge LoRA, fuse CaPL",
            "export.merge",
            *("--run", work / "runs/run-0/best", "--out", work / "merged"),
        ),
        "export": run_stage(
            "Export to ONNX and compare with torch",
            "export.to_onnx",
            *("--merged", work / "merged", "--out", work / "onnx"),
        ),
        "repository": run_stage(
            "Make the Triton model repository",
            "export.repository",
            *("publish", "--onnx", work / "onnx", "--out", work / "repository"),
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 2 after an error, 130 after Ctrl-C."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (%(default)s)")
    parser.add_argument(
        "--minutes", type=positive, default=2.5, help="longest fine-tuning (%(default)s)"
    )
    parser.add_argument(
        "--seeds", type=count, default=1, help="fine-tunings with and without CaPL (%(default)s)"
    )
    args = parser.parse_args(argv)
    # Like Ctrl-C, so that context managers end the child processes.
    signal.signal(signal.SIGTERM, _interrupt)

    def command() -> None:
        report = run(args.out, args.minutes, args.seeds)
        print(f"\n{report['conclusion']}")
        print(
            f"{report['requests']} requests, p50 {report['p50_ms']:.0f} ms, p99 "
            f"{report['p99_ms']:.0f} ms; {report['wall_s']:.0f} s in all; see {args.out}"
        )

    try:
        return exit_code_of(command, PROG)
    except KeyboardInterrupt:
        sys.stderr.write(f"{PROG}: interrupted; all that was started has stopped\n")
        return 130


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
