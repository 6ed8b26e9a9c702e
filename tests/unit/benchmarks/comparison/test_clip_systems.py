"""The systems on CLIP with a small random one: numerics, whole runs, and runs without weights."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.tokenizer import tokenize
from PIL import Image
from torch.nn import functional as F

from benchmarks.budget import Budget
from benchmarks.common.confounded_scenes import scene
from benchmarks.comparison.__main__ import main
from benchmarks.comparison.methods.clip.lseg import DenseTower, LSegNetwork
from benchmarks.comparison.methods.clip.proposals import RegionBatches, RegionMethod, name_masks
from benchmarks.comparison.methods.clip.scorers import OvSeg
from benchmarks.comparison.methods.clip.towers import (
    ClipConfig,
    SamFeatures,
    tower_pixels,
    words_of,
)
from benchmarks.comparison.methods.clip.zs3net import Zs3Method
from benchmarks.comparison.methods.interface import Task
from benchmarks.comparison.methods.registry import METHODS, PAPER_SYSTEMS, ClipMethod
from benchmarks.comparison.recipe import Recipe, states_of
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.clip.preprocess import Preprocess
from cpcsam.clip.towers import ClipTowers
from cpcsam.config import load_config
from cpcsam.errors import ConfigError
from cpcsam.geometry import Box
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.torch_backend import TorchBackend
from tests.support.paths import ROOT
from tests.support.tiny_clip import write_tiny_clip
from tests.support.training_factory import discs
from training.data.augment import AugmentConfig
from training.data.sample import Sample

SYSTEMS = [name for name, method in METHODS.items() if isinstance(method, ClipMethod)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClipConfig:
    return ClipConfig(*write_tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def towers(config: ClipConfig) -> ClipTowers:
    return config.load()


def named(seed: int, name: str) -> Sample:
    return replace(discs(seed), class_names=(name,) * 4)


@pytest.fixture(scope="module")
def task() -> Task:
    train = named(0, "bright_disc"), named(1, "bright_disc")
    names = "bright_disc", "ring"
    return Task(train, (named(2, "ring"),), names, 0, 1.15, AugmentConfig(invert=0, grey=0))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def masks_of(sample: Sample) -> np.ndarray:
    return np.stack([sample.instances == label for label in (1, 2, 3)])


def test_words_equal_open_clips_text_embeddings(
    task: Task, towers: ClipTowers, config: ClipConfig
) -> None:
    seen, words = words_of(task, towers, config)
    assert (seen.names, words.names) == (("bright_disc",), ("bright_disc", "ring"))
    assert words.seen.tolist() == [True, False]
    for name, text in zip(("bright disc", "ring", "background"), words.texts, strict=True):
        tokens = tokenize([template.format(name) for template in config.templates])
        with torch.no_grad():
            each = towers.model.encode_text(tokens, normalize=True)
        assert torch.allclose(text, F.normalize(each.mean(0), dim=0), atol=1e-5)
    assert torch.allclose(seen.texts[0], words.texts[0], atol=1e-5)  # of another batch


def test_ovseg_before_training_is_clip_of_masked_crops(
    task: Task, towers: ClipTowers, config: ClipConfig
) -> None:
    sample, side = discs(7), towers.preprocess.image_size
    _, words = words_of(task, towers, config)
    sam = SamFeatures(TorchBackend(load_base(ROOT / "weights/vit_t")))
    scorer = OvSeg(towers, sam, words)
    mean, std = (np.array(v) for v in (towers.preprocess.mean, towers.preprocess.std))
    logits = []
    for mask in masks_of(sample):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        crop = Image.fromarray(sample.image[box]).resize((side, side), Image.Resampling.BICUBIC)
        shown = Image.fromarray(mask[box]).resize((side, side), Image.Resampling.NEAREST)
        pixels = (np.asarray(crop) / 255 - mean) / std * np.asarray(shown)[..., None]
        batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
        with torch.no_grad():
            embedded = towers.model.encode_image(batch, normalize=True)
        logits.append(towers.logit_scale * embedded @ words.texts.T)
    found = scorer.scores(sample.image, masks_of(sample), words)
    assert torch.allclose(found, torch.cat(logits).softmax(1), atol=1e-5)
    # Only patches without a pixel of the mask are prompted: a square leaves none of its box out.
    shapes = np.zeros((2, *sample.size), bool)
    shapes[:, 40:80, 40:80] = True
    shapes[1, 40:60, 40:60] = False
    before = scorer.scores(sample.image, shapes, words)
    torch.manual_seed(0)
    torch.nn.init.normal_(scorer.prompts)
    after = scorer.scores(sample.image, shapes, words)
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1], atol=1e-3)


def test_masks_beyond_their_tile_are_named(
    task: Task, towers: ClipTowers, config: ClipConfig
) -> None:
    sample, (_, words) = discs(7), words_of(task, towers, config)
    scorer = OvSeg(towers, SamFeatures(TorchBackend(load_base(ROOT / "weights/vit_t"))), words)
    whole = Box(0, 0, *sample.size)
    masks = [
        InstanceMask.from_mask(masks_of(sample)[0], whole, score=1.0, tile=tile)
        for tile in (whole, Box(0, 0, 1, 1))
    ]
    assert not masks[1].in_region(masks[1].tile).any()
    # As likely as not background, so what is kept tells little: none may have another number.
    named = name_masks(masks, sample, scorer, replace(words, texts=words.texts[[0, 1, 1]]))
    assert len(named) == 2 and all(0 < mask.score <= 1 for mask in named)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(20, 24), (70, 45)])
def test_tower_pixels_equal_pillows_up_to_rounding(
    interpolation: str, size: tuple[int, int]
) -> None:
    preprocess = Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation, "squash")
    image = np.random.default_rng(0).integers(90, 166, (*size, 3), np.uint8)  # away from both ends
    pixels = tower_pixels(torch.from_numpy(image).permute(2, 0, 1)[None], preprocess)
    levels = (pixels.numpy() - preprocess([image])) * 255 * np.array(preprocess.std)[:, None, None]
    assert np.abs(levels).max() <= 1.5


def test_dense_tower_equals_the_librarys_tokens(towers: ClipTowers) -> None:
    pixels, visual = noise(2, 3, 32, 32), towers.model.visual
    visual.output_tokens = True
    with torch.no_grad():
        _, tokens = visual(pixels)
        expected = (tokens @ visual.proj).transpose(1, 2).unflatten(2, (4, 4))
        _, dense = DenseTower(towers)(pixels)
    visual.output_tokens = False
    assert torch.allclose(dense, expected, atol=1e-5)


def test_lseg_logits_equal_a_loop_over_pixels(towers: ClipTowers) -> None:
    torch.manual_seed(0)
    network = LSegNetwork(towers, blocks=0).eval()
    pixels, texts = noise(1, 3, 32, 32), F.normalize(noise(3, 16), dim=1)
    with torch.no_grad():
        embedded = network.embed(pixels)[0]
        found = network(pixels, texts)
    assert embedded.shape == (16, 16, 16)
    logits = torch.zeros(1, 3, 16, 16)
    for row, column, word in itertools.product(range(16), range(16), range(3)):
        pixel = embedded[:, row, column]
        logits[0, word, row, column] = towers.logit_scale * (pixel @ texts[word]) / pixel.norm()
    assert torch.allclose(found, F.interpolate(logits, (32, 32), mode="bilinear"), atol=1e-4)


def test_regions_of_training_are_entities_and_places_without_any(task: Task) -> None:
    batches = RegionBatches(task, ("bright_disc",), 96, images=2, entities=3, seed=5)
    batch, again, other = batches[4], batches[4], batches[5]
    assert torch.equal(batch.image, again.image) and torch.equal(batch.masks, again.masks)
    assert not torch.equal(batch.image, other.image)
    assert batch.masks.any((1, 2)).all() and batch.owner.tolist() == sorted(batch.owner.tolist())
    assert set(batch.labels.tolist()) == {0, 1}
    for index in range(2):
        entities = batch.masks[(batch.owner == index) & (batch.labels == 0)]
        elsewhere = batch.masks[(batch.owner == index) & (batch.labels == 1)]
        assert len(entities) <= 3 and not (entities.any(0) & elsewhere.any(0)).any()


def prepared(name: str, config: ClipConfig) -> ClipMethod:
    method = METHODS[name]
    assert isinstance(method, ClipMethod)
    method = replace(method, clip=config)
    if isinstance(method, RegionMethod):
        return replace(method, proposals=replace(method.proposals, points_per_side=5))
    if isinstance(method, Zs3Method):
        return replace(method, network=replace(method.network, image_size=64, images=2))
    return method


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_learns_and_finds_the_same_again(
    name: str, task: Task, config: ClipConfig
) -> None:
    runs = []
    for _ in range(2):
        fitted = prepared(name, config).fit(task, Budget(steps=3), seed=1)
        assert fitted.spent.steps == 3 and fitted.parameters > 0
        runs.append([(one.class_index, one.score, one.counts) for one in fitted.segment(discs(7))])
    assert runs[0] == runs[1]
    assert all(one[0] in (0, 1) for one in runs[0])
    scores = [score for _, score, _ in runs[0]]
    assert all(0 < score <= 1 for score in scores)


def test_weights_of_another_architecture_are_refused(
    config: ClipConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(ROOT / "benchmarks/recipes/comparison.yaml"), "methods=[otsu, ovseg]"]
    other = tmp_path / "other-clip.json"
    other.write_text(Path(config.name).read_text().replace('"width": 32', '"width": 64'))
    given = ["seeds=1", f"out={tmp_path}", f"clip.name={other}", f"clip.weights={config.weights}"]
    assert main([*arguments, *given]) == 2
    message = capsys.readouterr().err
    assert f"{config.weights}: got a file that is refused" in message
    assert "expected weights of other-clip" in message
    assert not (tmp_path / "comparison").exists(), "nothing is run before the weights are read"


def test_a_tower_without_patches_in_the_texts_space_is_refused(towers: ClipTowers) -> None:
    plain = ClipTowers(towers.name, towers.model, towers.config, "")
    plain.model = torch.nn.Module()
    plain.model.visual = torch.nn.Identity()
    with pytest.raises(ConfigError, match="expected a ViT of open_clip"):
        DenseTower(plain)


def test_comparison_runs_systems_with_weights_and_names_those_without(
    config: ClipConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("benchmarks.calibration.splits.TEST_SCENES", 4)
    drawn = cache(scene)  # both runs would draw the same scenes
    monkeypatch.setattr("benchmarks.calibration.splits.scene", drawn)
    monkeypatch.setattr("benchmarks.comparison.data.scene", drawn)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "name: tiny\ntitle: Tiny\nmethods: [otsu, lseg]\nseeds: 1\nminutes: null\nsteps: 1\n"
        "settings: [{name: scenes, dataset: confounded, shots: 2, test_images: 1}]\n"
        f"jobs: 1\nout: {tmp_path}\ncited: paper.csv\n"
    )
    (tmp_path / "paper.csv").write_text("method,scenes\nLSeg,12.3\n")
    assert main([str(recipe)]) == 0
    captured = capsys.readouterr()
    command = "clip.name=ViT-B-16 clip.weights=PATH"
    assert "LSeg is left out: it needs weights" in captured.err and command in captured.err
    row = next(line for line in captured.out.splitlines() if line.startswith("| LSeg | –"))
    assert "needs weights: `python -m benchmarks.comparison benchmarks/recipes/tiny.yaml" in row
    assert not (tmp_path / "tiny/scenes/lseg-0.json").exists()
    given = [f"clip.name={config.name}", f"clip.weights={config.weights}"]
    assert main([str(recipe), *given]) == 0
    captured = capsys.readouterr()
    assert "scenes, lseg, seed 0: Dice" in captured.err
    assert "needs weights" not in captured.out and "| LSeg | run |" in captured.out
    assert main([str(recipe), "methods=[lseg]"]) == 2
    assert "clip.weights: got none" in capsys.readouterr().err


@pytest.mark.parametrize("table", [1, 2, 3, 5])
def test_every_system_of_the_paper_is_run_or_says_why_not(table: int) -> None:
    recipe = load_config(Recipe, ROOT / f"benchmarks/recipes/table{table}.yaml")
    states = states_of(recipe)
    assert set(states) == set(PAPER_SYSTEMS) and len(states) == 17
    waiting = {label for label, state in states.items() if state.startswith("needs weights: `")}
    labels = {METHODS[name].label for name in SYSTEMS}
    assert waiting == (labels if table != 5 else {"OVSAM"})
    for state in states.values():
        head, _, reason = state.partition(": ")
        assert head == "run" or (head in {"needs weights", "not run"} and reason)
    ready = replace(recipe, clip=ClipConfig(weights=Path("ViT-B-16.pt")))
    assert not any("needs weights" in state for state in states_of(ready).values())
