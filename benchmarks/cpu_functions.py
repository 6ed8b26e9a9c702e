"""Functions that a request runs through outside of the model, and JPEG decoders, on one thread.

Pictures are covered by photographs, each pixel for pixel: an enlarged photograph lacks details, and
so decodes faster.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.gpu.stages.postprocess import draw_decoded
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.automatic.rle import rle_from_crop
from cpcsam.contract import IMAGE_EMBEDDINGS, MAX_PIXELS, MaskSelection
from cpcsam.entry_points import IMAGE_BYTES, SEGMENT
from cpcsam.geometry import Box
from cpcsam.images.reading import decode_image, decode_picture
from cpcsam.transforms import input_size_of, pad_image, to_frame
from cpcsam.v1 import segmentation_pb2 as pb
from serving.backend.postprocess import postprocess, select_masks
from serving.gateway.inference.triton_requests import bytes_input, message
from serving.gateway.limits import Limits
from serving.gateway.segmentation.responses import mask_message
from serving.gateway.validation.request import header_of

__all__ = [
    "FULL_HD",
    "IMAGE_SIZE",
    "SIZES",
    "jpeg_of_photographs",
    "measure_functions",
    "measure_on_one_thread",
]

FULL_HD: Final = "full HD"
SIZES: Final = {FULL_HD: (1080, 1920), "12 MP": (3000, 4000)}
IMAGE_SIZE: Final = 1024
MASKS: Final = 8
"""Noisy discs of many radii; figures are the mean over them."""
PHOTOGRAPHS: Final = Path("benchmarks/photographs/images")
QUALITY: Final = 90

Decode: TypeAlias = Callable[[bytes], NDArray[np.uint8]]
"""Decodes a colour JPEG file to RGB, (H, W, 3), or to the encoder's frame, (3, S, S)."""
Calls: TypeAlias = Mapping[str, Callable[[], object]]


def measure_on_one_thread(rounds: int) -> dict[str, Any]:
    """Run `measure_functions` in a process whose products take one thread."""
    # OpenBLAS reads it when numpy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure_functions, rounds).result()


def measure_functions(rounds: int) -> dict[str, Any]:
    """Measure all functions.

    Args:
        rounds: number of calls, in turns.

    Returns:
        By size of the image: CPU milliseconds by function (`steps`), decoder (`decoders`) and way
        to the encoder's frame (`frames`), and the difference of the latter two from Pillow's
        pixels (`differences`); and the decoders that are not installed (`missing`).
    """
    decoders, missing = _installed_decoders()
    frames = dict(FRAMES)
    if faster := decoders.get("simplejpeg"):
        frames["by simplejpeg"] = lambda file: to_frame(faster(file), IMAGE_SIZE)[0]
    found: dict[str, Any] = {"missing": missing}
    for name, size in tqdm(SIZES.items(), desc="functions"):
        file = jpeg_of_photographs(size)
        masks = _medians_ms(_mask_steps(size), rounds)
        found[name] = {
            "bytes": len(file),
            "steps": {
                **_medians_ms(_image_steps(file), rounds),
                **{step: ms / MASKS for step, ms in masks.items()},
            },
            "decoders": _medians_ms(_calls(decoders, file), rounds),
            "frames": _medians_ms(_calls(frames, file), rounds),
            "differences": _differences(decoders, file) | _differences(frames, file),
        }
    return found


