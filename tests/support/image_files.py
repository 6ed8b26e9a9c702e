"""Image files as tools write them, each with the pixels that it stands for."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

ORIENTATION = 0x0112
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" '
    'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/>'
)


@dataclass(frozen=True)
class ImageCase:
    """A file and what it shows.

    Attributes:
        name: format, mode and the like.
        data: the file.
        values: (H, W) or (H, W, 3), upright, of the file's own type.
        is_exact: whether no compression changed them.
    """

    name: str
    data: bytes
    values: NDArray[Any]
    is_exact: bool = True


def stretched(values: NDArray[Any], low: float = 0.1, high: float = 99.9) -> NDArray[np.uint8]:
    """The documented policy, written out: (H, W, 3) from values of any type."""
    rgb = np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values
    if rgb.dtype == np.uint8:
        return rgb
    finite = values[np.isfinite(values)].astype(np.float64)
    darkest, brightest = np.quantile(finite, (low / 100, high / 100))
    scaled = (rgb.astype(np.float64) - darkest) / (brightest - darkest)
    return np.rint(np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8)


def stored(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels as a camera stores them that has to state this orientation."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """The bytes of a file that tifffile writes."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(values: NDArray[np.uint16], colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, (H, W, C), which Pillow does not write."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    packed = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # filter 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def exif_block(orientation: int) -> bytes:
    """An EXIF block with its header."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def oriented_files(picture: NDArray[np.uint8], orientation: int) -> Iterator[ImageCase]:
    """Files that state an orientation in each place where tools write it."""
    image = Image.fromarray(stored(picture, orientation))
    exif = exif_block(orientation)
    xmp = XMP.format(orientation)
    digits = exif.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    profile, packet = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{lines}\n", zip=True)
    packet.add_itxt("XML:com.adobe.xmp", xmp)
    plain = saved(image, "PNG")
    end = plain.rindex(b"IEND") - 4
    lossless = {"lossless": True, "exact": True}
    for place, data in {
        "PNG eXIf": saved(image, "PNG", exif=exif),
        "PNG eXIf after the pixels": plain[:end] + png_chunk(b"eXIf", exif[6:]) + plain[end:],
        "PNG raw profile": saved(image, "PNG", pnginfo=profile),
        "PNG XMP": saved(image, "PNG", pnginfo=packet),
        "TIFF tag": tiff(np.asarray(image), extratags=[(274, 3, 1, orientation, True)]),
        "TIFF XMP": saved(image, "TIFF", tiffinfo={700: xmp.encode()}),
        "WebP EXIF": saved(image, "WEBP", exif=exif, **lossless),
        "WebP XMP": saved(image, "WEBP", xmp=xmp.encode(), **lossless),
    }.items():
        yield ImageCase(f"{place} {orientation}", data, picture)
    for place, options in {"EXIF": {"exif": exif}, "XMP": {"xmp": xmp.encode()}}.items():
        data = saved(image, "JPEG", quality=98, subsampling=0, **options)
        yield ImageCase(f"JPEG {place} {orientation}", data, picture, is_exact=False)


def files_of_modes(rng: np.random.Generator, height: int, width: int) -> Iterator[ImageCase]:
    """Files of every format and kind of pixel, with random values."""
    colours = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    grey, picture = colours[..., 0], Image.fromarray(colours)
    alpha = rng.integers(0, 256, (height, width, 1), dtype=np.uint8)
    rgba = Image.fromarray(np.concatenate([colours, alpha], axis=2))
    la = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha[..., 0])))
    palette = picture.quantize(16)
    bits = grey > 127
    for kind in ("PNG", "TIFF", "BMP"):
        yield ImageCase(f"{kind} RGB", saved(picture, kind), colours)
        yield ImageCase(f"{kind} L", saved(Image.fromarray(grey), kind), grey)
        yield ImageCase(f"{kind} 1", saved(Image.fromarray(bits), kind), bits * np.uint8(255))
    for kind in ("PNG", "TIFF", "GIF"):
        of_palette = np.array(palette.convert("RGB"))
        yield ImageCase(f"{kind} P", saved(palette, kind), of_palette)
    for kind in ("PNG", "TIFF"):
        yield ImageCase(f"{kind} LA", saved(la, kind), grey)
        yield ImageCase(f"{kind} RGBA", saved(rgba, kind), colours)
    cmyk = picture.convert("CMYK")
    yield ImageCase("TIFF CMYK", saved(cmyk, "TIFF"), np.array(cmyk.convert("RGB")))
    white = tiff(255 - grey, photometric="miniswhite")
    yield ImageCase("TIFF white is zero", white, grey)
    yield from _deep_files(rng, height, width)


def _deep_files(rng: np.random.Generator, height: int, width: int) -> Iterator[ImageCase]:
    # 12 used bits of 16, as cameras write them.
    deep = rng.integers(0, 4096, (height, width, 3)).astype(np.uint16)
    grey = np.ascontiguousarray(deep[..., 0])
    alpha = rng.integers(0, 65_536, (height, width, 1)).astype(np.uint16)
    yield ImageCase("PNG 16-bit", saved(Image.fromarray(grey), "PNG"), grey)
    yield ImageCase("PNG RGB 16-bit", deep_png(deep, 2), deep)
    yield ImageCase("PNG RGBA 16-bit", deep_png(np.concatenate([deep, alpha], 2), 6), deep)
    yield ImageCase("PNG LA 16-bit", deep_png(np.concatenate([deep[..., :1], alpha], 2), 4), grey)
    for order in "<>":
        for packing in (None, "zlib"):
            name = f"TIFF {order} {packing}"
            options = {"byteorder": order, "compression": packing, "predictor": bool(packing)}
            planes = np.moveaxis(deep, 2, 0)
            yield ImageCase(f"{name} I;16", tiff(grey, **options), grey)
            yield ImageCase(f"{name} RGB", tiff(deep, photometric="rgb", **options), deep)
            planar = tiff(planes, photometric="rgb", planarconfig="separate", **options)
            yield ImageCase(f"{name} planar", planar, deep)
            options["predictor"] = False
            real = grey.astype(np.float32) / 7 - 100
            yield ImageCase(f"{name} F", tiff(real, **options), real)
            signed = grey.astype(np.int32) * 1000 - 7
            yield ImageCase(f"{name} I", tiff(signed, **options), signed)
    lzw = saved(Image.fromarray(grey), "TIFF", compression="tiff_lzw")
    yield ImageCase("TIFF LZW I;16", lzw, grey)
    white = tiff(65_535 - grey, photometric="miniswhite")
    yield ImageCase("TIFF white is zero I;16", white, grey)
