"""Overlay of a result on its image: masks in distinct colours, with prompts and scores."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cpcsam.client.prompts import Prompt
from cpcsam.client.results import SegmentResult
from cpcsam.contract import PointLabel
from cpcsam.drawing import RGB, color_of, contour

__all__ = ["draw_overlay"]

FILL_OPACITY = 0.35


def draw_overlay(image: NDArray[np.uint8], result: SegmentResult) -> Image.Image:
    """Draw masks (fill and contour), boxes, clicks and scores over the image.

    Each prompt has its own colour. Foreground points are discs, background points crosses; an arrow
    leads from a point to where the model moved it, and a thin white box is the box as moved. Line
    width scales with the image.

    Args:
        image: (H, W, 3) uint8 RGB, of the result's original_size.
        result: of a request for the image.

    Returns:
        RGB image of the same size.
    """
    line = max(1, round(max(image.shape) / 400))
    canvas = image.astype(np.float32)
    for index, masks in enumerate(result.masks):
        color = np.array(color_of(index), np.float32)
        for mask in masks:
            inside, edge = mask.array, contour(mask.array, line)
            canvas[inside] += FILL_OPACITY * (color - canvas[inside])
            canvas[edge] = color
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for index, prompt in enumerate(result.prompts):
        _draw_prompt(draw, prompt, color_of(index), line)
    for prompt, calibrated in zip(result.prompts, result.calibrated_prompts, strict=False):
        if calibrated is not None:
            _draw_moves(draw, prompt, calibrated, line)
    font = ImageFont.load_default(size=max(10, 8 * line))
    for index, masks in enumerate(result.masks):
        for rank, mask in enumerate(masks):
            if mask.area:
                _draw_score(draw, mask.score, mask.box, rank, color_of(index), font, picture.size)
    return picture


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: Prompt, color: RGB, line: int) -> None:
    if prompt.box is not None:
        draw.rectangle(prompt.box, outline="white", width=2 * line)
        draw.rectangle(prompt.box, outline=color, width=line)
    radius = 3 * line
    for (x, y), label in zip(prompt.point_coords, prompt.point_labels, strict=True):
        # A pixel's centre lies half a pixel from its coordinate, as in the model.
        x, y = x + 0.5, y + 0.5
        corners = (x - radius, y - radius, x + radius, y + radius)
        if label == PointLabel.FOREGROUND:
            draw.ellipse(corners, fill=color, outline="white", width=line)
        else:
            for stroke, ink in ((3 * line, "white"), (line, color)):
                draw.line(corners, fill=ink, width=stroke)
                draw.line((corners[0], corners[3], corners[2], corners[1]), fill=ink, width=stroke)


def _draw_moves(draw: ImageDraw.ImageDraw, prompt: Prompt, taken: Prompt, line: int) -> None:
    """Draw arrows to the points, and the box, that were moved by a pixel or more."""
    for start, end in zip(prompt.point_coords, taken.point_coords, strict=True):
        # Centres of pixels, as for the points themselves.
        (x, y), (to_x, to_y) = (np.add(place, 0.5) for place in (start, end))
        length = math.hypot(to_x - x, to_y - y)
        if length < 1:
            continue
        angle, head = math.atan2(to_y - y, to_x - x), min(length, 4.0 * line)
        draw.line((x, y, to_x, to_y), fill="white", width=line)
        for turn in (-0.5, 0.5):
            side = to_x - head * math.cos(angle + turn), to_y - head * math.sin(angle + turn)
            draw.line((*side, to_x, to_y), fill="white", width=line)
    if prompt.box is not None and taken.box is not None:
        if np.abs(np.subtract(prompt.box, taken.box)).max() >= 1:
            x0, y0, x1, y1 = taken.box
            draw.rectangle(
                (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline="white", width=line
            )


def _draw_score(
    draw: ImageDraw.ImageDraw,
    score: float,
    box: tuple[float, float, float, float],
    rank: int,
    color: RGB,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Draw a score above the top left corner of its box, kept inside the image."""
    text = f"{score:.2f}"
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, stroke_width=1)
    width, height = right - left, bottom - top
    x = min(box[0] + rank * 1.3 * width, size[0] - width)
    y = max(box[1] - height, 0)
    draw.text(
        (max(x, 0) - left, y - top), text, color, font=font, stroke_width=1, stroke_fill="black"
    )
