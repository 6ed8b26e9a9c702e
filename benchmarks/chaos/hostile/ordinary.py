"""Requests that succeed: what hostile ones are made from, and one of each kind as a warm-up."""

from __future__ import annotations

import random

from google.protobuf.message import Message

from benchmarks.chaos.hostile.images import SIDE, plain_image, sources
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.vocabulary.service import MAX_EXAMPLES

__all__ = ["click_request", "half_mask", "one_of_each", "rle_number"]


def click_request(rng: random.Random, image: bytes | None = None) -> pb.SegmentRequest:
    """A request that succeeds: a click into an image."""
    return pb.SegmentRequest(
        request_id=f"hostile-{rng.randrange(1000)}",
        image_bytes=plain_image() + rng.randbytes(4) if image is None else image,
        prompts=[pb.Prompt(points=[pb.Point(x=rng.uniform(0, 40), y=rng.uniform(0, 40))])],
    )


def one_of_each() -> list[tuple[str, bytes]]:
    """Ordinary requests of every kind, each as its method and message: what a warm-up sends."""
    rng = random.Random(0)
    requests = [click_request(rng, data) for data in sources() * 2]
    for tiled in requests[len(sources()) :]:
        tiled.tile_size = SIDE // 2  # so that the gateway decodes the image itself
    for name in pb.MaskFormat.keys():
        requests.append(click_request(rng))
        requests[-1].mask_format = pb.MaskFormat.Value(name)  # type: ignore[assignment]
    everything, search = click_request(rng), click_request(rng)
    everything.ClearField("prompts")
    everything.everything.points_per_side = 2
    search.ClearField("prompts")
    search.classes.append("warm")
    example = pb.Example(image_bytes=plain_image(), entities=[half_mask(SIDE)])
    examples = [example] * MAX_EXAMPLES  # building the class takes as much memory as it ever does
    classes: list[tuple[str, Message]] = [
        ("AddClass", pb.AddClassRequest(name="warm", examples=examples, tile_size=0)),
        ("Segment", search),
        ("RemoveClass", pb.RemoveClassRequest(name="warm")),
        ("Describe", pb.DescribeRequest()),
    ]
    others: list[tuple[str, Message]] = [("Segment", one) for one in (*requests, everything)]
    return [(method, message.SerializeToString()) for method, message in (*others, *classes)]


def half_mask(side: int) -> pb.CocoRle:
    """The left half of a square."""
    half = rle_number(side * side // 2)
    return pb.CocoRle(size=pb.Size(height=side, width=side), counts=f"0{half}{half}")


def rle_number(value: int) -> str:
    """Write the length of a run in COCO's compressed form.

    Groups of five bits, the lowest first and the sign in the last.
    """
    text = ""
    while True:
        group, value = value & 0x1F, value >> 5
        more = value != (-1 if group & 0x10 else 0)
        text += chr((group | (0x20 if more else 0)) + 48)
        if not more:
            return text
