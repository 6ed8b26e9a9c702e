"""RITM's clicks, loss and training against the published rules, written out plainly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.budget import Budget
from benchmarks.comparison.methods.clicks import (
    MAX_FURTHER_CLICKS,
    Click,
    click_through,
    error_clicked,
    first_clicks,
    further_click,
    next_click,
)
from benchmarks.comparison.methods.interface import Task
from benchmarks.comparison.methods.registry import METHODS
from benchmarks.comparison.methods.ritm import RitmBatches, RitmMethod, RitmPredictor, iterated
from benchmarks.comparison.methods.ritm_network import (
    RitmNetwork,
    disks_of,
    normalised_focal_loss,
)
from tests.support.training_factory import discs
from training.data.augment import AugmentConfig
from training.data.sample import ENTITY

Grid = Sequence[str]
BoolMask = NDArray[np.bool_]


def masks_of(grid: Grid) -> tuple[BoolMask, BoolMask]:
    """Truth and prediction: `o` in both, `-` missed, `+` wrongly covered, `.` in neither."""
    cells = np.array([list(row) for row in grid])
    return np.isin(cells, list("o-")), np.isin(cells, list("o+"))


def plain_depth(wrong: BoolMask) -> dict[tuple[int, int], float]:
    """Distance of every pixel to the nearest right one, of the image or the ring around it."""
    height, width = wrong.shape
    right = [
        (y, x)
        for y in range(-1, height + 1)
        for x in range(-1, width + 1)
        if not (0 <= y < height and 0 <= x < width and wrong[y, x])
    ]
    return {
        (y, x): min(math.hypot(y - b, x - a) for b, a in right)
        for y in range(height)
        for x in range(width)
    }


def plain_next_click(truth: BoolMask, predicted: BoolMask, clicked: Sequence[Click]) -> Click:
    """The rule of RITM's `Clicker._get_next_click`, pixel by pixel."""
    depths = [plain_depth(truth & ~predicted), plain_depth(~truth & predicted)]
    for depth in depths:
        for click in clicked:
            depth[int(click.y), int(click.x)] = 0
    deepest = [max(depth.values()) for depth in depths]
    positive = deepest[0] > deepest[1]
    chosen, greatest = (depths[0], deepest[0]) if positive else (depths[1], deepest[1])
    y, x = next(place for place in sorted(chosen) if chosen[place] == greatest)
    return Click(x, y, positive)


FIXED = {
    "entity without a mask": (
        [".......", "..---..", ".-----.", "..---..", "......."],
        (),
        (3, 2, True),
    ),
    "excess larger than what is missing": (
        ["--oo...", "--oo+++", "...o+++", "....+++"],
        (),
        (5, 2, False),
    ),
    "missing larger than excess": (["---.++.", "---.++.", "---o..."], (), (1, 1, True)),
    "as deep missing as excess": (["---.+++", "---.+++", "---.+++"], (), (5, 1, False)),
    "several deepest pixels": (
        [".........", ".---.---.", ".---.---.", ".---.---."],
        (),
        (2, 2, True),
    ),
    "even side": (["......", ".----.", ".----.", ".----.", ".----.", "......"], (), (2, 2, True)),
    "corner of the image": (
        ["-----oo", "-----oo", "-----..", "-----..", "-----.."],
        (),
        (2, 2, True),
    ),
    "whole image": (["-----", "-----", "-----"], (), (1, 1, True)),
    "stripe along the border": (["++++++++", "........", "........"], (), (0, 0, False)),
    "deepest pixel clicked before": (["-----", "-----", "-----"], ((1, 1),), (2, 1, True)),
    "no error that was not clicked": (["oo+", "oo.", "..."], ((2, 0),), (0, 0, False)),
}


@pytest.mark.parametrize("name", FIXED)
def test_next_click_equals_the_published_rule(name: str) -> None:
    grid, clicked, expected = FIXED[name]
    truth, predicted = masks_of(grid)
    previous = [Click(x, y, True) for x, y in clicked]
    click = next_click(truth, predicted, previous)
    assert click == plain_next_click(truth, predicted, previous) == Click(*expected)


