from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.comparison.methods.entities import found_in
from cpcsam.errors import DataError
from reporting.scores import (
    Column,
    Picture,
    Row,
    Section,
    cited_rows,
    columns_of,
    measured_rows,
    to_markdown,
)
from tests.support.training_factory import discs
from training.data.sample import ENTITY, Sample
from training.evaluation.class_scores import foreground_of, means_of_groups
from training.evaluation.panels import PLACES, panels_of, save_panels
from training.report import main, write_tables


def run(label: str, seed: int, dice: float, setting: str = "faces") -> dict[str, object]:
    scores = {"dice": dice, "iou": dice / 2, "ap50": dice / 4}
    classes = {"eye": scores, "nose": {**scores, "dice": dice + 0.2}}
    costs = {"minutes": 2.0, "parameters": 1_500_000}
    return {"label": label, "setting": setting, "seed": seed, **scores, "classes": classes, **costs}


COLUMNS = (
    Column("Nose", "faces", "nose"),
    Column("Overall", "faces"),
    Column("IoU", "cars", metric="iou"),
    Column("minutes", "all", metric="minutes"),
)


def rows() -> list[Row]:
    runs = [run("A", 0, 0.5), run("A", 1, 0.7), run("B", 0, 0.6), run("B", 0, 0.1, "cars")]
    return measured_rows(runs, COLUMNS)


def test_measured_rows_have_mean_and_deviation_over_seeds() -> None:
    first, second = rows()
    nose, overall, cars, minutes = first.cells
    assert (nose and overall and minutes) and cars is None
    assert (nose.mean, nose.std, nose.seeds) == (
        pytest.approx(80),
        pytest.approx(np.std([70, 90], ddof=1)),
        2,
    )
    assert str(overall) == "60.0 ± 14.1"
    assert str(minutes) == "2.00 ± 0.00"
    assert [str(cell) for cell in second.cells] == ["80.0", "60.0", "5.0", "2.00 ± 0.00"]


def test_means_of_groups_are_averaged_and_shown() -> None:
    one = run("A", 0, 0.5)
    groups = {"base": {"eye", "nose"}, "target": {"mouth"}}
    means = means_of_groups(one["classes"], groups)  # type: ignore[arg-type]
    assert means == {"base": {"dice": 0.6, "iou": 0.25, "ap50": 0.125}}
    (row,) = measured_rows([{**one, "groups": means}], [Column("base", "faces", "base")])
    assert str(row.cells[0]) == "60.0"


def test_columns_of_settings_hold_all_scores_and_classes() -> None:
    columns = columns_of({"faces": ("eye", "nose"), "cars": ("car",)})
    titles = [column.title for column in columns]
    assert "faces: Dice" in titles and "cars: AP@0.5" in titles and "faces: nose" in titles
    assert "cars: car" not in titles
    assert len({column.key for column in columns}) == len(columns)


def test_cited_rows_fall_into_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    path.write_text("method,faces,faces/nose,other\nX,52.9 ± 0.8,,1.0\nY,,,2.0\n")
    (row,) = cited_rows(path, COLUMNS)
    assert row.label == "X" and row.source == "cited, not run"
    assert [cell and str(cell) for cell in row.cells] == [None, "52.9 ± 0.8", None, None]
    markdown = to_markdown([*rows(), row], COLUMNS).splitlines()
    assert markdown[0] == "| method | Nose | Overall | IoU | minutes | source |"
    assert markdown[-1] == "| X | – | 52.9 ± 0.8 | – | – | cited, not run |"
    for broken in ("method,faces\nX,good\n", "name,faces\nX,1.0\n"):
        path.write_text(broken)
        with pytest.raises(DataError, match=re.escape(str(path))):
            cited_rows(path, COLUMNS)


def shown(sample: Sample, count: int) -> list[object]:
    return [found_in(sample.instances == label, 0, 0.9) for label in range(1, count + 1)]


def test_panels_show_worst_median_and_best(tmp_path: Path) -> None:
    samples = [discs(seed) for seed in range(3)]
    counts = dict(zip([sample.name for sample in samples], (4, 1, 2), strict=True))
    per_image = [{"name": name, "class": ENTITY, "dice": n / 4} for name, n in counts.items()]
    panels = panels_of(samples, per_image, lambda s: shown(s, counts[s.name]), (ENTITY,))  # type: ignore[arg-type]
    assert [caption for caption, _ in panels.values()] == [
        "worst: discs-1, Dice 25.0",
        "median: discs-2, Dice 50.0",
        "best: discs-0, Dice 100.0",
    ]
    picture = np.asarray(panels["best"][1])
    height, width = picture.shape[:2]
    side = (width - 12) // 3
    image, truth, found = (picture[:, i * (side + 6) :][:, :side].astype(int) for i in range(3))
    assert height == side == 256
    assert np.abs(truth - found).max() == 0 < np.abs(truth - image).max()
    worst = np.asarray(panels["worst"][1]).astype(int)
    assert np.abs(worst[:, side + 6 : 2 * side + 6] - worst[:, -side:]).max() > 50
    captions = save_panels(panels, tmp_path)
    assert tuple(captions) == PLACES
    assert {path.stem for path in tmp_path.iterdir()} == set(PLACES)


def test_foreground_of_masks_is_their_union() -> None:
    sample = discs(0)
    found = shown(sample, 4)
    painted = foreground_of(found, sample.instances.shape)  # type: ignore[arg-type]
    assert np.array_equal(painted, sample.instances > 0)
    assert found_in(np.zeros((9, 9), bool), 0, 1.0) is None


def test_write_tables_page_embeds_its_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "best.jpg"
    Image.new("RGB", (8, 4), "red").save(picture)
    sections = [Section("A <b>", [Picture("best & first", picture)])]
    note = "in %"
    markdown = write_tables(
        tmp_path / "out",
        title="T",
        note=note,
        rows=rows(),
        columns=COLUMNS,
        more="\nend\n",
        sections=sections,
    )
    assert markdown == (tmp_path / "out/table.md").read_text()
    assert markdown.startswith(note) and markdown.endswith("end\n")
    html = (tmp_path / "out/report.html").read_text()
    assert base64.b64encode(picture.read_bytes()).decode() in html
    assert "A &lt;b&gt;" in html and "best &amp; first" in html and "http" not in html
    assert html.count("class=top") == 5  # two pairs of equals and a single one
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out/table.csv").read_text())))
    assert [line["faces seeds"] for line in lines] == ["2", "1"]
    assert float(lines[0]["faces/nose mean"]) == pytest.approx(80)
    document = json.loads((tmp_path / "out/table.json").read_text())
    assert document["rows"][1]["cells"]["cars iou"]["mean"] == pytest.approx(5)


def test_report_command_tabulates_files_in_the_columns_of_a_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{seed}.json" for seed in range(2)]
    for seed, path in enumerate(paths):
        path.write_text(json.dumps(run("A", seed, 0.5 + 0.2 * seed)))
    cited = tmp_path / "paper.csv"
    cited.write_text("method,faces/nose,faces\nX,,52.9 ± 0.8\n")
    arguments = [*map(str, paths), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--like", str(cited)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "| A | 80.0 ± 14.1 | 60.0 ± 14.1 | measured |",
        "| X | – | 52.9 ± 0.8 | cited, not run |",
        "",
    ]
    assert main(arguments) == 0
    assert "| method | Dice | IoU | AP@0.5 | minutes |" in capsys.readouterr().out
    paths[0].write_text('{"dice": 1}')
    assert main(arguments) == 2
    assert "0.json: got no label, setting" in capsys.readouterr().err
