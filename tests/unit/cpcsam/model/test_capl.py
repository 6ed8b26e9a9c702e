"""CaPL attaches to any SAM whose decoder is SAM's, as the identity, and spares self-attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from cpcsam.contract import EMBED_DIM, LOW_RES_FACTOR, PATCH_SIZE, grid_size
from cpcsam.model.build_sam import build_sam_with
from cpcsam.model.capl import FULL_CAPL, CaPL, CaplConfig
from cpcsam.model.fusion import fuse
from cpcsam.model.lora import LoraConfig
from cpcsam.model.sam import CpcSam
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, shallow_encoder
from tests.support.training_factory import MINIATURE, tiny_halves
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.step import BilevelConfig
from training.bilevel.train_state import new_bilevel_state

KINDS = ["points", "boxes", "masks", "all"]


class ConvolutionalEncoder(nn.Module):
    """An image encoder that is no ViT; all that SAM asks of it is `img_size` and the output."""

    def __init__(self, img_size: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 4, stride=4), nn.GELU(), nn.Conv2d(16, EMBED_DIM, 4, stride=4)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Embed (B, 3, S, S)."""
        embeddings: Tensor = self.layers(image)
        return embeddings


def vit_b_block() -> ImageEncoderViT:
    """ViT-B as SAM has it, windows and relative positions included, cut to its first block."""
    return ImageEncoderViT(
        img_size=MINIATURE,
        patch_size=PATCH_SIZE,
        embed_dim=768,
        depth=1,
        num_heads=12,
        out_chans=EMBED_DIM,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(),
    )


ENCODERS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "convolutional": (lambda: ConvolutionalEncoder(MINIATURE), ()),
    "vit_b block": (vit_b_block, ("qkv",)),
}


def foreign_sam(encoder: str) -> CpcSam:
    """SAM's prompt encoder and decoder behind another image encoder, all of it noise."""
    torch.manual_seed(0)
    sam = build_sam_with(shallow_encoder("vit_t"), MINIATURE)
    sam.image_encoder = ENCODERS[encoder][0]()
    fill_with_noise(sam, seed=0)
    return CpcSam(sam.eval())


@torch.no_grad()
def embed(model: CpcSam) -> Tensor:
    """Embeddings of two images."""
    generator = torch.Generator().manual_seed(5)
    shape = (2, 3, MINIATURE, MINIATURE)
    image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return model.encode_image(image, torch.tensor([[MINIATURE] * 2, [50, MINIATURE]]).int())