def test_clicks_on_random_masks_equal_the_published_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        truth, predicted = rng.random((2, 6, 8)) < rng.uniform(0.2, 0.9, (2, 1, 1))
        previous: list[Click] = []
        for _ in range(3):
            click = next_click(truth, predicted, previous)
            assert click == plain_next_click(truth, predicted, previous)
            previous.append(click)


def test_click_through_stops_at_a_good_mask_or_the_last_click() -> None:
    truth, _ = masks_of(["--..", "--..", "...."])

    def growing(clicks: Sequence[Click]) -> BoolMask:
        mask = np.zeros_like(truth)
        for click in clicks:
            mask[int(click.y), int(click.x)] = click.positive
        return mask

    assert click_through(growing, truth, 9).ious == (0.25, 0.5, 0.75, 1)
    stopped = click_through(growing, truth, 9, stop_at=0.5)
    assert stopped.ious == (0.25, 0.5) and stopped.mask.sum() == 2
    assert len(click_through(growing, truth, 3).clicks) == 3


def test_error_clicked_is_the_connected_error() -> None:
    truth, predicted = masks_of(["---.+", "---o+", "....+", "-...+"])
    missed = error_clicked(truth, predicted, Click(1, 1, True))
    assert missed is not None and missed.sum() == 6 and not missed[3, 0]
    excess = error_clicked(truth, predicted, Click(4, 0, False))
    assert excess is not None and excess.sum() == 4
    assert error_clicked(truth, predicted, Click(3, 1, True)) is None


def test_further_click_lies_in_the_inner_half_of_the_largest_error() -> None:
    truth, predicted = masks_of([*["." * 12] * 2, *[".-----..++.."] * 5, "." * 12])
    depth = plain_depth(truth & ~predicted)
    probability = np.where(predicted, 0.9, 0.1).astype(np.float32)
    rng = np.random.default_rng(0)
    drawn = {further_click(truth, probability, 0.49, rng) for _ in range(80)}
    inner = {place for place, value in depth.items() if value > max(depth.values()) / 2}
    assert drawn == {Click(x, y, True) for y, x in inner}
    assert further_click(truth, truth.astype(np.float32), 0.49, rng) is None


def test_first_clicks_have_the_published_kinds_and_numbers() -> None:
    truth, others = np.zeros((2, 60, 60), bool)
    truth[20:40, 20:40] = others[50:, 50:] = True
    rng = np.random.default_rng(0)
    samples = [first_clicks(truth, others, rng) for _ in range(150)]
    positive = [[c for c in clicks if c.positive] for clicks in samples]
    negative = [[c for c in clicks if not c.positive] for clicks in samples]
    # 0.8 / (1 - 0.8) = 4, less what lies beyond the largest number.
    assert np.mean([len(clicks) for clicks in positive]) == pytest.approx(4.9, abs=1)
    assert np.mean([len(clicks) for clicks in negative]) == pytest.approx(3.9, abs=1)
    assert min(map(len, positive)) == 1 and min(map(len, negative)) == 0
    assert all(truth[int(c.y), int(c.x)] for clicks in positive for c in clicks)
    places = [(int(c.y), int(c.x)) for clicks in negative for c in clicks]
    assert not any(truth[place] for place in places)
    near = np.mean([18 <= y < 42 and 18 <= x < 42 for y, x in places])
    assert np.mean([others[place] for place in places]) == pytest.approx(0.4, abs=0.08)
    assert near == pytest.approx(0.5, abs=0.08)
    deep = np.mean([all(23 <= c.x < 37 and 23 <= c.y < 37 for c in clicks) for clicks in positive])
    assert 0.82 < deep < 0.99


