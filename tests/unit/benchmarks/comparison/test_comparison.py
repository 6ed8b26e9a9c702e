from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import stains
from benchmarks.budget import Budget
from benchmarks.common.confounded_scenes import scene
from benchmarks.common.job_cache import store
from benchmarks.comparison.__main__ import main
from benchmarks.comparison.data import read_problem
from benchmarks.comparison.jobs import jobs_of
from benchmarks.comparison.methods.registry import METHODS
from benchmarks.comparison.methods.sam import SamMethod
from benchmarks.comparison.recipe import Recipe, Setting, Variant, methods_of
from benchmarks.comparison.report import capl_gains, report_of, runs_of
from cpcsam.config import load_config
from cpcsam.errors import ConfigError, CpcSamError, DataError
from tests.support.paths import ROOT
from tests.support.training_factory import discs
from training.data.datasets.registry import DATASETS

RECIPES = sorted((ROOT / "benchmarks/recipes").glob("*.yaml"))
CITED = sorted((ROOT / "benchmarks/paper").glob("*.csv"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_complete(path: Path) -> None:
    recipe = load_config(Recipe, path)
    methods = methods_of(recipe)
    assert recipe.name == path.stem and len(methods) > 1
    assert len({method.label for method, _ in methods.values()}) == len(methods)
    assert path.name in path.read_text().splitlines()[0] or recipe.name == "out_of_distribution"
    for setting in recipe.settings:
        known = setting.dataset in {*DATASETS, "confounded", "stains"}
        assert known and setting.tested_on in {*DATASETS, None}
    if recipe.cited is not None:
        with (path.parent / recipe.cited).open() as file:
            heads = next(csv.reader(file))
        columns = {column.key for column in recipe.columns}
        assert not columns or set(heads[1:]) <= columns


def test_recipes_cover_the_tables_and_figures_of_the_paper() -> None:
    names = {path.stem for path in RECIPES}
    assert {f"table{number}" for number in (1, 2, 3, 5)} <= names
    assert {f"figure{number}" for number in (1, "4a", 6, 8, 9, 10, 11, 12, 13)} <= names
    assert {path.stem for path in CITED} == {f"table{number}" for number in (1, 2, 3, 5)}


def test_cited_figures_equal_the_paper() -> None:
    lines = {path.stem: csv.DictReader(path.read_text().splitlines()) for path in CITED}
    rows = {name: {line["method"]: line for line in found} for name, found in lines.items()}
    assert [len(rows[f"table{number}"]) for number in (1, 2, 3, 5)] == [17, 17, 14, 5]
    assert rows["table1"]["CPC-SAM"]["celebamask-hq"] == "70.4 ± 0.8"
    assert rows["table2"]["OVSAM"]["tiktok-dances"] == "74.5 ± 0.9"
    assert rows["table3"]["CPC-SAM"]["bbbc038v1"] == "82.2 ± 1.0"
    assert rows["table3"]["Med-SA"]["kvasir-seg-to-jsrt"] == ""
    assert rows["table5"]["SAMed"]["kvasir-seg-512"] == "78.6 ± 0.9"


def tiny() -> Recipe:
    setting = Setting("scenes", "confounded", shots=2, test_images=2)
    return Recipe("tiny", "Tiny", (setting,), methods=("otsu",), seeds=1, jobs=1)


def test_variant_changes_a_method_and_its_budget() -> None:
    variants = (
        Variant("beta", "cpc-sam", ("bilevel.losses.beta=0.2",), "β = 0.2"),
        Variant("short", "samed", steps=7),
    )
    recipe = replace(tiny(), variants=variants, sam=("optimizer.lr=5e-3",), base=Path("b"))
    methods = methods_of(recipe)
    changed, budget = methods["beta"]
    plain = METHODS["cpc-sam"]
    assert isinstance(changed, SamMethod) and isinstance(plain, SamMethod)
    assert (changed.label, changed.bilevel.losses.beta, changed.optimizer.lr) == (
        "β = 0.2",
        0.2,
        5e-3,
    )
    assert changed.model == replace(plain.model, base=Path("b"))
    assert budget == Budget(1.5) and methods["short"][1] == Budget(steps=7)
    assert methods["short"][0].label == "short"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"methods": ("nothing",)}, "methods"),
        ({"methods": ("otsu", "otsu")}, "otsu twice"),
        ({"variants": (Variant("x", "nothing"),)}, "variants"),
        ({"minutes": None}, "budget"),
        ({"seeds": 0}, "seeds"),
        ({"variants": (Variant("x", "samed", ("model.rank=3",)),)}, "model.rank"),
    ],
)
def test_wrong_recipe_is_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        methods_of(replace(tiny(), **changes))


