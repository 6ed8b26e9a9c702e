from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from cpcsam.config import apply_overrides, from_dict, load_config, to_dict
from cpcsam.errors import ConfigError


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    order: Literal["capl_first", "sam_first"] = "capl_first"


@dataclass(frozen=True)
class Source:
    root: Path
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Run:
    steps: int
    name: str = "run"
    resume: bool = False
    optimizer: Optimizer = field(default_factory=Optimizer)
    source: Source | None = None
    parts: tuple[str, ...] = ()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_load_config_builds_nested_dataclasses_from_yaml_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 3\noptimizer: {lr: 5e-3}\nsource: {root: data}\nparts: [a, b]\n")
    run = load_config(Run, path, ["optimizer.order=sam_first", "source.crop=[0, 1, 2, 3]"])
    assert run == Run(
        steps=3,
        optimizer=Optimizer(lr=0.005, order="sam_first"),
        source=Source(Path("data"), (0, 1, 2, 3)),
        parts=("a", "b"),
    )


def test_override_creates_an_absent_section_and_the_last_wins() -> None:
    run = load_config(Run, None, ["steps=1", "steps=2", "source.root=x", "optimizer.lr=1"])
    assert (run.steps, run.source, run.optimizer.lr) == (2, Source(Path("x")), 1.0)
    assert isinstance(run.optimizer.lr, float)


def test_null_override_removes_a_section() -> None:
    data = apply_overrides({"steps": 1, "source": {"root": "x"}}, ["source=null"])
    assert from_dict(Run, data).source is None


def test_apply_overrides_does_not_modify_its_input() -> None:
    data = {"optimizer": {"lr": 1.0}}
    apply_overrides(data, ["optimizer.lr=2"])
    assert data == {"optimizer": {"lr": 1.0}}


def test_to_dict_round_trips_through_from_dict() -> None:
    run = Run(steps=3, source=Source(Path("a/b"), (0, 1, 2, 3)), parts=("x",))
    data = to_dict(run)
    assert data["source"] == {"root": "a/b", "crop": [0, 1, 2, 3]}
    assert from_dict(Run, data) == run


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stesp=1", "stesp: got an unknown key, expected steps"),
        ("optimizer.lrr=1", "optimizer.lrr: got an unknown key, expected lr"),
        ("zzz=1", "expected steps | name | resume | optimizer | source | parts"),
        ("steps=1.5", "steps: got 1.5, expected int"),
        ("steps=true", "steps: got True, expected int"),
        ("resume=1", "resume: got 1, expected true | false"),
        ("name=3", "name: got 3, expected text"),
        ("optimizer.lr=fast", "optimizer.lr: got 'fast', expected float"),
        ("optimizer.lr=true", "optimizer.lr: got True, expected float"),
        ("optimizer.betas=[0.9]", "expected a list of 2 (float, float)"),
        ("optimizer.order=both", "expected capl_first | sam_first"),
        ("optimizer=3", "optimizer: got 3, expected keys and values"),
        ("parts=[a, 1]", "parts[1]: got 1, expected text"),
        ("source.crop=[1,2,3,4]", "source.root: got nothing, expected a path"),
        ("source={root: x, crop: [1, 2]}", "expected a list of 4 (int, int, int, int)"),
        ("name.sub=1", "below the plain value name"),
        ("steps", "expected key=value"),
        ("=1", "expected key=value"),
        ("steps=[", "expected a YAML value"),
    ],
)
def test_from_dict_errors_name_the_key_and_the_expected_type(override: str, message: str) -> None:
    data = {"steps": 1, "name": "run"}
    with pytest.raises(ConfigError) as caught:
        from_dict(Run, apply_overrides(data, [override]))
    assert message in str(caught.value)


def test_load_config_with_a_missing_key_names_it() -> None:
    with pytest.raises(ConfigError, match="steps: got nothing, expected int"):
        load_config(Run, None)


@pytest.mark.parametrize("text", ["- 1\n", "steps: [", "\x00"])
def test_load_config_with_an_unreadable_file_names_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(Run, write(tmp_path, text))


def test_load_config_with_a_missing_file_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(Run, Path("nowhere.yaml"))
