"""The reference pages agree with the tensor contract and with the configuration's dataclasses."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, get_args, get_type_hints

import pytest

from cpcsam import contract
from cpcsam.contract import GraphSpec, TensorSpec
from tests.support.documentation import PAGES
from tests.support.paths import ROOT
from training.bilevel.config import TrainConfig
from training.data.prompt_sampling import PromptMix

TENSORS_PAGE = (ROOT / "docs/reference/tensors.md").read_text(encoding="utf-8")
CONFIGURATION_PAGE = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
GRAPHS = [*contract.GRAPHS, *contract.ENSEMBLES, *contract.STEPS]
TENSORS = {tensor.name: tensor for graph in GRAPHS for tensor in (*graph.inputs, *graph.outputs)}
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \| [^|]", CONFIGURATION_PAGE, re.M))
"""The default of every documented key, as the page shows it."""
SUMMARISED = {"batch.styles", "batch.practice_styles", "data.validation", "model.capl"}
"""Keys whose value is a group of keys that the page documents elsewhere."""


def shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return shown(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return shown(field.default_factory())
    return "required"


def defaults(config: type[Any], prefix: str = "") -> dict[str, str]:
    """The default of every key of a configuration, as the page shows it."""
    keys: dict[str, str] = {}
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        key = prefix + field.name
        hint = hints[field.name]
        section = next(
            (kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)), None
        )
        if key in SUMMARISED:
            keys[key] = ROWS.get(key, "missing")
        if section and key not in SUMMARISED - {"model.capl"}:
            assert isinstance(section, type)
            keys |= defaults(section, f"{key}.")
        elif key not in SUMMARISED:
            keys[key] = default_of(field)
    return keys


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_tensors_page_shows_dtype_and_shape(tensor: TensorSpec) -> None:
    dims = ", ".join(map(str, tensor.dims))
    assert f"| `{tensor.name}` | {tensor.dtype} | ({dims}) |" in TENSORS_PAGE


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_tensors_page_shows_inputs_and_outputs(graph: GraphSpec) -> None:
    inputs = ", ".join(f"`{name}`" for name in graph.input_names)
    outputs = ", ".join(f"`{name}`" for name in graph.output_names)
    assert f"| `{graph.name}` | {inputs} | {outputs} | {graph.max_batch} |" in TENSORS_PAGE


def test_configuration_page_shows_every_key_with_its_default() -> None:
    assert ROWS == defaults(TrainConfig) | defaults(PromptMix)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages_name_only_known_configuration_keys(page: Any) -> None:
    sections = "model|batch|bilevel|optimizer"
    named = re.findall(rf"(?<![\w./])((?:{sections})(?:\.[a-z]\w*)+)", page.code)
    known = {*ROWS, *(key.rpartition(".")[0] for key in ROWS)}
    assert set(named) <= known
