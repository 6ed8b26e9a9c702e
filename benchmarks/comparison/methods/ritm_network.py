"""RITM's network: clicks as disks and the previous mask, added to the stem of DeepLabV3+."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.comparison.methods.clicks import Click
from benchmarks.comparison.methods.fitting import normalised

__all__ = ["RADIUS", "RitmNetwork", "disks_of", "normalised_focal_loss"]

RADIUS: Final = 5
"""Of the disks that clicks are encoded by, pixels of the network's input."""
MAPS: Final = 3
"""Previous mask, positive and negative clicks."""
HIDDEN: Final = 16
FIRST_SCALE: Final = 0.05
"""What the clicks' features are scaled by at first; it is learned."""
FOCAL_WEIGHT: Final = 0.5
FOCAL_GAMMA: Final = 2


class RitmNetwork(nn.Module):
    """DeepLabV3+ whose stem's output the features of clicks and mask are added to (Conv1S).

    Args:
        encoder: a ResNet of segmentation-models-pytorch.
        encoder_weights: None starts from scratch; other values download weights.
    """

    def __init__(self, encoder: str, encoder_weights: str | None) -> None:
        import segmentation_models_pytorch as library  # it takes seconds to import

        super().__init__()
        self.backbone = library.DeepLabV3Plus(encoder, encoder_weights=encoder_weights)
        width = self.backbone.encoder.conv1.out_channels
        self.maps = nn.Sequential(
            nn.Conv2d(MAPS, HIDDEN, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(HIDDEN, width, 3, stride=2, padding=1),
        )
        self.scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def forward(self, image: Tensor, previous: Tensor, disks: Tensor) -> Tensor:
        """Predict the entity that clicks indicate.

        Args:
            image: (B, 3, S, S) uint8.
            previous: (B, 1, S, S), the last answer's probabilities; zeros without one.
            disks: (B, 2, S, S), of `disks_of`.

        Returns:
            (B, 1, S, S) logits.
        """
        encoder, shown = self.backbone.encoder, normalised(image)
        x = encoder.relu(encoder.bn1(encoder.conv1(shown)))
        x = x + self.scale.abs() * self.maps(torch.cat([previous, disks], 1))
        features = [shown, x]
        x = encoder.maxpool(x)
        for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
            x = layer(x)
            features.append(x)
        logits: Tensor = self.backbone.segmentation_head(self.backbone.decoder(features))
        return logits


def disks_of(clicks: Sequence[Sequence[Click]], side: int, device: torch.device) -> Tensor:
    """Draw clicks as disks.

    Args:
        clicks: of every image, in pixels of the network's input.
        side: S of the input.
        device: of the result.

    Returns:
        (B, 2, S, S) float32 of 0 and 1: positive clicks, then negative ones.
    """
    disks = torch.zeros(len(clicks), 2, side, side, device=device)
    places = torch.arange(side, dtype=torch.float32, device=device)
    for index, of_image in enumerate(clicks):
        for click in of_image:
            distance = (places[:, None] - click.y) ** 2 + (places - click.x) ** 2
            disks[index, 0 if click.positive else 1][distance <= RADIUS**2] = 1
    return disks


def normalised_focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute the normalised focal loss: focal weights whose mean over the image is kept at 1.

    Args:
        logits: (B, 1, S, S).
        truth: (B, 1, S, S) bool.

    Returns:
        Mean over images and pixels, a scalar.
    """
    logits, target = logits.float(), truth.float()
    weights = (logits.sigmoid() - target).abs() ** FOCAL_GAMMA
    # Detached, as published: the norm itself has no gradient.
    norm = weights.mean((-2, -1), keepdim=True).detach() + 1e-12
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (FOCAL_WEIGHT * weights / norm * cross_entropy).mean()