def jpeg_of_photographs(size: tuple[int, int]) -> bytes:
    """Make a JPEG file of (H, W); its colour planes have half the resolution, as from cameras."""
    picture, files = Image.new("RGB", size[::-1]), cycle(sorted(PHOTOGRAPHS.glob("*.jpg")))
    top = 0
    while top < size[0]:
        left, bottoms = 0, []
        while left < size[1]:
            with Image.open(next(files)) as photograph:
                picture.paste(photograph, (left, top))
                left += photograph.width
                bottoms.append(top + photograph.height)
        top = min(bottoms)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def _medians_ms(calls: Calls, rounds: int) -> dict[str, float]:
    """Return the median CPU time of each function, all in turns, after a warm-up."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + rounds):
        for name, call in calls.items():
            started = time.process_time()
            call()
            took[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(times[1:]) for name, times in took.items()}


def _calls(functions: Mapping[str, Decode], file: bytes) -> Calls:
    return {name: lambda run=run: run(file) for name, run in functions.items()}  # type: ignore[misc]


def _differences(functions: Mapping[str, Decode], file: bytes) -> dict[str, dict[str, float]]:
    """Compare the result of each function with that of the first."""
    expected, found = None, {}
    for name, run in functions.items():
        values = run(file).astype(np.int16)
        expected = values if expected is None else expected
        difference = np.abs(values - expected)
        found[name] = {
            "share": float((difference > 0).mean()),
            "largest": float(difference.max()),
        }
    return found


def _image_steps(file: bytes) -> Calls:
    request = pb.SegmentRequest(image_bytes=file, prompts=[pb.Prompt(points=[pb.Point(x=9, y=9)])])
    content, picture = request.SerializeToString(), decode_picture(file)
    inputs = [bytes_input(IMAGE_BYTES.name, file)]
    shape = [abs(side) for side in IMAGE_EMBEDDINGS.shape(IMAGE_SIZE)]
    embedding = np.zeros(shape, IMAGE_EMBEDDINGS.dtype)
    return {
        "parse the request": lambda: pb.SegmentRequest.FromString(content),
        "read the header": lambda: header_of(file, Limits()),
        "SHA-256": lambda: hashlib.sha256(file).hexdigest(),
        "build the call to Triton": lambda: message(SEGMENT.name, "", inputs, SEGMENT.output_names),
        "decode": lambda: decode_picture(file),
        "resize and pad": lambda: to_frame(picture, IMAGE_SIZE),
        "store the embedding": embedding.copy,
    }


def _mask_steps(size: tuple[int, int]) -> Calls:
    """Return the functions of `MASKS` masks in an image of (H, W)."""
    drawn = [draw_decoded(1, IMAGE_SIZE, size, seed) for seed in range(MASKS)]
    requests = [one.request() for one in drawn]
    logits = [
        select_masks(one.low_res_masks, one.iou_predictions, MaskSelection.BEST)[0][0, 0]
        for one in drawn
    ]
    sizes, whole = (input_size_of(size, IMAGE_SIZE), size, IMAGE_SIZE), Box(0, 0, *size)
    pasted = [paste_mask(one, *sizes) for one in logits]
    runs = [rle_from_crop(one.mask, one.bbox, size) for one in pasted]
    masks = [
        InstanceMask(one.bbox, one.area, counts, whole, score=1.0, tile=whole)
        for one, counts in zip(pasted, runs, strict=True)
    ]
    return {
        "postprocess": lambda: [postprocess(one, IMAGE_SIZE, MAX_PIXELS) for one in requests],
        "of it: mask in the image": lambda: [paste_mask(one, *sizes) for one in logits],
        "of it: run lengths": lambda: [rle_from_crop(one.mask, one.bbox, size) for one in pasted],
        "answer": lambda: [
            mask_message(one, size, pb.MASK_FORMAT_COCO_RLE).SerializeToString() for one in masks
        ],
    }


def _shipped_frame(file: bytes) -> NDArray[np.uint8]:
    return to_frame(decode_picture(file), IMAGE_SIZE)[0]


def _frame_by_array(file: bytes) -> NDArray[np.uint8]:
    return to_frame(decode_image(file), IMAGE_SIZE)[0]


def _draft_frame(file: bytes) -> NDArray[np.uint8]:
    """Let libjpeg decode at the smallest of 1/1, 1/2, 1/4 and 1/8 that the frame needs."""
    with Image.open(io.BytesIO(file)) as image:
        height, width = input_size_of((image.height, image.width), IMAGE_SIZE)
        draft = image.draft(None, (width, height))
        box = None if draft is None else draft[1]
        resized = image.resize((width, height), Image.Resampling.BILINEAR, box)
    return pad_image(np.asarray(resized), IMAGE_SIZE)


FRAMES: Final[Mapping[str, Decode]] = {
    "as shipped": _shipped_frame,
    "through an array": _frame_by_array,
    "draft": _draft_frame,
}


def _installed_decoders() -> tuple[dict[str, Decode], list[str]]:
    """Return the decoders that are installed, Pillow first, and the names of the others."""
    found: dict[str, Decode] = {"Pillow": decode_image}
    missing = []
    for name, make in FURTHER.items():
        try:
            found[name] = make()
        except (ImportError, RuntimeError, OSError):  # no package, or none of its C library
            missing.append(name)
    return found, missing


def _simplejpeg(**options: bool) -> Decode:
    decode = import_module("simplejpeg").decode_jpeg
    return lambda data: decode(data, colorspace="RGB", **options)


def _turbojpeg() -> Decode:
    module = import_module("turbojpeg")
    decoder = module.TurboJPEG()
    return lambda data: decoder.decode(data, pixel_format=module.TJPF_RGB)


def _opencv() -> Decode:
    cv2 = import_module("cv2")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _vips() -> Decode:
    image = import_module("pyvips").Image
    return lambda data: image.new_from_buffer(data, "", access="sequential").numpy()


FURTHER: Final[Mapping[str, Callable[[], Decode]]] = {
    "simplejpeg": _simplejpeg,
    "simplejpeg, fast DCT and upsampling": lambda: _simplejpeg(fastdct=True, fastupsample=True),
    "PyTurboJPEG": _turbojpeg,
    "OpenCV": _opencv,
    "pyvips": _vips,
}