def write_recipe(folder: Path) -> list[str]:
    path = folder / "tiny.yaml"
    path.write_text(
        "name: tiny\ntitle: Tiny\nmethods: [otsu]\nseeds: 1\nminutes: null\nsteps: 1\njobs: 1\n"
        "settings:\n"
        "  - {name: scenes, dataset: confounded, shots: 2, test_images: 2}\n"
        "  - {name: polyps, dataset: kvasir-seg}\n"
        "variants: [{name: expert, of: sam, set: [prompts=annotator], label: Expert}]\n"
        f"out: {folder}\ncited: paper.csv\n"
    )
    (folder / "paper.csv").write_text("method,scenes\nPaper,12.3 ± 0.4\n")
    return [str(path)]


def test_comparison_is_run_reported_resumed_and_repeated_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.calibration.splits.TEST_SCENES", 4)
    drawn = cache(scene)  # every job would draw the same scenes anew
    monkeypatch.setattr("benchmarks.calibration.splits.scene", drawn)
    monkeypatch.setattr("benchmarks.comparison.data.scene", drawn)
    arguments = write_recipe(tmp_path)
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "| Paper | 12.3 ± 0.4" in captured.out and "| Otsu and watershed |" in captured.out
    assert "of an annotator (given every entity's tight box: Expert). " in captured.out
    assert "polyps is left out: no --data kvasir-seg=PATH" in captured.err
    folder = tmp_path / "tiny"
    run = json.loads((folder / "scenes/otsu-0.json").read_text())
    assert run["images"] == 2 and 0 <= run["dice"] <= 1 and run["steps"] == 0
    assert run["image_seconds"] > 0 and 5e7 < run["peak_bytes"] < 1e11
    page = (folder / "report.html").read_text()
    assert "<th>seconds an image</th>" in page and "<th>peak memory (GB)</th>" in page
    assert len(run["support"]) == 3 and not set(run["support"]) & {
        row["name"] for row in run["per_image"]
    }
    assert page.count("data:image/jpeg;base64") == 6
    before = (folder / "scenes/otsu-0.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (folder / "scenes/otsu-0.json").stat().st_mtime_ns == before
    capsys.readouterr()
    assert main([*arguments, "steps=2"]) == 0
    assert "scenes, otsu, seed 0: Dice" in capsys.readouterr().err
    assert (folder / "scenes/otsu-0.json").stat().st_mtime_ns > before
    assert main([*arguments, "--report-only"]) == 2  # without the option of the run
    error = capsys.readouterr().err
    assert "scenes/otsu-0.json is left out: it is of another configuration" in error
    assert "got no scores of this configuration" in error


def test_report_takes_results_of_this_configuration_as_far_as_data_is_given(
    tmp_path: Path, two_stains: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = Setting("nuclei", "bbbc038v1")
    recipe = replace(tiny(), settings=(setting,), out=tmp_path, minutes=None, steps=1)
    roots = {"bbbc038v1": two_stains}
    (job,) = jobs_of(recipe, roots)
    run = {"name": "otsu", "setting": "nuclei", "machine": "m", "label": "Otsu", "seed": 0}
    run |= {"minutes": 0.0, "parameters": 0, "dice": 0.5, "iou": 0.5, "ap50": 0.5}
    run |= {"classes": {}, "groups": {}}
    store(job, {**run, "record": job.configuration()})
    unchecked = "Not compared with their data, which was not given: nuclei."
    assert unchecked not in report_of(recipe, runs_of(recipe, roots)).note
    assert unchecked in report_of(recipe, runs_of(recipe, {})).note
    assert capsys.readouterr().err == ""
    for options, given in ((replace(recipe, steps=2), {}), (recipe, {"bbbc038v1": tmp_path})):
        with pytest.raises(DataError, match="no scores of this configuration"):
            runs_of(options, given)
        assert "nuclei/otsu-0.json is left out" in capsys.readouterr().err


def test_comparison_without_its_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*write_recipe(tmp_path), "settings=[{name: polyps, dataset: kvasir-seg}]"]
    assert main(arguments) == 2
    assert "give --data NAME=PATH" in capsys.readouterr().err
    assert main([*arguments, "--report-only"]) == 2
    assert "got no scores" in capsys.readouterr().err


def test_capl_gains_are_paired_by_seed() -> None:
    def run(name: str, seed: int, dice: float) -> dict[str, object]:
        return {"name": name, "label": name, "setting": "s", "seed": seed, "dice": dice}

    runs = [run("sam", 0, 0.5), run("sam", 1, 0.6), run("sam+capl", 0, 0.6), run("cpc-sam", 0, 1)]
    (gain,) = capl_gains([*runs, run("sam+capl", 1, 0.8)])
    assert gain["gain"][0] == pytest.approx(15) and gain["seeds"] == 2
    (single,) = capl_gains(runs)
    assert single["gain"] == [pytest.approx(10)]


@pytest.fixture(scope="module")
def two_stains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BBBC038v1's layout: images 0, 2 and 4 grey, 1, 3 and 5 coloured; 4 and 5 to test."""
    root = tmp_path_factory.mktemp("bbbc038v1")
    for index in range(6):
        sample = discs(index)
        image = np.repeat(sample.image[..., :1], 3, axis=2)
        if index % 2:
            image[..., 1] //= 3
        folder = root / "stage1_train" / f"id{index}"
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        Image.fromarray(image).save(folder / "images" / f"id{index}.png")
        for label in range(1, 5):
            mask = (sample.instances == label).astype(np.uint8) * 255
            Image.fromarray(mask).save(folder / "masks" / f"{label}.png")
    (root / "train.txt").write_text("id0\nid1\nid2\nid3\n")
    (root / "val.txt").write_text("id4\nid5\n")
    return root


def test_stains_problem_trains_on_fluorescence_and_tests_on_tissue(two_stains: Path) -> None:
    roots = {"bbbc038v1": two_stains}
    problem = read_problem(Setting("stains", "stains"), 0, roots)
    assert {sample.name for sample in problem.task.train} <= {"id0", "id2"}
    assert {sample.name for sample in problem.task.support} <= {"id1", "id3"}
    assert [sample.name for sample in problem.test] == ["id5"]
    assert problem.task.names == ("nucleus",)
    whole = read_problem(Setting("all", "bbbc038v1"), 0, roots)
    assert len(whole.task.train) == 4 and len(whole.test) == 2
    with pytest.raises(CpcSamError, match="give --data bbbc038v1=PATH"):
        read_problem(Setting("all", "bbbc038v1"), 0, {})


def test_stains_command_lists_ids_by_stain(
    two_stains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(two_stains), "--ids", "train.txt", "--out", str(tmp_path / "train")]
    assert stains.main(arguments) == 0
    assert (tmp_path / "train-fluorescence.txt").read_text() == "id0\nid2\n"
    assert (tmp_path / "train-tissue.txt").read_text() == "id1\nid3\n"
    assert "2 images" in capsys.readouterr().out
