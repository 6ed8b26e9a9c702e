"""SAM, fine-tuned in one way or another, prompted by a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from benchmarks.budget import Budget, Spent, train_within
from benchmarks.comparison.methods.adapters import insert_adapters, is_in_theta
from benchmarks.comparison.methods.entities import segment_annotated
from benchmarks.comparison.methods.fitting import ENDLESS
from benchmarks.comparison.methods.interface import Fitted, Segment, Task
from cpcsam.automatic.vocabulary import build_vocabulary
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.capl import FULL_CAPL
from cpcsam.model.lora import LoraConfig
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.forward import enable_gradient_checkpointing
from training.bilevel.step import BilevelConfig
from training.bilevel.train_state import new_bilevel_state
from training.data.batches import GROUP_STYLES, BatchConfig, StepBatches
from training.data.prefetch import Batches, prefetch
from training.data.prompt_batch import Halves
from training.data.prompt_sampling import PromptMix
from training.evaluate_auto import segmenter
from training.evaluation.torch_model import examples_of
from training.loop.distributed import training_device
from training.loop.precision import Precision, is_mixed

__all__ = [
    "ACCURATE",
    "CAPL_TURNS",
    "CARELESS",
    "LORA",
    "NO_CHANGE",
    "Prompting",
    "SamMethod",
    "halves_of",
    "with_capl",
]

ACCURATE: Final = PromptMix(box=0.5, several=0, centre=1.0, box_jitter=0)
"""One careful annotator: a tight box or a click in the centre."""

LORA: Final = LoraConfig(rank=4, alpha=50.0)
"""As in `benchmarks.calibration.arms`: alpha sets how fast LoRA learns from the compact base."""

CAPL_TURNS: Final = BilevelConfig(capl_every=3)
"""As in `benchmarks.calibration.arms`: θ takes three steps a round."""

NO_CHANGE: Final = ModelConfig(lora=LoraConfig(rank=0), capl=None, unfreeze=())
"""Nothing of SAM learns."""


@dataclass(frozen=True)
class Prompting:
    """Prompts of a half-batch.

    Attributes:
        groups: K, prompts an entity.
        styles: how they annotate.
    """

    groups: int = 1
    styles: tuple[PromptMix, ...] = (ACCURATE,)


CARELESS: Final = Prompting(5, GROUP_STYLES)
"""K annotators, one a group, as CPC-SAM simulates them."""


@dataclass(frozen=True)
class SamMethod:
    """One way to fine-tune SAM.

    Attributes:
        label: for tables.
        model: what is added and what learns.
        adapters: add adapters to the blocks (Med-SA).
        prompting: of the half-batch that θ learns from.
        held_out: of the half-batch that φ learns from.
        bilevel: how θ and φ take turns.
        optimizer: learning rates and schedule.
        images: windows a half-batch.
        entities: prompted entities a window.
        prompts: who prompts test images: the vocabulary, or an annotator who knows the truth.
        precision: of training.
        gradient_checkpointing: recompute the encoder's blocks in backward.
        workers: processes that prepare batches.
    """

    label: str
    model: ModelConfig = field(default_factory=lambda: ModelConfig(lora=LORA, capl=None))
    adapters: bool = False
    prompting: Prompting = field(default_factory=Prompting)
    held_out: Prompting = field(default_factory=Prompting)
    bilevel: BilevelConfig = field(default_factory=BilevelConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=1e-3, lr_capl=3e-4)
    )
    images: int = 2
    entities: int = 4
    prompts: Literal["vocabulary", "annotator"] = "vocabulary"
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    workers: int = 0

    def with_base(self, base: Path, image_size: int | None) -> SamMethod:
        """The same method on another base."""
        return replace(self, model=replace(self.model, base=base, image_size=image_size))

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Fine-tune, then make the vocabulary of the support set with what was learned."""
        model, spent, parameters = self.train(task, budget, seed)
        return Fitted(_segmenter(model, task, self.prompts), spent, parameters)

    def train(self, task: Task, budget: Budget, seed: int) -> tuple[CpcSam, Spent, int]:
        """Fine-tune; return the model, the used budget and the number of trained parameters."""
        model = load_base(self.model.base, image_size=self.model.image_size)
        if self.adapters:
            insert_adapters(model)
        if not self.learns:
            return model, Spent(), 0
        return model, *self._train(model, task, budget, seed)

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        config = self.model
        return bool(
            config.lora.rank
            or config.unfreeze
            or config.capl
            or config.full_finetuning
            or config.prompt_embedding != "frozen"
            or self.adapters
        )

    def _train(self, model: CpcSam, task: Task, budget: Budget, seed: int) -> tuple[Spent, int]:
        device = training_device()
        if self.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        state = new_bilevel_state(
            model,
            self.model,
            self.optimizer,
            seed=seed,
            bf16=is_mixed(self.precision, device),
            device=device,
            is_in_theta=is_in_theta,
        )
        batches = halves_of(task, model.image_size, self, seed)

        def train_step(halves: Halves, progress: float) -> dict[str, float]:
            # At progress 0 the warm-up's factor is 0, and the first step would learn nothing.
            state.set_learning_rates(self.optimizer, min(1.0, progress + 1e-3))
            return state.train_step(halves, self.bilevel)

        drawn = prefetch(batches, 0, self.workers, device)
        spent = train_within(budget, state, drawn, train_step, device)
        return spent, sum(parameter.numel() for parameter in state.trained.values())


@dataclass(frozen=True)
class _Mixed:
    """Halves of two runs of batches that differ in their prompts alone."""

    training: StepBatches
    held_out: StepBatches

    def __len__(self) -> int:
        return len(self.training)

    def __getitem__(self, index: int) -> Halves:
        return Halves(self.training[index].training, self.held_out[index].held_out)


def halves_of(task: Task, image_size: int, method: SamMethod, seed: int) -> Batches[Halves]:
    """The batches of a method: windows decided by seed and step, prompted as it says."""

    def prompted(prompting: Prompting) -> StepBatches:
        config = BatchConfig(
            images=method.images,
            entities=method.entities,
            groups=prompting.groups,
            styles=prompting.styles,
            augment=task.augment,
            # The held-out prompts may be careless; accurate ones would teach points nothing.
            practice_styles=method.held_out.styles,
        )
        needed = method.model.with_needed_practice(config)
        return StepBatches(task.train, image_size, needed, task.scale, seed=seed, steps=ENDLESS)

    if method.prompting == method.held_out:
        return prompted(method.prompting)
    return _Mixed(prompted(method.prompting), prompted(method.held_out))


def with_capl(method: SamMethod) -> SamMethod:
    """Plug CaPL into a method (Figure 13): θ learns as before, φ from K careless annotators."""
    # Steps between updates of φ gain nothing if θ does not learn.
    turns = CAPL_TURNS if method.learns else BilevelConfig()
    return replace(
        method,
        label=f"{method.label} + CaPL",
        model=replace(method.model, capl=FULL_CAPL),
        held_out=CARELESS,
        bilevel=turns,
    )


def _segmenter(model: CpcSam, task: Task, prompts: str) -> Segment:
    backend = TorchBackend(model)
    if prompts == "annotator":
        return lambda sample: segment_annotated(sample, backend, task.names, task.tile)
    examples = examples_of(task.support, task.names, backend, task.tile)
    return segmenter(backend, build_vocabulary(task.names, examples, model="", tile=task.tile))
