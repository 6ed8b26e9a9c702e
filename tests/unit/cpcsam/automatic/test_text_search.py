"""Selection of masks by examples, by texts and by both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.text_search import ClassSelection
from cpcsam.automatic.vocabulary import Vocabulary, empty_vocabulary
from cpcsam.clip.text_classes import TextClass, TextClasses
from cpcsam.geometry import Box

LEAST = 0.4


def vocabulary(*by_text: str) -> Vocabulary:
    """`plain` and `both` by examples, and classes by text; two embeddings of negatives each."""
    texts = TextClasses.empty("t" * 64, 1.0, 2)
    for name in by_text:
        texts = texts.add(TextClass(name, (name,)), np.ones((3, 2), np.float32))
    return replace(empty_vocabulary("m" * 64), names=("plain", "both"), texts=texts)


def mask(score: float, class_index: int = 0) -> InstanceMask:
    frame = Box(0, 0, 4, 4)
    shown = np.ones((4, 4), bool)
    return InstanceMask.from_mask(shown, frame, score=score, tile=frame, class_index=class_index)


def outcome(masks: list[InstanceMask]) -> list[tuple[int, float]]:
    return [(one.class_index, pytest.approx(one.score)) for one in masks]


def test_selection_tells_how_each_class_is_found() -> None:
    known = vocabulary("a", "both", "b")
    selection = ClassSelection(known, ["b", "both", "plain"], LEAST)
    assert selection.by_examples == ["both", "plain"] and selection.by_text == ["b"]
    assert selection.texts is known.texts
    assert ClassSelection(known, ["plain"], LEAST).texts is None
    assert ClassSelection(replace(known, texts=None), ["plain", "both"], LEAST).texts is None


def test_selection_compares_only_masks_of_classes_with_texts() -> None:
    selection = ClassSelection(vocabulary("both", "a"), ["plain", "both", "a"], LEAST)
    found, everything = [mask(0.9, 0), mask(0.8, 1), mask(0.7, 0), mask(0.6, 1)], [mask(0.5)]
    assert selection.to_compare(found, everything) == [found[1], found[3], everything[0]]
    # Columns are those of the texts: both, a.
    likely = np.array([[0.5, 0], [0.3, 0.9], [0, 0.6]], np.float32)
    selected = selection.select(found, everything, likely)
    assert outcome(selected) == [(0, 0.9), (0, 0.7), (1, 0.4), (2, 0.3)]


def test_selection_gives_a_mask_to_the_likeliest_requested_class_by_text() -> None:
    selection = ClassSelection(vocabulary("a", "both", "b", "c"), ["c", "a"], LEAST)
    likely = np.array([[0.5, 0.9, 0.9, 0.4], [0.1, 0.9, 0.9, 0.39], [0, 0, 0, 0.4]], np.float32)
    selected = selection.select([], [mask(0.5), mask(1.0), mask(1.0)], likely)
    # plain, both, a, b, c
    assert outcome(selected) == [(4, 0.4), (2, 0.25)]


def test_selection_without_texts_keeps_what_examples_find() -> None:
    selection = ClassSelection(replace(vocabulary(), texts=None), ["both", "plain"], LEAST)
    found = [mask(0.1, 1), mask(0.2, 0)]
    assert selection.to_compare(found, []) == []
    assert selection.select(found, [], np.zeros((0, 0), np.float32)) == found[::-1]
