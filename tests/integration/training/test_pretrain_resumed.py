"""Pretraining runs, whose batches a worker process prepares, are resumed and continued."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.build_sam import ENCODERS
from tests.support.dataset_factory import drawings
from tests.support.model_factory import shallow_encoder
from tests.support.training_factory import TINY_BATCH, tiny_pretraining
from training.data.vector_art.drawings import open_collection
from training.pretraining.config import PretrainConfig, PretrainData
from training.pretraining.data import PretrainBatches
from training.pretraining.run import pretrain
from training.pretraining.train_state import new_pretrain_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def two_blocks() -> Iterator[None]:
    """Pretrain a shallow encoder: these tests are about states, whatever the model's depth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "vit_t", shallow_encoder("vit_t"))
        yield


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawings")
    drawings(folder)
    return folder


def on_drawings(folder: Path, collection: Path, **changes: object) -> PretrainConfig:
    """Return a pretraining whose third step sees a scene of drawings, and the others shapes."""
    data = PretrainData(vector_art=collection, val_scenes=1)
    batch = replace(TINY_BATCH, vector_art_share=0.5)
    return tiny_pretraining(folder.parent, folder.name, data=data, batch=batch, **changes)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, collection: Path) -> PretrainConfig:
    """A finished pretraining that nothing interrupted."""
    config = on_drawings(tmp_path_factory.mktemp("unbroken"), collection)
    pretrain(config)
    return config


def test_interrupted_run_resumes_to_the_same_weights(
    unbroken: PretrainConfig, collection: Path, tmp_path: Path
) -> None:
    broken = on_drawings(tmp_path / "broken", collection)
    polls = itertools.count(1)

    def lose_the_third_step() -> bool:
        if next(polls) == 3:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        pretrain(broken, lose_the_third_step)
    assert not broken.out.exists()
    assert pretrain(broken, lambda: True) is None, "stopped after step 3, with its state saved"
    assert not broken.out.exists()
    assert pretrain(broken) is not None
    first, second = (load_base(config.out).state_dict() for config in (unbroken, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)
    manifest = read_manifest(broken.out, "checkpoint")
    assert manifest.metrics["steps"] == 4
    assert manifest.config["real_images"].startswith("none")
    assert manifest.config["vector_art"] == open_collection(collection).digest
    assert "run" not in manifest.config["recipe"][0]


def test_finished_run_of_other_settings_or_data_is_not_published_anew(
    unbroken: PretrainConfig, collection: Path, tmp_path: Path
) -> None:
    published = (unbroken.out / "manifest.json").read_bytes()
    without = PretrainData(val_scenes=1)
    for changes, message in (
        ({"lr": 0.01}, "lr: got 0.01, expected"),
        ({"data": without, "batch": TINY_BATCH}, "vector_art"),
        ({"init": unbroken.out}, "init_digest: got [0-9a-f]{64}, expected None"),
    ):
        with pytest.raises(ConfigError, match=f"{message}.*give another run=FOLDER"):
            pretrain(replace(unbroken, **changes))
    assert (unbroken.out / "manifest.json").read_bytes() == published
    assert pretrain(replace(unbroken, max_minutes=9, out=tmp_path / "again")) is not None


def test_pretrain_with_init_continues_from_that_base(
    unbroken: PretrainConfig, tmp_path: Path
) -> None:
    second = tiny_pretraining(tmp_path, "second", init=unbroken.out, steps=1, auxiliary_steps=0)
    state = new_pretrain_state(second)
    for name, value in load_base(unbroken.out).state_dict().items():
        assert torch.equal(state.model.state_dict()[name], value)
    pretrain(second)
    before, after = (read_manifest(c.out, "checkpoint") for c in (unbroken, second))
    assert [recipe["steps"] for recipe in after.config["recipe"]] == [4, 1]
    assert after.metrics["steps"] == 5
    assert after.metrics["cpu_seconds"] >= before.metrics["cpu_seconds"]
    assert after.parents == {"init": base_digest(unbroken.out)}


def test_scenes_drawn_by_several_processes_are_the_same() -> None:
    alone, together = (
        PretrainBatches([], 64, TINY_BATCH, seed=5, steps=1, workers=workers).synthetic
        for workers in (0, 2)
    )
    assert [scene.name for scene in together] == ["synthetic-5", "synthetic-6"]
    for expected, scene in zip(alone, together, strict=True):
        assert (scene.image == expected.image).all()
        assert (scene.instances == expected.instances).all()


def test_time_limit_ends_the_run_and_counts_seconds(tmp_path: Path) -> None:
    config = tiny_pretraining(tmp_path, "limited", steps=10**6, max_minutes=1e-4)
    assert pretrain(config) is not None
    metrics = read_manifest(config.out, "checkpoint").metrics
    assert metrics["steps"] == 1
    assert metrics["seconds"] > 0
    assert "cpu_seconds" not in metrics
