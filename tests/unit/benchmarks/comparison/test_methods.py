from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.budget import Budget, train_within
from benchmarks.comparison.methods.adapters import (
    insert_adapters,
    is_adapter_parameter,
    is_in_theta,
)
from benchmarks.comparison.methods.classical import ClassicalMethod
from benchmarks.comparison.methods.detection import DetectionMethod
from benchmarks.comparison.methods.entities import split_touching, typical_radius
from benchmarks.comparison.methods.interface import Fitted, Task
from benchmarks.comparison.methods.registry import METHODS
from benchmarks.comparison.methods.sam import SamMethod, halves_of
from benchmarks.comparison.methods.semantic import SemanticMethod
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.point_calibration import is_moved
from cpcsam.model.sam import CpcSam
from tests.support.paths import ROOT
from tests.support.training_factory import DISCS, discs
from training.bilevel.train_state import PROMPT_EMBEDDING, new_bilevel_state
from training.data.augment import AugmentConfig
from training.data.sample import ENTITY, Sample
from training.evaluation.class_scores import score_segmentation
from training.loop.train_state import Counters

pytestmark = pytest.mark.slow

ONE_STEP = Budget(steps=1)
BASE = ROOT / "weights/vit_t"


@pytest.fixture(scope="module")
def task() -> Task:
    augment = AugmentConfig(colour=0.3, invert=0, grey=0)
    return Task((discs(0), discs(1)), (discs(2),), (ENTITY,), 0, 1.15, augment)


def scores_of(fitted: Fitted) -> dict[str, float]:
    return score_segmentation(fitted.segment, (ENTITY,), [discs(7), discs(8)])


@pytest.mark.parametrize("brightness", [1, -1])
def test_otsu_finds_bright_and_dark_entities(task: Task, brightness: int) -> None:
    def shown(sample: Sample) -> Sample:
        return replace(sample, image=sample.image if brightness > 0 else 255 - sample.image)

    fitted = METHODS["otsu"].fit(replace(task, support=(shown(discs(2)),)), ONE_STEP, 0)
    scores = score_segmentation(fitted.segment, (ENTITY,), [shown(discs(7))])
    assert scores["dice"] > 0.95 and scores["ap50"] == 1


def test_otsu_names_entities_by_their_colour() -> None:
    support, sample = discs(2), discs(7)
    named = []
    for one in (support, sample):
        image = one.image.copy()
        image[one.instances > 2, 0] = 255
        image[one.instances > 2, 2] = 0
        named.append(replace(one, image=image, class_names=("grey", "grey", "red", "red")))
    task = Task(named[:1], named[:1], ("grey", "red"))
    fitted = METHODS["otsu"].fit(task, ONE_STEP, 0)
    scores = score_segmentation(fitted.segment, task.names, named[1:])
    assert scores["classes"]["red"]["found"] == scores["classes"]["grey"]["found"] == 2
    assert scores["ap50"] == 1


def test_a_unet_learns_and_separates_entities(task: Task) -> None:
    method = METHODS["unet"]
    assert isinstance(method, SemanticMethod)
    small = replace(method, image_size=64, images=2, precision="float32")
    fitted = small.fit(task, Budget(steps=16), 0)
    assert fitted.spent.steps == 16 and fitted.spent.seconds > 0
    assert fitted.parameters > 1e7
    scores = scores_of(fitted)
    assert scores["dice"] > 0.85 and scores["ap50"] > 0.9


def test_semantic_networks_differ_by_their_decoders_alone(task: Task) -> None:
    states = []
    for name in ("unet", "deeplabv3"):
        method = METHODS[name]
        assert isinstance(method, SemanticMethod)
        network = method.network(2).eval()
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)
        states.append({k: v.shape for k, v in network.encoder.state_dict().items()})
    assert states[0] == states[1]


@pytest.mark.parametrize("name", ["swin-unet", "vitdet", "hsnet", "ssp"])
def test_networks_from_scratch_train_and_segment_alike_by_seed(task: Task, name: str) -> None:
    method = METHODS[name]
    assert not isinstance(method, SamMethod | ClassicalMethod)
    small = replace(method, image_size=64, precision="float32")
    if isinstance(small, DetectionMethod):
        # So early no detection is sure of its class.
        small = replace(small, width=32, min_score=0.0)
    tiled = replace(task, tile=128)
    fitted, again = (small.fit(tiled, ONE_STEP, 3) for _ in range(2))
    assert fitted.spent.steps == 1 and fitted.spent.seconds > 0 and fitted.parameters > 1e6
    found = fitted.segment(discs(7))
    assert found == again.segment(discs(7)) and found
    assert all(one.class_index == 0 and one.area >= 20 for one in found)


def test_touching_entities_are_separated_and_single_ones_kept_whole() -> None:
    y, x = np.mgrid[:60, :90]
    first, second = (np.hypot(x - column, y - 30) < 16 for column in (30, 55))
    labels = split_touching(first | second, radius=16)
    assert labels.max() == 2
    assert labels[30, 25] != labels[30, 60]
    assert split_touching(first, radius=16).max() == 1
    assert split_touching(np.zeros((9, 9), bool), radius=3).max() == 0
    radii = [radius for *_, radius in DISCS]
    assert typical_radius([discs(0)]) == pytest.approx(np.median(radii), abs=0.6)


def learned_by(method: SamMethod, model: CpcSam) -> tuple[set[str], set[str]]:
    if method.adapters:
        insert_adapters(model)
    state = new_bilevel_state(
        model, method.model, method.optimizer, seed=0, bf16=False, is_in_theta=is_in_theta
    )
    return set(state.theta.parameters), set(state.phi.parameters)


