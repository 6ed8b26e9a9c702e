"""Binary masks of prompts: converted to logits, or refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cpcsam.automatic.rle import rle_from_mask
from cpcsam.errors import ContractError
from cpcsam.mask_prompts import logits_of_mask
from cpcsam.scale import Scale
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.segmentation.mask_prompts import convert_masks, has_masks

SIZE = 120, 200
LOW = 64
MASK = np.zeros(SIZE, bool)
MASK[30:60, 140:180] = True


def rle(mask: np.ndarray = MASK, size: tuple[int, int] = SIZE) -> pb.BinaryMask:
    side = pb.Size(height=size[0], width=size[1])
    return pb.BinaryMask(coco_rle=pb.CocoRle(size=side, counts=rle_from_mask(mask).decode()))


def png(values: np.ndarray) -> pb.BinaryMask:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return pb.BinaryMask(png=file.getvalue())


def converted(mask: pb.BinaryMask, scale: Scale | None = None, **others: object) -> pb.Prompt:
    request = pb.SegmentRequest(prompts=[pb.Prompt(mask=mask, **others)])
    assert has_masks(request)
    convert_masks(request, SIZE, LOW, scale)
    assert not has_masks(request)
    return request.prompts[0]


@pytest.mark.parametrize(
    "mask", [rle(), png(MASK), png(MASK.astype(np.uint8) * 255), png(MASK.astype(np.uint16) * 900)]
)
def test_masks_of_all_forms_become_the_same_logits_and_box(mask: pb.BinaryMask) -> None:
    prompt = converted(mask)
    logits = np.frombuffer(prompt.mask_input.logits, "<f4").reshape(LOW, LOW)
    assert np.array_equal(logits, logits_of_mask(MASK, LOW))
    assert (prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1) == (140, 30, 180, 60)


def test_what_points_beside_a_mask_is_kept() -> None:
    prompt = converted(rle(), points=[pb.Point(x=150, y=40)])
    assert len(prompt.points) == 1 and not prompt.HasField("box")


def test_a_mask_is_shown_at_the_models_scale() -> None:
    prompt = converted(rle(), Scale(64, 1.5), points=[pb.Point(x=150, y=40)])
    part = prompt.mask_input.part
    assert (part.x1 - part.x0, part.y1 - part.y0) == (64, 64)
    assert part.x0 <= 140 and part.y0 <= 30 and part.x1 >= 180 and part.y1 >= 60
    far = converted(rle(), Scale(64, 1.5), points=[pb.Point(x=2, y=100)]).mask_input.part
    assert (far.x0, far.y0, far.x1, far.y1) == (0, 0, 200, 120)


@pytest.mark.parametrize(
    ("mask", "got"),
    [
        (rle(np.zeros(SIZE, bool)), "an empty mask"),
        (rle(MASK[:60], (60, 200)), "a mask of 60 x 200 pixels"),
        (pb.BinaryMask(coco_rle=pb.CocoRle(size=pb.Size(height=120, width=200))), "do not fill"),
        (rle(size=(10**6, 10**6)), "a mask of 1000000 x 1000000 pixels"),
        (png(MASK[:60]), "a mask of 60 x 200 pixels"),
        (png(np.zeros((*SIZE, 3), np.uint8)), "prompts.0..mask"),
        (pb.BinaryMask(png=b"no file"), "prompts.0..mask"),
        (pb.BinaryMask(), "no mask"),
    ],
)
def test_masks_that_cannot_be_used_are_refused_by_name(mask: pb.BinaryMask, got: str) -> None:
    with pytest.raises(ContractError, match=rf"prompts\[0\]\.mask.*{got}|{got}"):
        converted(mask)


def test_a_mask_beside_logits_or_of_a_model_without_masks_is_refused() -> None:
    with pytest.raises(ContractError, match="beside mask_input"):
        converted(rle(), mask_input=pb.LowResMask(logits=bytes(4 * LOW * LOW)))
    request = pb.SegmentRequest(prompts=[pb.Prompt(mask=rle())])
    with pytest.raises(ContractError, match="this model takes none"):
        convert_masks(request, SIZE, 0, None)
