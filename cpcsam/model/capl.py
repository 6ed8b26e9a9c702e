"""The Causal Prompt Learner (CaPL): a task module on prompt tokens, an entity module on attention.

Both are zero-initialised: the last layer of every calibrating network is zero, so an untrained CaPL
is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from cpcsam.checks import require_range
from cpcsam.contract import EMBED_DIM
from cpcsam.model.gated_points import GatedPointCalibration
from cpcsam.model.point_calibration import PointCalibration, start_at_zero

__all__ = [
    "FULL_CAPL",
    "NUM_SITES",
    "CaPL",
    "CaplConfig",
    "EntityModule",
    "SiteCalibration",
    "TaskModule",
    "separate_heads",
]

NUM_SITES: Final = 5
"""Cross-attentions of SAM's decoder: token→image and image→token twice, then the final one."""


@dataclass(frozen=True)
class CaplConfig:
    """Configuration of CaPL: by default the part that earns its cost, point calibration.

    Attributes:
        task: calibrate prompts (§4.1, Eq. 1).
        entity: calibrate cross-attention logits (§4.1, Eq. 2).
        reweights: the task module calibrates prompt embeddings, w ⊙ P + v.
        moves_points: the task module moves points to where an accurate annotator puts them.
        point_form: `gated` leaves points that are accurate already; `offset` moves all, as models
            do whose manifest has no such entry.
        image_conditioned: let the task module see the image embedding at the prompt's point;
            False is the paper's literal form, prompts alone.
        hidden_dim: width of the hidden layer of every 2-layer MLP.
        rank: channels r a head of the low-rank logit calibration.
    """

    task: bool = True
    entity: bool = False
    reweights: bool = False
    moves_points: bool = True
    point_form: Literal["gated", "offset"] = "gated"
    image_conditioned: bool = True
    hidden_dim: int = 128
    rank: int = 8

    def __post_init__(self) -> None:
        """Refuse networks without channels."""
        for name in ("hidden_dim", "rank"):
            require_range(f"model.capl.{name}", getattr(self, name), 1)


FULL_CAPL: Final = CaplConfig(entity=True, reweights=True)
"""Every part: both modules of the paper, and point calibration."""


class TaskModule(nn.Module):
    """Task causal module (§4.1): P̃ = w ⊙ P + v with (w − 1, v) = MLP([P ; e(x)]).

    Attributes:
        points: moves the points that P and e(x) are taken at; None if they stay.
        sparse: network of w and v; None leaves prompt embeddings as they are.
        dense: the same for mask prompts.
    """

    def __init__(self, config: CaplConfig) -> None:
        super().__init__()
        hidden_dim = config.hidden_dim
        form = GatedPointCalibration if config.point_form == "gated" else PointCalibration
        self.points = form(hidden_dim) if config.moves_points else None
        self.image_conditioned = config.image_conditioned
        self.sparse: nn.Sequential | None = None
        self.dense: nn.Sequential | None = None
        if config.reweights:
            inputs = 2 * EMBED_DIM if config.image_conditioned else EMBED_DIM
            self.sparse = nn.Sequential(
                nn.Linear(inputs, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, 2 * EMBED_DIM)
            )
            self.dense = nn.Sequential(
                nn.Conv2d(EMBED_DIM, hidden_dim, 1),
                nn.GELU(),
                nn.Conv2d(hidden_dim, 2 * EMBED_DIM, 1),
            )
            start_at_zero(self.sparse)
            start_at_zero(self.dense)

    def weights(self, tokens: Tensor, embeddings_at_points: Tensor) -> tuple[Tensor, Tensor]:
        """Return (w − 1, v) for prompt tokens.

        Args:
            tokens: (B, P, N, 256), prompt embeddings P.
            embeddings_at_points: (B, P, N, 256), e(x); unused in the literal form.

        Returns:
            Two (B, P, N, 256) tensors, zero before training and without `reweights`.
        """
        if self.sparse is None:
            return torch.zeros_like(tokens), torch.zeros_like(tokens)
        inputs = torch.cat([tokens, embeddings_at_points], -1) if self.image_conditioned else tokens
        weight_change, shift = self.sparse(inputs).chunk(2, dim=-1)
        return weight_change, shift

    def forward(self, tokens: Tensor, embeddings_at_points: Tensor) -> Tensor:
        """Calibrate prompt tokens; shapes as in `weights`."""
        if self.sparse is None:
            return tokens
        weight_change, shift = self.weights(tokens, embeddings_at_points)
        # The network predicts w − 1: while its output is zero, P̃ is P to the bit.
        calibrated: Tensor = tokens + weight_change * tokens + shift
        return calibrated

    def calibrate_dense(self, dense_embeddings: Tensor) -> Tensor:
        """Calibrate mask prompts, (B, 256, H, W), by 1×1 convolutions (Appendix D)."""
        if self.dense is None:
            return dense_embeddings
        weight_change, shift = self.dense(dense_embeddings).chunk(2, dim=1)
        calibrated: Tensor = dense_embeddings + weight_change * dense_embeddings + shift
        return calibrated


