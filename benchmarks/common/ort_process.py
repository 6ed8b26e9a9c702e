"""Time an image encoder in ONNX Runtime, in a process that does nothing else; prints JSON.

It imports no torch, so that its peak of resident memory is the engine's.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.common.memory import rss_peak_bytes

__all__ = ["run"]

WARM_UP = 1


def run(file: Path, image_size: int, rounds: int, threads: int, arena: bool) -> dict[str, object]:
    """Open a graph and run it on one image.

    Args:
        file: the image_encoder's .onnx.
        image_size: side S.
        rounds: timed calls, after a warm-up.
        threads: of a call.
        arena: let ONNX Runtime keep freed memory for the next call.

    Returns:
        `wall_s` and `cpu_s` of every call and `rss_peak_gb` of the process, loading included.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).integers(
        0, 256, (1, 3, image_size, image_size), dtype=np.uint8
    )
    feeds = {"image": image, "input_size": np.full((1, 2), image_size, np.int32)}
    wall, cpu = [], []
    for _ in range(WARM_UP + rounds):
        started, spent = time.perf_counter(), time.process_time()
        session.run(None, feeds)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - spent)
    return {
        "wall_s": wall[WARM_UP:],
        "cpu_s": cpu[WARM_UP:],
        "rss_peak_gb": rss_peak_bytes() / 1e9,
    }


if __name__ == "__main__":
    path, *numbers = sys.argv[1:]
    size, count, on_threads, with_arena = map(int, numbers)
    print(json.dumps(run(Path(path), size, count, on_threads, bool(with_arena))))
