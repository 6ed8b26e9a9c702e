"""Recipe of a comparison: data, methods, budget and columns of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.budget import Budget
from benchmarks.common.output import OUT
from benchmarks.comparison.methods.clip.proposals import RegionMethod
from benchmarks.comparison.methods.clip.towers import ClipConfig
from benchmarks.comparison.methods.clip.zs3net import Zs3Method
from benchmarks.comparison.methods.detection import DetectionMethod
from benchmarks.comparison.methods.registry import (
    METHODS,
    PAPER_SYSTEMS,
    AnyMethod,
    ClipMethod,
)
from benchmarks.comparison.methods.ritm import RitmMethod
from benchmarks.comparison.methods.sam import SamMethod
from benchmarks.comparison.methods.semantic import SemanticMethod
from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.config import apply_overrides, from_dict, to_dict
from cpcsam.errors import ConfigError
from reporting.scores import ALL, Column
from training.data.augment import AugmentConfig
from training.data.datasets.protocol import Classes

__all__ = ["Recipe", "Setting", "Variant", "lacking", "methods_of", "states_of"]


@dataclass(frozen=True)
class Setting:
    """Data that methods are compared on.

    Attributes:
        name: in tables and folders.
        dataset: a name of docs/guides/datasets.md; `confounded` draws the scenes of
            `benchmarks.common.confounded_scenes`, `stains` trains on BBBC038v1's fluorescence and
            tests on its stained tissue.
        tested_on: another dataset to test on, which also gives the support set.
        shots: number of training images, drawn by the seed; null takes all.
        classes: that training sees.
        share: part of the images that is the support set, from 0 to 1.
        max_support: upper bound of the support set's images.
        test_images: upper bound of the test images, evenly spread; null takes all.
        tile: side of the squares that images are shown in; 0 shows whole images.
        spread: factor by which training windows are larger or smaller than that at most.
        augment: how training windows vary.
    """

    name: str
    dataset: str
    tested_on: str | None = None
    shots: int | None = None
    classes: Classes = "base"
    share: float = 0.1
    max_support: int = 100
    test_images: int | None = None
    tile: int = 0
    spread: float = 1.5
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(rotate=False))


@dataclass(frozen=True)
class Variant:
    """A method with some of its keys changed.

    Attributes:
        name: of its results.
        of: the method.
        set: `key=value` changes.
        label: for tables; null takes the name.
        steps: of its training instead of the recipe's budget.
    """

    name: str
    of: str
    set: tuple[str, ...] = ()
    label: str | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A comparison: every method on every setting, once a seed.

    Attributes:
        name: of its folder of results.
        title: of its report.
        settings: the data.
        methods: names of `METHODS`.
        variants: further methods.
        base: checkpoint that SAM's methods start from.
        image_size: side S in pixels for all networks but the few-shot ones and CLIP; null is the
            base's, and 256 for others.
        sam: `key=value` changes to every SAM method, such as `optimizer.lr=5e-3`.
        clip: towers of the systems on CLIP; they are left out without weights.
        proposals: SAM's masks that they name; null takes thresholds for the compact base.
        not_run: reason why the paper's other systems are not among the methods.
        seeds: of weights, batches, shots and support sets, from 0.
        minutes: of training a run, see `Budget`; null for no limit.
        steps: of training a run; null for no limit.
        jobs: number of parallel runs, each on one core; 1 uses all cores, and the GPU.
        columns: of the table; none shows all scores of every setting.
        cited: CSV with a publication's figures for some of the columns.
        out: folder of all comparisons' results.
    """

    name: str
    title: str
    settings: tuple[Setting, ...]
    methods: tuple[str, ...] = tuple(METHODS)
    variants: tuple[Variant, ...] = ()
    base: Path = Path("weights/vit_t")
    image_size: int | None = None
    sam: tuple[str, ...] = ()
    clip: ClipConfig = ClipConfig()
    proposals: MaskGeneratorConfig | None = None
    not_run: str | None = None
    seeds: int = 5
    minutes: float | None = 1.5
    steps: int | None = None
    jobs: int = 2
    columns: tuple[Column, ...] = ()
    cited: Path | None = None
    out: Path = OUT

    def __post_init__(self) -> None:
        """Refuse unknown and repeated names."""
        names = [*self.methods, *(variant.name for variant in self.variants)]
        for what, given, known in (
            ("methods", names, None),
            ("settings", [setting.name for setting in self.settings], None),
            ("methods", self.methods, METHODS),
            ("variants", [variant.of for variant in self.variants], METHODS),
            ("columns", [column.setting for column in self.columns], self._columns()),
        ):
            wrong = (
                _twice(given) if known is None else [name for name in given if name not in known]
            )
            if wrong:
                raise ConfigError.of(
                    what,
                    got=f"{wrong[0]}{' twice' if known is None else ''}",
                    expected="names used once" if known is None else " | ".join(known),
                    fix="correct the recipe",
                )
        if min(self.seeds, self.jobs) < 1:
            raise ConfigError.of(
                "seeds and jobs",
                got=f"{self.seeds} and {self.jobs}",
                expected="at least 1",
                fix="correct the recipe",
            )
        # Refuses limits under which no training ends.
        Budget(self.minutes, self.steps)

    def _columns(self) -> list[str]:
        """Admitted settings of columns; the last has cited figures alone."""
        return [*(setting.name for setting in self.settings), ALL, "training cost"]

    @property
    def folder(self) -> Path:
        """Folder of its results."""
        return self.out / self.name


