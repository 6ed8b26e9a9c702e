"""The documentation names only what exists, and agrees with the contract and configuration."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, get_args, get_type_hints

import pytest

from cpcsam import contract, entry_points
from cpcsam.contract import GraphSpec, TensorSpec
from serving.metrics_reference import reference_page
from tests.support.documentation import (
    PAGES,
    Page,
    defines,
    is_command,
    module_file,
    split_dotted,
)
from tests.support.paths import ROOT
from training.bilevel.config import TrainConfig
from training.data.prompt_sampling import PromptMix

MAX_LINES = 300
OTHER_TOOLS = {
    *("--constraint", "--nproc-per-node", "--logdir", "--require-hashes", "--no-deps"),
    *("--function-module", "--conf-threshold", "--conv-mask-to-poly"),
    *("--namespace", "--from-file", "--install", "--values", "--trace-config"),
    *("--build", "--build-arg", "--detach", "--force-recreate", "--profile", "--rm", "--scale"),
    *("--entrypoint", "--previous", "--since", "--volume", "--wait"),
}
"""Options of torchrun, TensorBoard, pip, cvat-cli, kubectl, helm, tritonserver and docker."""

each_page = pytest.mark.parametrize("page", PAGES, ids=str)

TENSORS_PAGE = (ROOT / "docs/reference/tensors.md").read_text(encoding="utf-8")
CONFIGURATION_PAGE = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
GRAPHS = [*contract.GRAPHS, *entry_points.ENSEMBLES, *entry_points.STEPS]
FORMS = [entry_points.form_of(graph, calibrates=True) for graph in GRAPHS]
TENSORS = {tensor.name: tensor for graph in FORMS for tensor in (*graph.inputs, *graph.outputs)}
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \| [^|]", CONFIGURATION_PAGE, re.M))
"""The default of every documented key, as the page shows it."""
SUMMARISED = {"batch.styles", "batch.practice_styles", "data.validation", "model.capl"}
"""Keys whose value is a group of keys that the page documents elsewhere."""


@pytest.fixture(scope="module")
def sources() -> str:
    """All Python sources, the Makefile and the deployment files, in which options are defined."""
    folders = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    files = [path for folder in folders for path in folder.glob("**/*.py")]
    files += [ROOT / "Makefile", ROOT / "docker-compose.yml"]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@each_page
def test_links_lead_to_existing_files_and_headings(page: Page) -> None:
    headings = {str(other): other.anchors() for other in PAGES}
    for link in page.links():
        path, _, anchor = link.partition("#")
        target = (ROOT / page.path.parent / path).resolve() if path else ROOT / page.path
        assert target.exists(), link
        if anchor:
            assert anchor in headings[str(target.relative_to(ROOT))], link


@each_page
def test_paths_exist(page: Page) -> None:
    missing = [path for path in page.paths() if not (ROOT / path.rstrip(".")).exists()]
    assert missing == []


@each_page
def test_dotted_names_are_defined(page: Page) -> None:
    for name in page.dotted_names():
        module, attributes = split_dotted(name)
        assert module, name
        assert not attributes or defines(module, attributes[0]), name


@each_page
def test_modules_run_are_commands(page: Page) -> None:
    for module in page.modules_run():
        assert module_file(module), module
        assert is_command(module), module


@each_page
def test_make_targets_exist(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(page.make_targets()) <= targets


@each_page
def test_options_are_defined(page: Page, sources: str) -> None:
    unknown = [
        option
        for option in page.options()
        if option not in OTHER_TOOLS
        and f'"{option}"' not in sources
        and not re.search(rf"\b{option[2:].replace('-', '_')}: ", sources)
    ]
    assert unknown == []


@each_page
def test_page_is_short_enough_to_read(page: Page) -> None:
    assert len(page.text.splitlines()) <= MAX_LINES


def test_index_lists_every_page() -> None:
    index = next(page for page in PAGES if str(page) == "docs/README.md")
    linked = {link.partition("#")[0] for link in index.links()}
    pages = {
        str(page.path.relative_to("docs"))
        for page in PAGES
        if page.path.parts[0] == "docs" and page is not index
    }
    assert pages <= linked


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


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)
def test_tensors_page_shows_what_calibrating_models_have_besides(graph: GraphSpec) -> None:
    form = entry_points.form_of(graph, calibrates=True)
    more = [
        ", ".join(f"`{name}`" for name in theirs if name not in plain)
        for theirs, plain in (
            (form.input_names, graph.input_names),
            (form.output_names, graph.output_names),
        )
    ]
    row = f"| `{graph.name}` | {more[0] or '–'} | {more[1] or '–'} |"
    assert (row in TENSORS_PAGE) == any(more)


def test_metrics_page_is_the_generated_one() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    assert page == reference_page(), "run `python -m serving.metrics_reference`"


def test_configuration_page_shows_every_key_with_its_default() -> None:
    assert ROWS == defaults(TrainConfig) | defaults(PromptMix)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages_name_only_known_configuration_keys(page: Any) -> None:
    sections = "model|batch|bilevel|optimizer"
    named = re.findall(rf"(?<![\w./])((?:{sections})(?:\.[a-z]\w*)+)", page.code)
    known = {*ROWS, *(key.rpartition(".")[0] for key in ROWS)}
    assert set(named) <= known