@torch.no_grad()
def outputs(model: CpcSam, kind: str, embeddings: Tensor) -> list[Tensor]:
    """Masks and IoU of two images with three prompts each."""
    generator = torch.Generator().manual_seed(6)
    coords = MINIATURE * torch.rand(2, 3, 4, 2, generator=generator)
    labels = {
        "points": [1, 0, -1, -1],
        "boxes": [2, 3, -1, -1],
        "masks": [-1, -1, -1, -1],
        "all": [2, 3, 1, 0],
    }[kind]
    point_labels = torch.tensor(labels, dtype=torch.int32).expand(2, 3, 4)
    side = LOW_RES_FACTOR * grid_size(MINIATURE)
    mask_input = 4 * torch.randn(2, 3, 1, side, side, generator=generator)
    sparse, token_mask = model.encode_prompts(embeddings, coords, point_labels)
    dense = model.encode_masks(mask_input) if kind in ("masks", "all") else None
    return [*model.decode_masks(embeddings, sparse, token_mask, dense)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        FULL_CAPL,
        replace(FULL_CAPL, image_conditioned=False),
        replace(FULL_CAPL, entity=False),
        replace(FULL_CAPL, task=False),
        replace(FULL_CAPL, moves_points=False),
    ],
    ids=["both", "literal", "task", "entity", "fixed points"],
)
def test_an_untrained_capl_changes_not_one_bit(config: CaplConfig, kind: str) -> None:
    model = foreign_sam("convolutional")
    before = outputs(model, kind, embed(model))
    model.capl = CaPL(config).eval()
    for found, expected in zip(outputs(model, kind, embed(model)), before, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config", [replace(FULL_CAPL, entity=False), replace(FULL_CAPL, task=False)]
)
def test_a_trained_one_changes_every_kind_of_prompt(config: CaplConfig, kind: str) -> None:
    model = foreign_sam("convolutional")
    embeddings = embed(model)
    before = outputs(model, kind, embeddings)
    model.capl = CaPL(config).eval()
    fill_with_noise(model.capl, seed=1, scale=0.1)
    for found, expected in zip(outputs(model, kind, embeddings), before, strict=True):
        assert (found - expected).abs().max() > 1e-4 * expected.abs().max()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_capl_attaches_trains_and_fuses_with_any_encoder(encoder: str) -> None:
    model = foreign_sam(encoder)
    embeddings = embed(model)
    plain = {kind: outputs(model, kind, embeddings) for kind in KINDS}
    lora = LoraConfig(encoder_modules=ENCODERS[encoder][1])
    state = new_bilevel_state(
        model, ModelConfig(lora=lora), OptimizerConfig(lr=1e-3, lr_capl=1e-2), seed=0, bf16=False
    )
    embeddings = embed(model)
    for kind, expected in plain.items():
        for found, wanted in zip(outputs(model, kind, embeddings), expected, strict=True):
            assert torch.allclose(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
    calibrating = {**state.phi.parameters, **state.points.parameters}
    before = {name: p.detach().clone() for name, p in calibrating.items()}
    for _ in range(2):  # the first step moves the zero side alone
        state.train_step(tiny_halves(), BilevelConfig())
    for name, parameter in calibrating.items():
        assert not torch.equal(parameter, before[name]), name
    fused = fuse(model)
    embeddings, fused_embeddings = embed(model), embed(fused)
    for kind in KINDS:
        trained = outputs(model, kind, embeddings)
        for found, expected, untrained in zip(
            outputs(fused, kind, fused_embeddings), trained, plain[kind], strict=True
        ):
            largest = expected.abs().max()
            assert (found - expected).abs().max() <= 1e-5 * largest
            assert (expected - untrained).abs().max() > 1e-3 * largest


def calls(model: CpcSam, part: str) -> list[tuple[Attention, dict[str, Tensor], Tensor]]:
    """Run a prompt; return each attention's module, its inputs q, k, v and what it gave out."""
    found = []
    hooks = []
    for layer in model.sam.mask_decoder.transformer.layers:
        attention = getattr(layer, part)
        seen: dict[str, Tensor] = {}
        found.append((attention, seen))
        for name in ("q_proj", "k_proj", "v_proj"):

            def keep_input(
                _: nn.Module, given: tuple[Tensor], seen: dict[str, Tensor] = seen, name: str = name
            ) -> None:
                seen[name[0]] = given[0]

            hooks.append(getattr(attention, name).register_forward_pre_hook(keep_input))

        def keep_output(
            _: nn.Module, __: object, out: Tensor, seen: dict[str, Tensor] = seen
        ) -> None:
            seen["out"] = out

        hooks.append(attention.out_proj.register_forward_hook(keep_output))
    generator = torch.Generator().manual_seed(6)
    embeddings = torch.randn(1, EMBED_DIM, 16, 16, generator=generator)
    coords = 256 * torch.rand(1, 2, 3, 2, generator=generator)
    clicks = torch.tensor([[[1, 0, 1], [1, 1, 1]]], dtype=torch.int32)
    model.decode_masks(embeddings, *model.encode_prompts(embeddings, coords, clicks))
    for hook in hooks:
        hook.remove()
    return [(attention, seen, seen.pop("out")) for attention, seen in found]


def distance_to_official(attention: Attention, given: dict[str, Tensor], out: Tensor) -> float:
    """How far an attention's output is from segment-anything's own on the same inputs."""
    prompts = out.shape[1]
    flat = {name: x.expand(-1, prompts, -1, -1).flatten(0, 1) for name, x in given.items()}
    expected = attention(**flat).unflatten(0, out.shape[:2])
    return float((out - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_the_calibration_never_enters_the_logits_between_prompt_tokens() -> None:
    model = noisy_cpcsam()
    for call in calls(model, "self_attn"):
        assert distance_to_official(*call) <= 1e-6
    for part in ("cross_attn_token_to_image", "cross_attn_image_to_token"):
        for call in calls(model, part):
            assert distance_to_official(*call) > 1e-3, "the cross-attentions are calibrated"