def test_normalised_focal_loss_equals_its_published_formula() -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(0, 2, (2, 1, 4, 5)), rng.random((2, 1, 4, 5)) < 0.4
    losses = []
    for one, target in zip(logits, truth, strict=True):
        probability = 1 / (1 + np.exp(-one))
        right = 1 - np.abs(target - probability)
        focal = (1 - right) ** 2
        losses.append(np.mean(-0.5 * focal * (focal.size / focal.sum()) * np.log(right)))
    loss = normalised_focal_loss(torch.from_numpy(logits), torch.from_numpy(truth))
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_clicks_are_disks_of_their_kind() -> None:
    clicks = [[Click(0, 0, True), Click(20.5, 9, False)], []]
    disks = disks_of(clicks, 32, torch.device("cpu"))
    assert disks.shape == (2, 2, 32, 32) and not disks[1].any()
    for kind, (x, y) in enumerate(((0, 0), (20.5, 9))):
        rows, columns = np.mgrid[:32, :32]
        expected = np.hypot(rows - y, columns - x) <= 5
        assert np.array_equal(disks[0, kind].numpy() > 0, expected)


@pytest.fixture(scope="module")
def task() -> Task:
    augment = AugmentConfig(colour=0.3, invert=0, grey=0)
    return Task((discs(0), discs(1)), (discs(2),), (ENTITY,), 0, 1.15, augment)


def test_iterative_training_draws_its_number_of_further_clicks(task: Task) -> None:
    network = RitmNetwork("resnet18", None)
    batch = RitmBatches(task, 32, 2, seed=0)[3]
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    numbers = []
    rng = np.random.default_rng(0)
    for _ in range(16):
        calls.clear()
        previous, disks = iterated(network, batch, rng)
        numbers.append(len(calls))
        assert bool(previous.any()) == bool(calls) and not previous.requires_grad
        assert disks.sum() >= disks_of(batch.clicks, 32, torch.device("cpu")).sum()
    assert set(numbers) == set(range(MAX_FURTHER_CLICKS + 1)) == {0, 1, 2, 3}


def test_ritm_learns_in_a_comparison(task: Task) -> None:
    method = METHODS["ritm"]
    assert isinstance(method, RitmMethod)
    small = replace(method, image_size=64, images=2, precision="float32")
    losses = []
    for steps in (1, 8):
        predictor, spent, parameters = small.train(task, Budget(steps=steps), 0)
        assert (spent.steps, parameters > 1e7) == (steps, True)
        batch = RitmBatches(task, 64, 4, seed=5)[0]
        disks = disks_of(batch.clicks, 64, torch.device("cpu"))
        with torch.no_grad():
            logits = predictor.network.train()(batch.image, torch.zeros(4, 1, 64, 64), disks)
        losses.append(normalised_focal_loss(logits, batch.masks).item())
    assert losses[1] < 0.9 * losses[0]
    fitted = small.fit(replace(task, tile=100), Budget(steps=1), 0)
    assert all(one.class_index == 0 and 0 < one.score <= 1 for one in fitted.segment(discs(7)))


def test_ritm_predictor_takes_clicks_and_its_last_mask() -> None:
    torch.manual_seed(0)
    network = RitmNetwork("resnet18", None).eval()
    # An untrained network hardly heeds its clicks and mask.
    network.scale.data.fill_(10)
    predictor = RitmPredictor(network, 64, torch.device("cpu"))
    predictor.set_image(discs(7).image[:120])
    first, second = Click(40, 44, True), Click(100, 40, False)
    everywhere = np.ones((120, 160), bool)
    answers = []
    for clicks in ([first], [first, second], [first], [second]):
        assert predictor.predict(clicks).shape == (120, 160)
        answers.append(predictor.confidence(everywhere))
    assert answers[0] == answers[2] and len(set(answers)) == 3
    # Without the last mask, the same two clicks are answered otherwise.
    predictor.predict([second])
    predictor.predict([first, second])
    assert predictor.confidence(everywhere) != answers[1]
