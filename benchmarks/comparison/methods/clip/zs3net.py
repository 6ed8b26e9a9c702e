"""ZS3Net (Bucher et al. 2019): a classifier that learns unseen classes from generated features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.budget import Budget, Spent
from benchmarks.comparison.methods.clip.lseg import pixel_targets, training_windows
from benchmarks.comparison.methods.clip.towers import ClipConfig, Words, words_of
from benchmarks.comparison.methods.fitting import fit_network, normalised, trained_parameters
from benchmarks.comparison.methods.interface import Fitted, Task
from benchmarks.comparison.methods.semantic import (
    ClassMaps,
    SemanticBatch,
    SemanticMethod,
    class_map_segmenter,
)
from training.loop.distributed import training_device

__all__ = ["Zs3Method", "Zs3Network", "feature_generator", "mean_discrepancy", "share_of"]

BANDWIDTHS: Final = (2, 5, 10, 20, 40, 80)
"""Of the Gaussian kernels: variances, in units of squared feature distance."""
DRAWN: Final = 128
"""Features of a class that a step compares or generates."""
STAGES: Final = (0.5, 0.25, 0.25)
"""Shares of the training: the network on seen classes, generator, classifier."""


def feature_generator(dim: int, width: int) -> nn.Sequential:
    """ZS3Net's generator: a text (d) and as much noise, (n, 2d), to pixel features (n, width)."""
    layers = [nn.Linear(2 * dim, 256), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(256, width)]
    return nn.Sequential(*layers)


def mean_discrepancy(generated: Tensor, real: Tensor) -> Tensor:
    """Maximum mean discrepancy (MMD) of two samples, (n, w) and (m, w), as GMMN minimises it."""
    both = torch.cat([generated, real])
    distance = (both[:, None] - both[None]).square().sum(2)
    kernels = [torch.exp(-distance / (2 * bandwidth)) for bandwidth in BANDWIDTHS]
    sign = torch.cat(
        [
            generated.new_full((len(generated),), 1 / len(generated)),
            generated.new_full((len(real),), -1 / len(real)),
        ]
    )
    return (sign @ torch.stack(kernels).sum(0) @ sign).clamp(min=1e-12).sqrt()