def separate_heads(x: Tensor, num_heads: int) -> Tensor:
    """Reshape (..., T, heads · d) to (..., heads, T, d)."""
    per_head: Tensor = x.unflatten(-1, (num_heads, -1))
    # An exported attention needs q, k and v contiguous.
    return per_head.transpose(-2, -3).contiguous()


class SiteCalibration(nn.Module):
    """Low-rank calibration C = G Hᵀ of one cross-attention's logits (§4.1).

    G is a 2-layer MLP on the attention's token input, H a linear map of its image input. G starts
    at zero and H at random: both at zero would never train.
    """

    def __init__(self, num_heads: int, rank: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.token_mlp = nn.Sequential(
            nn.Linear(EMBED_DIM, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, num_heads * rank)
        )
        self.image_proj = nn.Linear(EMBED_DIM, num_heads * rank, bias=False)
        start_at_zero(self.token_mlp)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Return C.

        Args:
            tokens: (B, P, T, 256), the live token input, `queries + query_pe`.
            image: (B, P or 1, G·G, 256), the image input, `keys + key_pe`.

        Returns:
            (B, P, heads, T, G·G), added to the scaled attention logits.
        """
        token_side = separate_heads(self.token_mlp(tokens), self.num_heads)
        image_side = separate_heads(self.image_proj(image), self.num_heads)
        # (B, P, heads, T, r) @ (B, P or 1, heads, r, G·G)
        return token_side @ image_side.transpose(-1, -2)


class FusedAttention(nn.Module):
    """A cross-attention with its calibration fused in: r more channels a head.

    H is part of the image side's projection; √d · G is `token_mlp`, concatenated to the token
    side's projection. The scale stays 1/√d of the original head width, which `v_proj` keeps.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        rank: int,
        hidden_dim: int,
        tokens_are_queries: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        wide, narrow = num_heads * (head_dim + rank), num_heads * head_dim
        self.q_proj = nn.Linear(embed_dim, narrow if tokens_are_queries else wide)
        self.k_proj = nn.Linear(embed_dim, wide if tokens_are_queries else narrow)
        self.v_proj = nn.Linear(embed_dim, narrow)
        self.out_proj = nn.Linear(narrow, embed_dim)
        self.token_mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, num_heads * rank)
        )


class EntityModule(nn.Module):
    """Entity causal module (§4.1): one `SiteCalibration` for each of the decoder's five sites."""

    def __init__(self, num_heads: int, rank: int, hidden_dim: int) -> None:
        super().__init__()
        self.sites = nn.ModuleList(
            SiteCalibration(num_heads, rank, hidden_dim) for _ in range(NUM_SITES)
        )


class CaPL(nn.Module):
    """The causal prompt learner, parameters φ; either module may be left out."""

    def __init__(self, config: CaplConfig, num_heads: int = 8) -> None:
        super().__init__()
        self.config = config
        self.task = TaskModule(config) if config.task else None
        self.entity = (
            EntityModule(num_heads, config.rank, config.hidden_dim) if config.entity else None
        )
