"""Similarity maps become prompts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cpcsam.automatic.prompt_proposals import components, peaks, prompts_from_similarity
from cpcsam.contract import PATCH_SIZE

maps = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000)).map(
    lambda spec: (np.random.default_rng(spec[2]).integers(0, 6, spec[:2]) / 5).astype(np.float32)
)


@given(maps)
@settings(max_examples=80, deadline=None)
def test_components_equal_scipys(probability: np.ndarray) -> None:
    mask = probability >= 0.5
    labels = components(mask)
    expected, count = ndimage.label(mask)
    assert labels.max(initial=0) == count
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(labels))


@given(maps)
@settings(max_examples=80, deadline=None)
def test_peaks_are_local_maxima_one_in_every_component(probability: np.ndarray) -> None:
    found = peaks(probability, 0.5)
    highest = ndimage.maximum_filter(probability, 3, mode="constant", cval=-1)
    for row, column in found:
        assert probability[row, column] == highest[row, column] >= 0.5
    labels, count = ndimage.label(probability >= 0.5, np.ones((3, 3)))
    assert set(labels[tuple(found.T)].tolist()) == set(range(1, count + 1))


@given(maps, st.booleans())
@settings(max_examples=60, deadline=None)
def test_prompts_lie_in_their_cells(probability: np.ndarray, dense: bool) -> None:
    prompts = prompts_from_similarity(probability[None], 0.5, dense=dense)
    height, width = probability.shape
    clicks = prompts.point_labels[:, 0] == 1
    for (x, y), similarity in zip(
        prompts.point_coords[clicks, 0], prompts.similarity[clicks], strict=True
    ):
        assert -1 <= x <= width * PATCH_SIZE and -1 <= y <= height * PATCH_SIZE
        rows, columns = (
            sorted(
                {
                    int(np.clip((value + 0.5 + step) // PATCH_SIZE, 0, side - 1))
                    for step in (-0.01, 0.01)
                }
            )
            for value, side in ((y, height), (x, width))
        )
        assert similarity in probability[np.ix_(rows, columns)]
    boxes = prompts.point_coords[~clicks]
    assert len(boxes) == components(probability >= 0.5).max(initial=0)
    assert (boxes[:, 1] > boxes[:, 0]).all()


def test_click_moves_towards_the_higher_neighbour() -> None:
    probability = np.zeros((1, 5, 5), np.float32)
    probability[0, 2, 1:4] = 0.2, 0.9, 0.7
    ((click, empty),) = prompts_from_similarity(probability, 0.8, boxes=False).point_coords
    centre = 2.5 * PATCH_SIZE - 0.5
    assert centre < click[0] <= centre + PATCH_SIZE / 2
    assert click[1] == centre
    assert (empty == 0).all()


def test_prompts_of_classes_are_independent() -> None:
    probability = np.zeros((2, 4, 4), np.float32)
    probability[0, 0, 0] = probability[1, 3, 3] = 1
    prompts = prompts_from_similarity(probability, 0.5)
    assert prompts.class_indices.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(prompts.point_coords[3], [[48, 48], [64, 64]])


def test_prompts_below_threshold_are_empty() -> None:
    prompts = prompts_from_similarity(np.zeros((3, 4, 4), np.float32), 0.5)
    assert len(prompts) == 0 and prompts.point_coords.shape == (0, 2, 2)
