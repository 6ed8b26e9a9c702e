"""Vocabularies built, extended, shown and evaluated by the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpcsam.artifacts.manifest import sha256_file
from cpcsam.automatic.vocabulary import empty_vocabulary
from cpcsam.automatic.vocabulary_io import load_vocabulary
from cpcsam.clip.towers import ClipTowers
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import save_base
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.run_checkpoint import save_run
from cpcsam.scale import SCALE, Scale
from export.text_encoder import export_towers
from tests.support.model_factory import noisy_cpcsam, noisy_sam
from tests.support.tiny_clip import write_tiny_clip
from tests.support.training_factory import discs, write_pair
from training import evaluate_auto as command
from training import report as report_command
from training import vocabulary as vocabulary_command
from training.data.sample import ENTITY
from training.evaluation.torch_model import open_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_blocks")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bases") / "base"
    save_base(noisy_sam(), path)
    return path


def test_commands_build_extend_show_and_evaluate(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, instances = write_pair(tmp_path, discs(0))
    source = ["--base", str(base), "--image", str(image), "--instances", str(instances)]
    built, both, out = (str(tmp_path / name) for name in ("built", "both", "scores.json"))
    rename = ["--name", f"{ENTITY}=disc"]
    build = ["build", *source, *rename, "--tile", "160", "--out", built]
    assert vocabulary_command.main(build) == 0
    more = ["extend", *source, "--vocabulary", built, "--name", f"{ENTITY}=ball", "--out", both]
    assert vocabulary_command.main(more) == 0
    assert load_vocabulary(Path(both)).names == ("disc", "ball")
    assert vocabulary_command.main(["show", both]) == 0
    shown = capsys.readouterr().out
    assert "160 pixels" in shown and "disc" in shown and "1 images, 1 added" in shown
    arguments = [*source, *rename, "--vocabulary", built, "--out", out]
    assert command.main(arguments) == 0
    document = json.loads(Path(out).read_text())
    assert document["classes"]["disc"]["entities"] == 4
    assert document["capl"] is False and 0 <= document["dice"] <= 1
    assert json.loads(capsys.readouterr().out)["dice"] == document["dice"]
    page = tmp_path / "report"
    assert report_command.main([out, "--out", str(page)]) == 0
    assert f"| {base.name} | {100 * document['dice']:.1f}" in capsys.readouterr().out
    assert (page / "report.html").read_text().count("data:image/jpeg") == 3


def test_commands_report_errors_in_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, instances = write_pair(tmp_path, discs(0))
    source = ["--base", str(base), "--image", str(image), "--instances", str(instances)]
    built = tmp_path / "built"
    assert vocabulary_command.main(["build", *source, "--tile", "160", "--out", str(built)]) == 0
    other = tmp_path / "other"
    save_base(noisy_sam(seed=3), other)
    capsys.readouterr()
    wrong = ["--base", str(other), *source[2:], "--vocabulary", str(built)]
    assert command.main(wrong) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "one made with model" in error
    renamed = ["build", *source, "--name", "nothing=x", "--out", str(tmp_path / "new")]
    assert vocabulary_command.main(renamed) == 2
    assert "--name: got nothing=x" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        command.main(["--vocabulary", str(built), "--image", str(image)])
    assert exit_.value.code == 2


def test_evaluate_auto_of_run_takes_its_own_vocabulary_with_and_without_capl(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, built, out = tmp_path / "run", tmp_path / "built", tmp_path / "scores.json"
    model = noisy_cpcsam()
    inject_lora(model, LoraConfig())
    save_run(model, run, base=base, lora=LoraConfig())
    image, instances = write_pair(tmp_path, discs(0))
    source = ["--image", str(image), "--instances", str(instances)]
    build = ["build", "--run", str(run), *source, "--tile", "160", "--out", str(built)]
    assert vocabulary_command.main(build) == 0
    digest = open_model(None, run)[1]
    assert load_vocabulary(built, digest).model == digest == sha256_file(run / "manifest.json")
    score = ["--run", str(run), *source, "--vocabulary", str(built), "--out", str(out)]
    score += ["--threshold", "0.9"]  # noise finds entities everywhere
    for arguments, capl in ((score, True), ([*score, "--no-capl"], False)):
        assert command.main(arguments) == 0
        document = json.loads(out.read_text())
        assert document["capl"] is capl and document["parameters"] > 0
        assert document["label"] == "run"
    capsys.readouterr()
    assert command.main(["--base", str(base), *source, "--vocabulary", str(built)]) == 2
    assert "one made with model" in capsys.readouterr().err


def test_commands_build_show_and_evaluate_classes_by_text(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, weights = write_tiny_clip(tmp_path)
    export_towers(ClipTowers.load(name, weights), tmp_path / "clip")
    image, instances = write_pair(tmp_path, discs(0))
    model, source = ["--base", str(base)], ["--image", str(image), "--instances", str(instances)]
    texts = ["--text", "disc|round disc, ring", "--not", "ring=square", "--not", "ring = box|star"]
    clip = ["--clip", str(tmp_path / "clip"), "--points-per-side", "3"]
    built = tmp_path / "built"
    build = ["build", *model, *texts, "--tile", "160", "--out", str(built)]
    assert vocabulary_command.main([*build, *clip]) == 0
    alone = load_vocabulary(built)
    assert alone.names == () and alone.all_names == ("disc", "ring") and alone.texts is not None
    assert alone.texts.classes[1].negatives == ("square", "box", "star")
    rename = ["--name", f"{ENTITY}=disc"]
    extend = ["extend", *model, *source, *rename, "--vocabulary", str(built)]
    assert vocabulary_command.main([*extend, "--out", str(tmp_path / "extended")]) == 0
    extended = load_vocabulary(tmp_path / "extended")
    assert vocabulary_command.main([*build, *clip, *source, *rename]) == 0
    both = load_vocabulary(built)
    assert both.names == ("disc",) and both.all_names == ("disc", "ring")
    assert both.texts is not None and both.texts.logit_scale != alone.texts.logit_scale
    assert np.array_equal(both.texts.embeddings, alone.texts.embeddings)
    assert np.array_equal(extended.metric, both.metric) and extended.all_names == both.all_names
    assert vocabulary_command.main(["show", str(built)]) == 0
    assert "by text     ring: ring, not square | box | star" in capsys.readouterr().out
    score = [*model, *source, *rename, "--vocabulary", str(built)]
    assert command.main([*score, *clip]) == 0
    assert json.loads(capsys.readouterr().out)["classes"].keys() == {"disc"}
    for arguments, message in (
        (score, "CLIP: got no towers"),
        ([*build], "--clip: got none"),
        ([*build, *clip, "--not", "cat=dog"], "--not: got 'cat=dog'"),
    ):
        run = command.main if arguments is score else vocabulary_command.main
        assert run(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "tile"),
    [
        ({}, 128),
        ({SCALE: Scale(64).record()}, 64),
        ({SCALE: Scale(None).record()}, 0),
    ],
)
def test_tiles_are_by_default_those_of_the_model(
    config: dict[str, Any], tile: int, tmp_path: Path
) -> None:
    save_base(noisy_sam(), tmp_path / "base", config=config)
    build = ["build", "--base", str(tmp_path / "base"), "--out", "x"]
    parse = vocabulary_command._parser().parse_args
    assert vocabulary_command._tile(parse(build)) == tile
    assert vocabulary_command._tile(parse([*build, "--tile", "0"])) == 0
    official = parse(["build", "--base", str(tmp_path / "sam_vit_b.pth"), "--out", "x"])
    assert vocabulary_command._tile(official) == 128


def test_two_classes_do_not_get_one_name() -> None:
    with pytest.raises(ConfigError, match="--name: got l_eye=eye, r_eye=eye, expected a name for"):
        vocabulary_command._renamed(["l_eye", "r_eye"], ["l_eye=eye", "r_eye=eye"])
    vocabulary = replace(empty_vocabulary("m"), names=("eye",))
    with pytest.raises(ConfigError, match="--name: got a=eye, b=eye, expected .*once each of eye"):
        command._names(["a=eye", "b=eye"], vocabulary)