@dataclass(frozen=True)
class Zs3Method:
    """ZS3Net (Bucher et al. 2019): a classifier that learns unseen classes' generated features.

    Attributes:
        label: for tables.
        clip: texts, in place of word2vec.
        network: of the pixel features; DeepLabV3 in place of DeepLabV3+.
    """

    label: str
    clip: ClipConfig = field(default_factory=ClipConfig)
    network: SemanticMethod = field(
        default_factory=lambda: SemanticMethod("DeepLabV3", "deeplabv3")
    )

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Train network, generator and classifier one after another, within one budget."""
        device = training_device()
        torch.manual_seed(seed)
        seen, words = words_of(task, self.clip.load(device), self.clip)
        recipe = self.network
        parts = Zs3Network(recipe.network(1), seen, words).to(device).eval()
        spent = Spent()
        for stage, (trained, loss_of) in enumerate(parts.stages()):
            share = share_of(budget, stage)
            if share is None:
                continue
            # Each stage draws its own windows.
            windows = training_windows(
                task, seen, recipe.image_size, recipe.images, seed + 1000 * stage
            )
            used = fit_network(
                trained, loss_of, windows, share, recipe.optimizer, device, recipe.workers
            )
            spent = Spent(spent.steps + used.steps, spent.seconds + used.seconds)
        graphs = ClassMaps(parts.probabilities, recipe.image_size, device)
        return Fitted(class_map_segmenter(graphs, task), spent, trained_parameters(parts))


def share_of(budget: Budget, stage: int) -> Budget | None:
    """A stage's part of ZS3Net's budget; None where no step is left for it."""
    before, after = (sum(STAGES[:index]) for index in (stage, stage + 1))
    minutes = None if budget.minutes is None else budget.minutes * STAGES[stage]
    steps = None
    if budget.steps is not None:
        steps = math.ceil(budget.steps * after) - math.ceil(budget.steps * before)
    return None if steps == 0 else Budget(minutes, steps)


class Zs3Network(nn.Module):
    """ZS3Net's parts: pixel features, their generator, and the classifier.

    Columns of the classifier are the seen words, the words that only a text is known of, and the
    background.

    Args:
        network: of segmentation-models-pytorch, whose encoder and decoder are taken.
        seen: words to train with.
        words: to find.
    """

    def __init__(self, network: Any, seen: Words, words: Words) -> None:
        super().__init__()
        self.encoder, self.decoder = network.encoder, network.decoder
        width = network.segmentation_head[0].in_channels
        unseen = [index for index, known in enumerate(words.seen.tolist()) if not known]
        names = [*seen.names, *(words.names[index] for index in unseen)]
        self.texts = torch.cat([seen.texts[:-1], words.texts[unseen], seen.texts[-1:]])
        self.background = len(names)
        self.seen = [*range(len(seen.names)), self.background]
        self.unseen = range(len(seen.names), self.background)
        self.columns = [*(names.index(name) for name in words.names), self.background]
        self.generator = feature_generator(self.texts.shape[1], width)
        self.classifier = nn.Conv2d(width, len(names) + 1, 1)

    def stages(self) -> list[tuple[nn.Module, Callable[[SemanticBatch], Tensor]]]:
        """What learns in each stage, and by which loss."""
        return [
            (nn.ModuleList([self.encoder, self.decoder, self.classifier]), self.network_loss),
            (self.generator, self.generator_loss),
            (self.classifier, self.classifier_loss),
        ]

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 to (B, words to find, S, S)."""
        logits = self.classifier(self._features(images))[:, self.columns]
        return F.interpolate(logits, images.shape[-2:], mode="bilinear").softmax(1)[:, :-1]

    def network_loss(self, batch: SemanticBatch) -> Tensor:
        """Cross-entropy of the pixels over the seen words and the background."""
        logits = self.classifier(self._features(batch.image))[:, self.seen]
        shown = F.interpolate(logits, batch.image.shape[-2:], mode="bilinear")
        return F.cross_entropy(shown, pixel_targets(batch.masks))

    def generator_loss(self, batch: SemanticBatch) -> Tensor:
        """MMD of real and generated features, averaged over the words that the windows show."""
        losses = [
            mean_discrepancy(self.generate(column), real) for column, real in self._real(batch)
        ]
        return torch.stack(losses).mean()

    def classifier_loss(self, batch: SemanticBatch) -> Tensor:
        """Cross-entropy of real features of seen words, and of generated ones of the others."""
        drawn = self._real(batch)
        with torch.no_grad():
            drawn += [(column, self.generate(column)) for column in self.unseen]
        features = torch.cat([part for _, part in drawn])
        target = torch.cat([features.new_full((DRAWN,), c, dtype=torch.int64) for c, _ in drawn])
        return F.cross_entropy(self.classifier(features[..., None, None])[..., 0, 0], target)

    def generate(self, column: int) -> Tensor:
        """Generate features of a column's word, (DRAWN, w)."""
        text = self.texts[column].expand(DRAWN, -1)
        generated: Tensor = self.generator(torch.cat([text, torch.rand_like(text)], 1))
        return generated

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.decoder(self.encoder(normalised(images)))
        return features

    @torch.no_grad()
    def _real(self, batch: SemanticBatch) -> list[tuple[int, Tensor]]:
        """Columns that the windows show, with pixel features drawn of each, (DRAWN, w)."""
        features = self._features(batch.image)
        target = pixel_targets(batch.masks)[:, None].float()
        target = F.interpolate(target, features.shape[-2:], mode="nearest").flatten().long()
        pixels = features.movedim(1, -1).flatten(0, 2)
        drawn = []
        for row in target.unique().tolist():
            of_class = pixels[target == row]
            picked = torch.randint(len(of_class), (DRAWN,), device=of_class.device)
            drawn.append((self.seen[row], of_class[picked]))
        return drawn
