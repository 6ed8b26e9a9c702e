"""Arms of `benchmarks.calibration`: trained parameters, prompts and learning rate of each.

Noise levels and baselines were written before CaPL was first run on this data; LoRA's alpha, CaPL's
learning rates, how often it is updated and that it moves points were chosen afterwards, on other
target classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cpcsam.model.capl import CaplConfig
from cpcsam.model.lora import LoraConfig
from training.bilevel.config import ModelConfig
from training.bilevel.losses import LossConfig
from training.bilevel.step import BilevelConfig
from training.data.batches import ACCURATE_STYLE
from training.data.prompt_sampling import PromptMix
from training.loop.precision import Precision

__all__ = [
    "ABLATIONS",
    "ACCURATE_STYLES",
    "BOTH",
    "CAPL_LEARNING_RATE",
    "CORE",
    "GROUPS",
    "NOISE",
    "NOISY_STYLES",
    "POINTS",
    "SHOTS",
    "Arm",
]

NOISY_STYLES = (
    PromptMix(box=0, several=0, centre=0.5, wrong=0.4, wrong_reach=10),
    PromptMix(box=0, several=0, centre=0.0, edge=1.0, wrong=0.4, wrong_reach=10),
    PromptMix(box=1, several=0, box_jitter=0.15, box_loose=0.3),
    PromptMix(box=1, several=0, box_jitter=0.05, box_shift=0.25),
    PromptMix(box=0, several=1, centre=0.2, wrong=0.4, wrong_reach=10),
)
"""Five careless annotators: they prompt every test entity, and are the K groups in training."""

ACCURATE_STYLES = tuple(replace(ACCURATE_STYLE, box=box) for box in (0.0, 1.0))
"""Two careful annotators for every test entity: a click in its centre, and its tight box."""

NOISE = (0.0, 0.5, 1.0, 1.5)
"""Strengths that a trained model is tested at; 1 is the main figure."""

SHOTS = {"standard": 8, "few-shot": 4}
"""Training scenes, as the paper's public code counts examples."""

LEARNING_RATE = 1e-3
CAPL_LEARNING_RATE = 3e-4
ALPHA = 50.0
"""LoRA's, at every rank: it sets how fast LoRA learns, which must not differ between arms."""

MATCHED_RANK = 69
"""LoRA of this rank has as many parameters as LoRA of rank 4 with both modules of CaPL."""

POINTS_RANK = 49
"""With point calibration LoRA of this rank has as many parameters, too."""


@dataclass(frozen=True)
class Arm:
    """Training of an arm.

    Attributes:
        name: of its files of results.
        label: for tables.
        model: trained parts.
        groups: K, prompt groups an entity.
        styles: of their prompts.
        strength: of their carelessness.
        bilevel: alternation of θ and φ.
        losses: weights of the objectives.
        lr: peak learning rate of θ.
        precision: of training.
    """

    name: str
    label: str
    model: ModelConfig = field(default_factory=ModelConfig)
    groups: int = 5
    styles: tuple[PromptMix, ...] = NOISY_STYLES
    strength: float = 1.0
    bilevel: BilevelConfig = field(default_factory=BilevelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    lr: float = LEARNING_RATE
    precision: Precision = "auto"

    def trains_as(self, other: Arm) -> bool:
        """Return whether the two differ in their names alone."""
        return replace(self, name=other.name, label=other.label) == other


def _lora(rank: int) -> ModelConfig:
    return ModelConfig(lora=LoraConfig(rank=rank, alpha=ALPHA), capl=None)


def _capl(rank: int = 4, **options: Any) -> ModelConfig:
    return ModelConfig(lora=LoraConfig(rank=rank, alpha=ALPHA), capl=CaplConfig(**options))


def _full(rank: int = 4, **options: Any) -> ModelConfig:
    return _capl(rank, entity=True, reweights=True, **options)


TURNS = BilevelConfig(capl_every=3)
GROUPS = Arm("groups", "LoRA of as many parameters, the same K groups", _lora(MATCHED_RANK))
POINTS = Arm("points", "CaPL: points that stay or move (default)", _capl(POINTS_RANK))
BOTH = Arm("both", "CaPL: task and entity module", _full(), bilevel=TURNS)
CORE = (
    Arm("single", "LoRA, one accurate prompt a sample (SAMed)", _lora(4), 1, (ACCURATE_STYLE,)),
    GROUPS,
    POINTS,
    Arm("task", "CaPL: task module", _capl(reweights=True), bilevel=TURNS),
    Arm("entity", "CaPL: entity module", _capl(task=False, entity=True), bilevel=TURNS),
    BOTH,
)
STRATEGIES: dict[str, dict[str, Any]] = {
    "capl_first": {},
    "unrolled": {"unroll_steps": 1},
    "sam_first": {"order": "sam_first"},
    "capl_5_steps": {"capl_steps": 5},
}


def _varied(factor: str, value: object, **changes: Any) -> Arm:
    return replace(BOTH, name=f"{factor}={value}", label=f"{factor} {value}", **changes)


ABLATIONS = (
    *(_varied("noise", s, strength=s) for s in (0.5, 1.0, 1.5)),
    *(_varied("beta", b, losses=LossConfig(beta=b)) for b in (0.2, 0.6, 1.0)),
    *(_varied("lambda", w, losses=LossConfig(sparsity=w)) for w in (0.01, 0.1, 1.0)),
    *(_varied("K", k, groups=k) for k in (2, 5, 8)),
    *(_varied("rank", r, model=_full(r)) for r in (1, 4, 16)),
    *(_varied("capl_every", n, bilevel=BilevelConfig(capl_every=n)) for n in (1, 3, 6)),
    *(
        _varied("strategy", name, bilevel=replace(TURNS, **changes))
        for name, changes in STRATEGIES.items()
    ),
    _varied("task", "literal", model=_full(image_conditioned=False)),
    _varied("points", "fixed", model=_full(moves_points=False)),
    _varied("points", "offset", model=_full(point_form="offset")),
    Arm("single-careless", "LoRA, one careless prompt a sample", _lora(4), 1),
    _varied(
        "theta",
        "full",
        model=ModelConfig(lora=LoraConfig(rank=0), full_finetuning=True),
        # Pretrained weights tolerate smaller steps than LoRA, which starts at zero.
        lr=LEARNING_RATE / 10,
    ),
)
