from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cpcsam.errors import DataError
from cpcsam.model.base_checkpoint import save_base
from cpcsam.model.capl import FULL_CAPL, CaPL
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.run_checkpoint import save_run
from tests.support.coco_factory import content, write
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, noisy_sam
from tests.support.training_factory import discs, write_pair
from training.evaluate import capl_magnitudes, evaluate, main

LORA = LoraConfig()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit_t"
    save_base(noisy_sam(), path)
    return path


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose LoRA is untrained and whose CaPL is not: without CaPL it is the base."""
    model = noisy_sam()
    inject_lora(model, LORA)
    model.capl = CaPL(FULL_CAPL)
    fill_with_noise(model.capl, seed=1, scale=0.5)
    path = tmp_path_factory.mktemp("runs") / "best"
    save_run(model, path, base=base, lora=LORA)
    return path


def test_the_three_scores_of_a_run(run: Path, base: Path) -> None:
    scores = evaluate(run, None, [discs()])
    assert scores["entities"] == 4
    for clicks in ("accurate", "careless"):
        dice = {name: one["dice"] for name, one in scores[clicks].items()}
        assert dice["no_capl"] == pytest.approx(dice["base"], abs=5e-3)
        assert dice["run"] != pytest.approx(dice["base"], abs=1e-4)
    assert scores["accurate"]["run"] != scores["careless"]["run"]
    assert scores["capl_weight_change"] > 0.01 and scores["capl_bias"] > 0.01
    moved = evaluate(run, base, [discs()])
    assert moved == scores


def test_an_untrained_capl_measures_zero() -> None:
    model = noisy_sam()
    model.capl = CaPL(FULL_CAPL)
    assert capl_magnitudes(model, [discs()]) == (0.0, 0.0)
    assert capl_magnitudes(noisy_sam(), [discs()]) == (0.0, 0.0)


def test_magnitudes_of_constant_calibration() -> None:
    model = noisy_cpcsam()
    assert model.capl is not None and model.capl.task is not None
    assert model.capl.entity is not None
    last = model.capl.task.sparse[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias[:256] = -0.25
        last.bias[256:] = 7.0
        for site in model.capl.entity.sites:
            site.token_mlp[-1].weight.zero_()
            site.token_mlp[-1].bias.zero_()
    weight_change, bias = capl_magnitudes(model, [discs()])
    assert weight_change == pytest.approx(0.25)
    assert bias == 0


def test_a_base_alone_has_one_score_a_click(base: Path) -> None:
    scores = evaluate(None, base, [discs()])
    assert scores.keys() == {"entities", "accurate", "careless"}
    assert scores["accurate"].keys() == scores["careless"].keys() == {"base"}


def test_images_without_entities_are_refused(base: Path) -> None:
    with pytest.raises(DataError, match="no entity of 100000 pixels"):
        evaluate(None, base, [discs()], min_area=100000)


def test_the_command_writes_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, instances = write_pair(tmp_path, discs())
    out = tmp_path / "scores.json"
    arguments = ["--run", str(run), "--image", str(image), "--instances", str(instances)]
    code = main([*arguments, "--region", "0,0,160,80", "--window", "80", "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    scores = json.loads(out.read_text())
    assert json.loads(printed.out) == scores
    assert scores["entities"] >= 2


@pytest.mark.parametrize(("part", "entities"), [((), 2), (("--part", "train"), 7)])
def test_the_test_images_of_a_dataset_are_scored_unless_others_are_named(
    part: tuple[str, ...],
    entities: int,
    base: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    write(tmp_path, {"a.json": content(10)})
    arguments = ["--base", str(base), "--dataset", "coco", "--root", str(tmp_path)]
    assert main([*arguments, "--window", "0", *part]) == 0
    printed = capsys.readouterr()
    scores, name = json.loads(printed.out), part[-1] if part else "test"
    assert (scores["part"], scores["entities"]) == (name, entities)
    assert printed.err == (
        f"source, part {name}: images 10 of 10; annotations 10 of 10; used: images {entities}\n"
    )


def test_squares_around_entities_score_each_once(base: Path, tmp_path: Path) -> None:
    image, instances = write_pair(tmp_path, discs())
    out = tmp_path / "scores.json"
    arguments = ["--base", str(base), "--image", str(image), "--instances", str(instances)]
    assert main([*arguments, "--window", "64", "--around-entities", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["entities"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got neither --base nor --run"),
        (["--run", "x", "--region", "1,2"], "expected X0,Y0,X1,Y1"),
        (["--run", "x", "--window", "wide"], "expected a whole number above 0"),
        (["--run", "x", "--min-area", "0"], "expected a whole number above 0"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, instances = write_pair(tmp_path, discs())
    code = main(
        ["--run", str(tmp_path / "no"), "--image", str(image), "--instances", str(instances)]
    )
    error = capsys.readouterr().err
    assert code == 2 and "no manifest.json" in error and error.count("\n") == 1
