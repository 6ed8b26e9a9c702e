"""Torch modules of the contract's five graphs, and random inputs for parity tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from cpcsam.contract import LOW_RES_FACTOR, GraphSpec, PointLabel, graphs_of, grid_size
from cpcsam.model.sam import CpcSam

__all__ = [
    "GraphModule",
    "draw_images",
    "draw_prompts",
    "relative_difference",
    "run_graphs",
]

Outputs = tuple[Tensor, ...]


def _image_encoder(model: CpcSam, image: Tensor, input_size: Tensor) -> Outputs:
    return (model.encode_image(image, input_size),)


# `calibrate` is the last input of the graphs of a model that calibrates, and absent of others.
def _prompt_encoder(model: CpcSam, *inputs: Tensor) -> Outputs:
    encoded = model.calibrate_prompts(*inputs)
    return encoded if len(inputs) > 3 else encoded[:2]


def _prompt_encoder_with_mask(
    model: CpcSam,
    image_embeddings: Tensor,
    coords: Tensor,
    labels: Tensor,
    mask_input: Tensor,
    *calibrate: Tensor,
) -> Outputs:
    encoded = _prompt_encoder(model, image_embeddings, coords, labels, *calibrate)
    return *encoded[:2], model.encode_masks(mask_input, *calibrate), *encoded[2:]


def _mask_decoder(
    model: CpcSam, image_embeddings: Tensor, sparse: Tensor, token_mask: Tensor, *calibrate: Tensor
) -> Outputs:
    return _mask_decoder_with_mask(model, image_embeddings, sparse, token_mask, None, *calibrate)


def _mask_decoder_with_mask(
    model: CpcSam,
    image_embeddings: Tensor,
    sparse: Tensor,
    token_mask: Tensor,
    dense: Tensor | None,
    calibrate: Tensor | None = None,
) -> Outputs:
    return model.decode_masks(image_embeddings, sparse, token_mask, dense, calibrate=calibrate)


FORWARDS: Final[Mapping[str, Callable[..., Outputs]]] = {
    "image_encoder": _image_encoder,
    "prompt_encoder": _prompt_encoder,
    "prompt_encoder_with_mask": _prompt_encoder_with_mask,
    "mask_decoder": _mask_decoder,
    "mask_decoder_with_mask": _mask_decoder_with_mask,
}


class GraphModule(nn.Module):
    """A graph of the contract as a module: inputs and outputs in the contract's order."""

    def __init__(self, model: CpcSam, graph: GraphSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = graph

    def forward(self, *inputs: Tensor) -> Outputs:
        """Run the graph; names and shapes are those of `cpcsam.contract`."""
        return FORWARDS[self.spec.name](self.model, *inputs)


@torch.no_grad()
def run_graphs(model: CpcSam, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run all graphs in the contract's order, each on the outputs of the graphs before it.

    Args:
        model: plain, fused or traceable.
        tensors: the inputs that no graph produces, by name.

    Returns:
        Every output, keyed by `graph/output`.
    """
    known = dict(tensors)
    results: dict[str, Tensor] = {}
    for graph in graphs_of(model.calibrates):
        outputs = GraphModule(model, graph)(*(known[name] for name in graph.input_names))
        for name, output in zip(graph.output_names, outputs, strict=True):
            known[name] = results[f"{graph.name}/{name}"] = output
    return results


def draw_images(image_size: int, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw image (B, 3, S, S) uint8 and input_size (B, 2) int32, the first square, others oblong.

    Pixels beyond input_size are noise as well: a graph that reads them fails the comparison.
    """
    image = torch.randint(
        0, 256, (batch, 3, image_size, image_size), generator=generator, dtype=torch.uint8
    )
    input_size = torch.full((batch, 2), image_size, dtype=torch.int32)
    for index in range(1, batch):
        short = torch.randint(image_size // 3, image_size, (), generator=generator)
        input_size[index, index % 2] = short
    return {"image": image, "input_size": input_size}


def draw_prompts(
    image_size: int, batch: int, prompts: int, points: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw prompts of every kind: clicks, boxes, both, with random empty slots.

    Empty slots hold garbage coordinates, some of them infinite or NaN; some prompts are entirely
    empty, like padding.

    Returns:
        point_coords (B, P, N, 2) float32, (X, Y) in pixels of the encoder's frame; point_labels
        (B, P, N) int32; mask_input (B, P, 1, 4G, 4G) float32 logits; calibrate (B, 1) float32, 1
        for the first image and 0 for every second.
    """
    shape = (batch, prompts, points)

    def chance(probability: float, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    labels = torch.randint(
        PointLabel.BACKGROUND, PointLabel.FOREGROUND + 1, shape, generator=generator
    )
    if points > 1:
        corners = torch.tensor([PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT])
        box = chance(0.5, (batch, prompts, 1))
        labels[..., :2] = torch.where(box, corners, labels[..., :2])
        labels[..., 2:][chance(0.5, (batch, prompts, points - 2))] = PointLabel.EMPTY
    labels[chance(0.15, (batch, prompts))] = PointLabel.EMPTY
    coords = image_size * torch.rand((*shape, 2), generator=generator)
    # A graph that reads coordinates of empty slots would spread these values.
    garbage = torch.tensor([-1e6, 1e6, torch.inf, torch.nan])
    choice = torch.randint(0, len(garbage), (*shape, 2), generator=generator)
    empty = (labels == PointLabel.EMPTY).unsqueeze(-1)
    side = LOW_RES_FACTOR * grid_size(image_size)
    return {
        "point_coords": torch.where(empty, garbage[choice], coords),
        "point_labels": labels.int(),
        "mask_input": 4 * torch.randn(batch, prompts, 1, side, side, generator=generator),
        "calibrate": (torch.arange(batch) % 2 == 0).float().unsqueeze(1),
    }


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute expected value.

    NaN in either tensor gives NaN, which no tolerance accepts.
    """
    difference = float((actual.double() - expected.double()).abs().max())
    largest = float(expected.abs().max())
    return difference / largest if largest > 0 else difference
