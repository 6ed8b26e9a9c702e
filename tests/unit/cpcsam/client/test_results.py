"""What the client's callers hold in their hands."""

from __future__ import annotations

import io
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cpcsam.client import encode_image
from cpcsam.client.coco import coco_annotations
from cpcsam.client.masks import Mask, fill_rings
from cpcsam.client.prompts import Prompt
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError
from cpcsam.images.reading import decode_image


def example_result() -> SegmentResult:
    array = np.zeros((6, 8), np.uint8)
    array[1:4, 2:7] = 1
    counts = coco_mask.encode(np.asfortranarray(array))["counts"].decode()
    mask = Mask((6, 8), counts, 0.75, (2.0, 1.0, 7.0, 4.0), 15)
    prompts = (Prompt.click(3, 2), Prompt(((4, 3), (0, 0)), (1, 0), (2, 1, 7, 4)))
    return SegmentResult("id", (6, 8), prompts, ((mask,), (mask, mask)), "segment", "1", {})


def test_prompt_labels_default_to_foreground() -> None:
    assert Prompt(((1, 2), (3, 4))).point_labels == (1, 1)
    assert Prompt.click(5, 6) == Prompt(((5, 6),), (1,))
    assert Prompt(box=(0, 0, 1, 1)).point_labels == ()


def test_prompt_holds_numbers_that_json_does() -> None:
    corner, box = np.argwhere(np.ones((2, 2)))[3], np.arange(4, dtype=np.float32)
    prompt = Prompt((corner,), np.ones(1, np.int64), box)  # type: ignore[arg-type]
    assert prompt == Prompt(((1, 1),), (1,), (0, 1, 2, 3))
    assert json.dumps([prompt.point_coords, prompt.point_labels, prompt.box])
    assert Prompt(((1, 2),), None).point_labels == (1,)  # type: ignore[arg-type]
    for wrong in (
        {"point_coords": (("1", 2),)},
        {"point_coords": ((1,),)},
        {"point_coords": ((10, None, 20),)},
        {"box": (0, 1, 2)},
        {"box": (0, "x", 1, 2, 3)},
    ):
        with pytest.raises(ContractError, match=r"(point_coords|box): got .* [24] numbers"):
            Prompt(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [(1,), (1, 2), (1, -1), (1, 1, 1)])
def test_prompt_with_invalid_labels_is_rejected(labels: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match="point_labels: got .+, expected .+; .+"):
        Prompt(((1, 2), (3, 4)), labels)


def test_mask_array_is_decoded_once() -> None:
    mask = example_result().masks[0][0]
    assert mask.array.dtype == np.bool_ and mask.array.shape == (6, 8)
    assert mask.array.sum() == 15 and mask.array[1:4, 2:7].all()
    assert mask.array is mask.array


def test_coco_annotations_are_json_that_pycocotools_reads() -> None:
    result = example_result()
    annotations = json.loads(json.dumps(coco_annotations(result)))
    assert [entry["id"] for entry in annotations] == [1, 2, 3]
    assert [entry["prompt_index"] for entry in annotations] == [0, 1, 1]
    first, second = annotations[:2]
    assert first["bbox"] == [2, 1, 5, 3] and first["area"] == 15 and first["score"] == 0.75
    assert first["prompt"] == {"point_coords": [[3, 2]], "point_labels": [1], "box": None}
    assert second["prompt"]["box"] == [2, 1, 7, 4]
    assert (coco_mask.decode(first["segmentation"]) == result.masks[0][0].array).all()


def test_encode_image_is_lossless() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(array)
    for image in (array, picture):
        assert (decode_image(encode_image(image)) == array).all()
    file = io.BytesIO()
    picture.save(file, "BMP")
    assert encode_image(file.getvalue()) == file.getvalue()
    assert decode_image(encode_image(picture.convert("CMYK"))).shape == (5, 7, 3)


def test_encode_image_of_a_picture_whose_file_fails_later_tells_it() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(file, "PNG")
    picture = Image.open(file)
    file.read = lambda size=-1: zlib.decompress(b"damaged")  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="image: got a Pillow image of mode RGB"):
        encode_image(picture)


def test_encode_image_of_a_missing_file_names_it() -> None:
    with pytest.raises(ContractError, match="nowhere.png: got No such file"):
        encode_image("nowhere.png")


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)),
    st.booleans(),
)
def test_fill_rings_of_pixel_squares_fills_those_pixels(
    mask: NDArray[np.bool_], turned: bool
) -> None:
    squares = [
        ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)) for y, x in np.argwhere(mask).tolist()
    ]
    rings = [square[::-1] if turned else square for square in squares]
    assert (fill_rings(rings, mask.shape) == mask).all()


def test_fill_rings_applies_the_even_odd_rule() -> None:
    def square(low: int, high: int) -> tuple[tuple[float, float], ...]:
        return ((low, low), (high, low), (high, high), (low, high))

    filled = fill_rings([square(0, 9), square(2, 7), square(4, 5)], (9, 10))
    expected = np.zeros((9, 10), bool)
    expected[:9, :9] = True
    expected[2:7, 2:7] = False
    expected[4, 4] = True
    assert (filled == expected).all()
    assert not fill_rings([], (3, 4)).any()