def _twice(names: Sequence[str]) -> list[str]:
    return [name for index, name in enumerate(names) if name in names[:index]]


def methods_of(recipe: Recipe) -> dict[str, tuple[AnyMethod, Budget]]:
    """Every method and variant of a recipe with its base, size, changes and budget, by name.

    Raises:
        ConfigError: a change names an unknown key.
    """
    common = Budget(recipe.minutes, recipe.steps)
    methods = {name: (_prepared(recipe, METHODS[name]), common) for name in recipe.methods}
    for variant in recipe.variants:
        method = _changed(_prepared(recipe, METHODS[variant.of]), variant.set)
        budget = common if variant.steps is None else Budget(steps=variant.steps)
        methods[variant.name] = replace(method, label=variant.label or variant.name), budget
    return methods


def lacking(recipe: Recipe) -> dict[str, str]:
    """The systems whose weights the recipe does not give, with the command that does, by name."""
    return {
        name: f"python -m benchmarks.comparison benchmarks/recipes/{recipe.name}.yaml ... "
        f"{method.clip.remedy}"
        for name, (method, _) in methods_of(recipe).items()
        if isinstance(method, ClipMethod) and method.clip.weights is None
    }


def states_of(recipe: Recipe) -> dict[str, str]:
    """Tell of each of the paper's systems whether it is run here.

    Returns:
        "run", "needs weights: COMMAND" or "not run: REASON" by the system's label; systems that a
        recipe leaves out without a reason are missing.
    """
    commands = lacking(recipe)
    states = {}
    for label, name in PAPER_SYSTEMS.items():
        if name in recipe.methods:
            states[label] = f"needs weights: `{commands[name]}`" if name in commands else "run"
        elif name not in METHODS:
            states[label] = "not run: not implemented here"
        elif recipe.not_run is not None:
            states[label] = f"not run: {recipe.not_run}"
    return states


def _prepared(recipe: Recipe, method: AnyMethod) -> AnyMethod:
    if isinstance(method, SamMethod):
        return _changed(method.with_base(recipe.base, recipe.image_size), recipe.sam)
    if isinstance(method, ClipMethod):
        method = replace(method, clip=recipe.clip)
    if isinstance(method, RegionMethod):
        method = replace(method, proposals=recipe.proposals or method.proposals)
        return method.with_base(recipe.base, recipe.image_size)
    if isinstance(method, Zs3Method) and recipe.image_size is not None:
        return replace(method, network=replace(method.network, image_size=recipe.image_size))
    if (
        isinstance(method, SemanticMethod | DetectionMethod | RitmMethod)
        and recipe.image_size is not None
    ):
        return replace(method, image_size=recipe.image_size)
    return method


def _changed(method: AnyMethod, changes: Sequence[str]) -> AnyMethod:
    return from_dict(type(method), apply_overrides(to_dict(method), changes))
