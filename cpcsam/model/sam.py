"""CPC-SAM: segment-anything's SAM composed with CaPL, as three functions with batched prompts.

The three methods of `CpcSam` are the three exported graphs; see `cpcsam.contract` for their
tensors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from cpcsam.contract import PointLabel
from cpcsam.model.capl import CaPL
from cpcsam.model.decoder import DecoderForm, DecoderTrace, decode_masks
from cpcsam.model.point_calibration import sample_embeddings

__all__ = ["CpcSam", "choose_calibrated"]


class CpcSam(nn.Module):
    """SAM with prompts calibrated by CaPL.

    Any SAM whose prompt encoder and decoder are segment-anything's can be given; `capl=None`
    computes exactly what the official model computes.

    Attributes:
        decoder_form: order of the decoder's products.
    """

    decoder_form: ClassVar[type[DecoderForm]] = DecoderForm

    def __init__(self, sam: Sam, capl: CaPL | None = None) -> None:
        super().__init__()
        self.sam = sam
        self.capl = capl

    @property
    def image_size(self) -> int:
        """Side S of the encoder's input in pixels."""
        return int(self.sam.image_encoder.img_size)

    def encode_image(self, image: Tensor, input_size: Tensor) -> Tensor:
        """Embed images (graph `image_encoder`).

        SAM pads after normalising, so everything beyond `input_size` is zeroed here, whatever
        the pixels hold.

        Args:
            image: (B, 3, S, S) uint8, RGB, resized and padded on the right and bottom.
            input_size: (B, 2) int32, (H, W) of the part that is not padding.

        Returns:
            image_embeddings (B, 256, G, G) float32.
        """
        normalized = (
            image.to(self.sam.pixel_mean.dtype) - self.sam.pixel_mean
        ) / self.sam.pixel_std
        position = torch.arange(self.image_size, device=image.device, dtype=input_size.dtype)
        rows = (position < input_size[:, :1]).to(normalized.dtype)
        columns = (position < input_size[:, 1:]).to(normalized.dtype)
        # (B, 1, S, S)
        inside = rows[:, None, :, None] * columns[:, None, None, :]
        return self.sam.image_encoder(normalized * inside)  # type: ignore[no-any-return]

    @property
    def calibrates(self) -> bool:
        """Whether prompts are calibrated, and the calibration can be switched off."""
        return self.capl is not None

    def embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Embed points and box corners as SAM does, without calibration.

        Args:
            point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
            point_labels: (B, P, N) int32, `PointLabel`; the embedding of an empty slot is unused.

        Returns:
            (B, P, N, 256).
        """
        prompt_encoder = self.sam.prompt_encoder
        # A coordinate names a pixel by its index; as in SAM, its centre lies half a pixel further.
        # In float32 also in mixed precision: bfloat16 cannot tell neighbouring pixels apart.
        with _in_full_precision(point_coords.device):
            positions = prompt_encoder.pe_layer._pe_encoding((point_coords + 0.5) / self.image_size)
        table = torch.cat([embedding.weight for embedding in prompt_encoder.point_embeddings])
        # The label -1 of an empty slot has no row: it reads row 0, and the token mask hides it.
        embedded: Tensor = positions + table[point_labels.clamp(min=0).long()]
        return embedded

    def calibrate_points(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        calibrate: Tensor | None = None,
    ) -> Tensor:
        """Move points to where an accurate annotator puts them, if CaPL has point calibration.

        Args:
            image_embeddings: (B, 256, G, G).
            point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
            point_labels: (B, P, N) int32, `PointLabel`.
            calibrate: (B, 1) float32, 1, or 0 to leave an image's points where they are; None
                calibrates all.

        Returns:
            (B, P, N, 2) float32, 0 in empty slots.
        """
        filled = (point_labels != PointLabel.EMPTY).unsqueeze(-1)
        # Selected, not multiplied: an empty slot may hold NaN, and NaN · 0 is NaN.
        point_coords = torch.where(filled, point_coords, 0.0)
        if self.capl is None or self.capl.task is None or self.capl.task.points is None:
            return point_coords
        moved: Tensor = self.capl.task.points(image_embeddings, point_coords, point_labels)
        return choose_calibrated(calibrate, moved, point_coords)

    def encode_prompts(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        calibrate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed and calibrate sparse prompts (graph `prompt_encoder`).

        Args:
            image_embeddings: (B, 256, G, G).
            point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
            point_labels: (B, P, N) int32, `PointLabel`; an empty slot's coordinates are ignored,
                even if they are not finite.
            calibrate: as of `calibrate_points`.

        Returns:
            sparse_embeddings (B, P, N+1, 256), of which the last slot is SAM's "not a point", and
            token_mask (B, P, N+1), 1 where a slot counts.
        """
        return self.calibrate_prompts(image_embeddings, point_coords, point_labels, calibrate)[:2]

    def calibrate_prompts(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        calibrate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode prompts as `encode_prompts`, and return the points as they were moved as well.

        Returns:
            sparse_embeddings, token_mask and calibrated_coords (B, P, N, 2) float32.
        """
        places = self.calibrate_points(image_embeddings, point_coords, point_labels, calibrate)
        encoded = self.encode_points(image_embeddings, places, point_labels, calibrate)
        return *encoded, places

    def encode_points(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        calibrate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed points that `calibrate_points` has moved; otherwise as `encode_prompts`."""
        filled = point_labels != PointLabel.EMPTY
        tokens = self.embed_points(point_coords, point_labels)
        if self.capl is not None and self.capl.task is not None and self.capl.task.sparse:
            at_points = sample_embeddings(image_embeddings, point_coords)
            tokens = choose_calibrated(calibrate, self.capl.task(tokens, at_points), tokens)
        batch, prompts = point_labels.shape[:2]
        not_a_point = self.sam.prompt_encoder.not_a_point_embed.weight.expand(batch, prompts, 1, -1)
        box = point_labels >= PointLabel.BOX_TOP_LEFT
        click = filled & ~box
        # SAM appends its "not a point" token to clicks without a box only.
        alone = click.any(-1, keepdim=True) & ~box.any(-1, keepdim=True)
        token_mask = torch.cat([filled, alone], dim=-1).to(tokens.dtype)
        return torch.cat([tokens, not_a_point.to(tokens.dtype)], dim=2), token_mask

    def encode_masks(self, mask_input: Tensor, calibrate: Tensor | None = None) -> Tensor:
        """Embed and calibrate mask prompts (graph `prompt_encoder_with_mask`).

        Args:
            mask_input: (B, P, 1, 4G, 4G) float32 logits.
            calibrate: as of `calibrate_points`.

        Returns:
            dense_embeddings (B, P, 256, G, G).
        """
        batch, prompts = mask_input.shape[:2]
        dense = self.sam.prompt_encoder.mask_downscaling(mask_input.flatten(0, 1))
        given, calibrated = (
            part.unflatten(0, (batch, prompts)) for part in (dense, self._calibrate_dense(dense))
        )
        return choose_calibrated(calibrate, calibrated, given)

    def no_mask_embedding(self, calibrate: Tensor | None = None) -> Tensor:
        """Return the dense embedding of "no mask", calibrated where `calibrate` says so.

        Returns:
            (1, 256, 1, 1), or (B, 256, 1, 1) with `calibrate`, which is as of `calibrate_points`.
        """
        given = self.sam.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        return choose_calibrated(calibrate, self._calibrate_dense(given), given)

    def image_pe(self) -> Tensor:
        """Return the positional encoding of the embedding grid, (1, 256, G, G)."""
        with _in_full_precision(self.sam.pixel_mean.device):
            return self.sam.prompt_encoder.get_dense_pe()  # type: ignore[no-any-return]

    def decode_masks(
        self,
        image_embeddings: Tensor,
        sparse_embeddings: Tensor,
        token_mask: Tensor,
        dense_embeddings: Tensor | None = None,
        trace: DecoderTrace | None = None,
        calibrate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks (graphs `mask_decoder` and `mask_decoder_with_mask`).

        Args:
            image_embeddings: (B, 256, G, G).
            sparse_embeddings: (B, P, N+1, 256).
            token_mask: (B, P, N+1).
            dense_embeddings: (B, P, 256, G, G) of mask prompts, or None.
            trace: filled with the tensors of Eq. 2, if given.
            calibrate: as of `calibrate_points`.

        Returns:
            low_res_masks (B, P, 4, 4G, 4G) logits and iou_predictions (B, P, 4).
        """
        if dense_embeddings is None:
            # (1 or B, 1, 256, 1, 1)
            dense_embeddings = self.no_mask_embedding(calibrate).unsqueeze(1)
        entity = None if self.capl is None else self.capl.entity
        return decode_masks(
            self.sam.mask_decoder,
            # (B, 1, 256, G, G) without mask prompts: all prompts then share the image side.
            image_embeddings.unsqueeze(1) + dense_embeddings,
            self.image_pe(),
            sparse_embeddings,
            token_mask,
            self.decoder_form(entity, trace, calibrate),
        )

    def _calibrate_dense(self, dense: Tensor) -> Tensor:
        if self.capl is None or self.capl.task is None:
            return dense
        return self.capl.task.calibrate_dense(dense)


def choose_calibrated(calibrate: Tensor | None, calibrated: Tensor, given: Tensor) -> Tensor:
    """Choose by each image's switch, (B, 1), a tensor (B or 1, ...) calibrated or as given."""
    if calibrate is None:
        return calibrated
    # Selected, not multiplied: either choice is exact to the bit.
    switch = calibrate.reshape(-1, *[1] * (calibrated.dim() - 1)) > 0.5
    return torch.where(switch, calibrated, given)


def _in_full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Leave mixed precision, if it is on, while the block runs."""
    kind = device.type  # "meta" has no mixed precision
    is_mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_mixed else nullcontext()
