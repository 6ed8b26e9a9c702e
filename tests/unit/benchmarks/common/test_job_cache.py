"""The job cache: a fresh folder runs everything, an interruption resumes, a change runs again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.job_cache import (
    code_digest,
    code_of,
    data_digest,
    digest_of,
    is_current,
    missing,
    run_here,
    store,
)
from cpcsam.errors import DataError
from tests.support.paths import ROOT


@dataclass(frozen=True)
class ToyJob:
    name: str
    folder: Path
    steps: int = 1

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def configuration(self) -> dict[str, Any]:
        return {"name": self.name, "steps": self.steps}


def jobs(folder: Path) -> list[ToyJob]:
    return [ToyJob(name, folder) for name in ("first", "second", "third")]


def run_job(job: ToyJob) -> str:
    store(job, {"score": job.steps})
    return job.name


def test_job_cache_fresh_folder_runs_every_job(tmp_path: Path) -> None:
    assert missing(jobs(tmp_path)) == jobs(tmp_path)
    run_here(missing(jobs(tmp_path)), run_job)
    assert missing(jobs(tmp_path)) == []
    assert json.loads((tmp_path / "first.json").read_text())["score"] == 1


def test_job_cache_interrupted_run_resumes_with_the_rest(tmp_path: Path) -> None:
    def interrupted(job: ToyJob) -> str:
        if job.name == "second":
            raise KeyboardInterrupt
        return run_job(job)

    with pytest.raises(KeyboardInterrupt):
        run_here(missing(jobs(tmp_path)), interrupted)
    before = (tmp_path / "first.json").stat().st_mtime_ns
    rest = missing(jobs(tmp_path))
    assert [job.name for job in rest] == ["second", "third"]
    run_here(rest, run_job)
    assert missing(jobs(tmp_path)) == []
    assert (tmp_path / "first.json").stat().st_mtime_ns == before


def test_job_cache_changed_configuration_runs_again(tmp_path: Path) -> None:
    run_here(jobs(tmp_path), run_job)
    changed = [replace(job, steps=2) if job.name == "second" else job for job in jobs(tmp_path)]
    assert [job.name for job in missing(changed)] == ["second"]
    run_here(missing(changed), run_job)
    assert missing(changed) == []
    assert json.loads((tmp_path / "second.json").read_text())["score"] == 2
    assert [job.name for job in missing(jobs(tmp_path))] == ["second"]


def test_is_current_without_digest_is_false_and_broken_file_is_refused(tmp_path: Path) -> None:
    job = ToyJob("first", tmp_path)
    job.path.write_text('{"score": 1}')
    assert not is_current(job)
    job.path.write_text('{"score": ')
    with pytest.raises(DataError, match=r"first\.json: got broken JSON"):
        is_current(job)


def test_digest_of_ignores_the_order_of_keys_only() -> None:
    first = digest_of({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert first == digest_of({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert first != digest_of({"a": 1, "b": {"c": [2, 1], "d": None}})


def test_code_digest_changes_with_code_but_not_with_comments(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()

    def digest(text: str) -> str:
        (package / "step.py").write_text(text)
        return code_digest.__wrapped__("package", root=tmp_path)

    plain = digest("def step(x):\n    return x + 1\n")
    assert digest('"""A module."""\n\n\ndef step(x):\n    return (x+1)  # why\n') == plain
    assert digest('def step(x):\n    """Add one."""\n\n    return x + 1\n') == plain
    assert digest("def step(x):\n    return x + 2\n") != plain
    assert digest("def step(x):\n    return x + 1\n") == plain
    (package / "more.py").write_text("")
    assert code_digest.__wrapped__("package", root=tmp_path) != plain


def test_code_of_a_module_is_all_that_it_imports(tmp_path: Path) -> None:
    sources = {
        "jobs": "from package import near\nfrom lazy import named\nimport reporting.tables\n",
        "package/__init__": "import unused",
        "package/near": "if TYPE_CHECKING:\n    import typed\ndef run():\n    import package.far\n",
        "package/far": "import numpy\nfrom jobs import run\n",
        "package/unused": "",
        "lazy/__init__": "def __getattr__(name): ...",
        "lazy/by_name": "",
        "reporting/tables": "",
        "typed": "",
        "unused": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    found = {str(path.relative_to(tmp_path)) for path in code_of("jobs", root=tmp_path)}
    expected = {"jobs", "package/near", "package/far", "lazy/__init__", "lazy/by_name"}
    assert found == {f"{name}.py" for name in expected}


@pytest.mark.parametrize("benchmark", ["calibration", "noc"])
def test_code_of_jobs_covers_prompts_frames_and_images(benchmark: str) -> None:
    found = {str(path.relative_to(ROOT)) for path in code_of(f"benchmarks.{benchmark}.jobs")}
    assert found > {
        "benchmarks/calibration/arms.py",
        "cpcsam/geometry.py",
        "cpcsam/images/reading.py",
        "cpcsam/mask_prompts.py",
        "cpcsam/scale.py",
        "cpcsam/transforms.py",
        "training/bilevel/step.py",
    }


def test_data_digest_changes_with_names_and_sizes_and_not_with_the_place(tmp_path: Path) -> None:
    digests = []
    for root, name, data in (("a", "x.png", b"12"), ("b", "x.png", b"12"), ("c", "x.png", b"123")):
        (tmp_path / root / "masks").mkdir(parents=True)
        (tmp_path / root / "masks" / name).write_bytes(data)
        digests.append(data_digest(tmp_path / root))
    assert digests[0] == digests[1] != digests[2]
