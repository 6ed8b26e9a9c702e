"""JPEG decoding: nvJPEG through torchvision, and torchvision on the CPU, against Pillow.

The files are real images, enlarged to the sizes that cameras and microscopes have and encoded by
Pillow. Decoders may round the inverse transform and interpolate the colour planes differently, so
the difference of the pixels stands beside the time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.gpu.images import real_images
from benchmarks.gpu.stage import StageContext
from cpcsam.images.reading import decode_image

with suppress(ImportError):
    # Before the stage's time begins; `_decoder` tells why it may be missing.
    import torchvision.io  # noqa: F401

__all__ = ["jpeg_of", "measure"]

SIZES: Final = ((1024, 1024), (3000, 4000))
QUICK_SIZES: Final = ((256, 256),)
BATCH: Final = 16
QUALITY: Final = 90

Decode = Callable[[Sequence[bytes]], list[Tensor]]


def measure(context: StageContext) -> Iterator[dict[str, Any]]:
    """Yield time and rate of every decoder, by size, and its deviation from Pillow's pixels."""
    image = decode_image(real_images(context)[0].read_bytes())
    for size in QUICK_SIZES if context.quick else SIZES:
        file = jpeg_of(image, size)
        expected = decode_image(file)
        name = "×".join(map(str, size))
        took = context.seconds(lambda data=file: decode_image(data))  # type: ignore[misc]
        yield {
            "case": f"Pillow, {name}",
            "file_kib": len(file) / 1024,
            "decode_ms": 1e3 * took,
            "images_per_s": 1 / took,
        }
        for device in ("cpu", "cuda"):
            for batch in (1, 2 if context.quick else BATCH):
                case = f"torchvision on {device}, {name}, batch {batch}"
                if device != context.device.type and device == "cuda":
                    yield {"case": case, "skipped": "no GPU"}
                    break
                yield _measured(context, case, torch.device(device), [file] * batch, expected)


def jpeg_of(image: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """Encode an image as JPEG, resized to (H, W), with colour planes of half the resolution."""
    buffer = io.BytesIO()
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    resized.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def _decoder(device: torch.device) -> Decode:
    """Return torchvision's decoder, of a list of files, to (3, H, W) uint8 each on the device.

    Raises:
        ImportError: no torchvision, or one without image codecs.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(files: Sequence[bytes]) -> list[Tensor]:
        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        decoded: list[Tensor] = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
        return decoded

    return decode


def _measured(
    context: StageContext,
    case: str,
    device: torch.device,
    files: Sequence[bytes],
    expected: NDArray[np.uint8],
) -> dict[str, Any]:
    try:
        decode = _decoder(device)
        pixels = decode(files)[-1].permute(1, 2, 0).cpu().numpy()
    except (ImportError, RuntimeError, AttributeError) as error:
        # A build without nvJPEG or libjpeg says so in one of these.
        return {"case": case, "skipped": f"{type(error).__name__}: {error}"}
    difference = np.abs(pixels.astype(np.int16) - expected)
    took = context.seconds(lambda: decode(files)) / len(files)
    return {
        "case": case,
        "file_kib": len(files[0]) / 1024,
        "decode_ms": 1e3 * took,
        "images_per_s": 1 / took,
        "difference_mean": float(difference.mean()),
        "difference_max": int(difference.max()),
    }