def test_each_method_learns_what_it_is_named_for() -> None:
    learned = {
        name: learned_by(method, load_base(BASE))
        for name, method in METHODS.items()
        if isinstance(method, SamMethod) and method.learns
    }
    assert "sam" not in learned
    assert learned["sam+capl"][0] == set()
    assert learned["samed"][1] == learned["med-sa"][1] == set()
    assert any(".lora_" in name for name in learned["samed"][0])
    assert any(map(is_adapter_parameter, learned["med-sa"][0]))
    assert not any(".lora_" in name for name in learned["med-sa"][0])
    assert learned["blo-sam"] == (learned["samed"][0], {PROMPT_EMBEDDING})
    for name in ("sam", "samed", "med-sa", "blo-sam"):
        theta, phi = learned.get(name, (set(), set()))
        with_theta, with_phi = learned[f"{name}+capl"]
        added = with_phi - phi
        assert with_theta == theta
        assert added == with_phi - {PROMPT_EMBEDDING}
        assert all(parameter.startswith("capl.") for parameter in added) and added


def test_new_adapters_change_nothing_and_all_of_them_learn() -> None:
    model, adapted = load_base(BASE), load_base(BASE)
    insert_adapters(adapted)
    image = torch.from_numpy(discs(0).image[:128, :128].transpose(2, 0, 1).copy())[None]
    shown = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    shown[..., :128, :128] = image
    coords, labels = torch.full((1, 1, 1, 2), 60.0), torch.ones(1, 1, 1, dtype=torch.int32)
    outputs = []
    for one in (model, adapted):
        embeddings = one.encode_image(shown, torch.tensor([[128, 128]], dtype=torch.int32))
        outputs.append(
            one.decode_masks(embeddings, *one.encode_prompts(embeddings, coords, labels))
        )
    assert torch.equal(outputs[0][0], outputs[1][0])
    outputs[1][0].square().mean().backward()
    last = {
        name: parameter.grad
        for name, parameter in adapted.named_parameters()
        if name.endswith("adapter.2.weight")
    }
    blocks, layers = len(model.sam.image_encoder.blocks), 2
    assert len(last) == 2 * blocks + 3 * layers
    assert all(gradient is not None and gradient.any() for gradient in last.values())


def test_plugging_capl_in_leaves_what_theta_sees(task: Task) -> None:
    plain, plugged = METHODS["samed"], METHODS["samed+capl"]
    assert isinstance(plain, SamMethod) and isinstance(plugged, SamMethod)
    first, second = (halves_of(task, 256, method, seed=3)[5] for method in (plain, plugged))
    assert torch.equal(first.training.point_coords, second.training.point_coords)
    assert torch.equal(first.training.image, second.training.image)
    assert first.held_out.point_coords.shape[1] * 5 == second.held_out.point_coords.shape[1]
    assert first.training.practice_coords is None
    coords, labels, accurate = second.training.practice()
    off = (coords - accurate).norm(dim=-1)[is_moved(labels)]
    assert off.max() > 5, "points learn from careless annotators"


@pytest.mark.parametrize("name", ["sam", "med-sa+capl", "blo-sam+capl", "cpc-sam"])
def test_sam_methods_train_and_find_entities(task: Task, name: str) -> None:
    method = METHODS[name]
    assert isinstance(method, SamMethod)
    small = replace(method.with_base(BASE, None), images=1, entities=2, precision="float32")
    fitted = small.fit(task, ONE_STEP, 0)
    assert fitted.spent.steps == (0 if name == "sam" else 1)
    assert (fitted.parameters == 0) == (name == "sam")
    found = fitted.segment(discs(7))
    assert found and all(one.class_index == 0 for one in found)


def test_an_annotator_prompts_every_entity(task: Task) -> None:
    method = METHODS["sam"]
    assert isinstance(method, SamMethod)
    annotated = replace(method.with_base(BASE, None), prompts="annotator")
    for tile in (0, 100):
        fitted = annotated.fit(replace(task, tile=tile), ONE_STEP, 0)
        scores = scores_of(fitted)
        assert scores["classes"][ENTITY]["found"] == 8  # type: ignore[index]
        assert scores["dice"] > 0.8


def test_train_within_calls_the_probe_uncounted() -> None:
    seen: list[float] = []
    probed: list[float] = []

    def busy(progress: float) -> None:
        started = time.perf_counter()
        seen.append(progress)
        time.sleep(0.01)
        probed.append(time.perf_counter() - started)

    counters = Counters()

    def train_step(batch: int, progress: float) -> dict[str, float]:
        counters.step += 1
        return {}

    started = time.perf_counter()
    spent = train_within(
        Budget(steps=4), counters, iter(range(9)), train_step, torch.device("cpu"), busy
    )
    took = time.perf_counter() - started
    assert seen == [0, 0.25, 0.5, 0.75, 1]
    assert spent.steps == 4
    assert spent.seconds <= took - sum(probed)


def test_budget_progress_is_the_larger_share_of_time_and_steps() -> None:
    assert Budget(minutes=1, steps=10).progress(5, 45.0) == 0.75
    assert Budget(steps=10).progress(10, 1e9) == 1
    for limits in ({}, {"minutes": 0.0}, {"steps": 0}):
        with pytest.raises(ConfigError, match="budget"):
            Budget(**limits)  # type: ignore[arg-type]
