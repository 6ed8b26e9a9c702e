"""Prompted segmentation of one image in Python, with segment-anything's `SamPredictor` API.

from cpcsam import CpcSamPredictor

predictor = CpcSamPredictor.from_pretrained("weights/vit_t")
predictor.set_image("cells.png")
masks, scores, _ = predictor.predict(point_coords=[[62, 76]], point_labels=[1])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpcsam.backends.protocol import Backend
from cpcsam.contract import LOW_RES_FACTOR, MASK_THRESHOLD, PointLabel, grid_size
from cpcsam.errors import ContractError
from cpcsam.geometry import EMPTY_BOX, Box
from cpcsam.images.options import Intensity
from cpcsam.images.reading import pixels_of
from cpcsam.model.loading import load_backend
from cpcsam.model.prompt_arrays import read_prompt, require_shape, require_within
from cpcsam.model.prompted_decoding import CalibratedPrompt, Decoded, decode_prompts
from cpcsam.model.tiled_image import TiledImage
from cpcsam.scale import Scale
from cpcsam.transforms import resize_coords

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["CpcSamPredictor"]

Array = NDArray[np.float32]


class CpcSamPredictor:
    """Segments one image by points, boxes and masks: the image, or each tile, is embedded once.

    If the model has CaPL, it calibrates the prompts.

    Attributes:
        backend: runs the model.
        scale: how much of an image the model is to be shown at once; None if it declares nothing.
        intensity: policy for images of more than 8 bits.
        original_size: (H, W) of the image that is set.
        input_size: (H, W) of it in the encoder's frame; None if it is shown in tiles.
        tile: part of the image in which `predict` answered its last prompt.
        calibrated_prompt: points and box of that prompt as the model took them, pixels of the
            image; None if it calibrates no prompts.
    """

    original_size: tuple[int, int] | None
    input_size: tuple[int, int] | None
    tile: Box
    calibrated_prompt: CalibratedPrompt | None
    _image: TiledImage | None

    def __init__(
        self, backend: Backend, scale: Scale | None = None, intensity: Intensity | None = None
    ) -> None:
        """Predict with a model that is loaded already.

        Args:
            backend: such as `TorchBackend(model)` or `OnnxBackend(path)`.
            scale: of the model; None shows it whole images.
            intensity: policy for images of more than 8 bits; None takes the default.
        """
        self.backend = backend
        self.scale = scale
        self.intensity = intensity
        self.reset_image()

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, base: str | Path | None = None, device: str = "cpu"
    ) -> CpcSamPredictor:
        """Load a model and make its predictor.

        Args:
            path: an official `sam_vit_{b,l,h}_*.pth`, or an artifact's directory: a base
                (`checkpoint`), a training run, a merged model, or exported ONNX graphs.
            base: where a run's base is now; None takes the path that the run recorded.
            device: of torch models, such as `cuda`; ONNX graphs run on the CPU.

        Raises:
            ArtifactError: missing, altered, or no model.
        """
        backend, scale = load_backend(Path(path), None if base is None else Path(base), device)
        return cls(backend, scale, Intensity.of_artifact(Path(path)))

    @property
    def is_image_set(self) -> bool:
        """Whether an image is set."""
        return self._image is not None

    def set_image(
        self,
        image: NDArray[np.uint8] | str | Path | Image.Image,
        tile_size: int | None = None,
        *,
        image_format: str = "RGB",
    ) -> None:
        """Embed an image; the prompts of the following calls refer to it.

        In tiles, `predict` answers each prompt as the service does: in the tile in which it lies
        most centrally, and in tiles of twice the side where that cuts the best mask off.

        Args:
            image: (H, W, 3) uint8 RGB, a Pillow image, or the path of an image file, which is
                turned upright by its EXIF orientation.
            tile_size: side of the tiles of a larger image, in pixels; 0 takes the whole image, None
                the window of the model's scale.
            image_format: order of an array's channels, RGB or BGR.

        Raises:
            ContractError: not such an array or order, or no readable image.
            OSError: the file cannot be read.
        """
        pixels = pixels_of(image, self.intensity, image_format)
        # First, so that an encoding that fails does not leave the previous image set.
        self.reset_image()
        if tile_size is None:
            tile_size = 0 if self.scale is None else self.scale.window or 0
        tiled = TiledImage(pixels, tile_size, self.backend)
        if not tiled.side:
            self.input_size = tiled.embed(tiled.whole)[1]
        self.original_size, self.tile, self._image = tiled.size, tiled.whole, tiled

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        calibrate: bool = True,
    ) -> tuple[NDArray[Any], Array, Array]:
        """Predict the masks of one prompt, as `SamPredictor.predict` does.

        Args:
            point_coords: (N, 2), (X, Y) pixels of the image.
            point_labels: (N,), 1 on the entity and 0 on the background.
            box: (4,) or (1, 4), XYXY pixels of the image.
            mask_input: (1, 4G, 4G) logits of the part `tile` of the image, such as the preceding
                call's low_res_masks; the prompt is answered there.
            multimask_output: return three masks, for ambiguous prompts, instead of one.
            return_logits: return logits instead of thresholded masks.
            calibrate: False takes the prompt as it is given, if the model calibrates prompts.

        Returns:
            masks (M, H, W) bool, or float32 logits, in the image, outside of `tile` -inf;
            iou_predictions (M,) float32; low_res_masks (M, 4G, 4G) float32 logits of `tile`. M is
            3 or 1.

        Raises:
            ContractError: no image is set, shapes that do not fit each other, a prompt outside of
                its mask_input, or a calibration that cannot be left out.
        """
        points, labels = read_prompt(point_coords, point_labels, box)
        image = self._require_image()
        if mask_input is not None:
            side = LOW_RES_FACTOR * grid_size(self.backend.image_size)
            mask_input = require_shape("mask_input", mask_input, (1, side, side))[None]
            if self.tile != image.whole:
                require_within(points, self.tile)
        else:
            self.tile = image.tile_around(points)
        while True:
            tile = self.tile
            frame_side = self.backend.image_size
            coords = resize_coords(points - (tile.left, tile.top), tile.size, frame_side)
            decoded = self._predict(
                coords[None], labels[None], mask_input, multimask_output, tile, calibrate
            )
            (logits,), (iou_predictions,), (low_res_masks,), _ = decoded
            masks = logits > MASK_THRESHOLD
            if mask_input is not None or not image.cuts(masks[iou_predictions.argmax()], tile):
                break
            self.tile = image.tile_around(points, side=2 * max(tile.size))
        self.calibrated_prompt = decoded.prompt(points, tile, box is not None, frame_side)
        part = logits if return_logits else masks
        if tile == image.whole:
            return part, iou_predictions, low_res_masks
        placed = np.full((len(part), *image.size), -np.inf if return_logits else False, part.dtype)
        placed[(slice(None), *tile.slices)] = part
        return placed, iou_predictions, low_res_masks

    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the masks of a batch of prompts, as `SamPredictor.predict_torch` does.

        Prompts are in the encoder's frame (`cpcsam.transforms.resize_coords` or
        segment-anything's `ResizeLongestSide`). Gradients are not tracked.

        Args:
            point_coords: (P, N, 2) float, (X, Y) pixels of the encoder's frame.
            point_labels: (P, N), 1 on the entity, 0 on the background, -1 for an empty slot.
            boxes: (P, 4) float, XYXY pixels of the encoder's frame.
            mask_input: (P, 1, 4G, 4G) float logits.
            multimask_output: return three masks a prompt instead of one.
            return_logits: return logits instead of thresholded masks.

        Returns:
            masks (P, M, H, W) bool, or float32 logits; iou_predictions (P, M) float32;
            low_res_masks (P, M, 4G, 4G) float32 logits; on the device of the prompts.

        Raises:
            ContractError: no image is set, it is shown in tiles, or there is no prompt.
        """
        import torch

        whole = self._require_whole("predict_torch")
        given = [part for part in (point_coords, boxes, mask_input) if part is not None]
        if not given:
            raise ContractError.of(
                "predict_torch", got="no prompt", expected="points, boxes or masks", fix="add one"
            )
        count, device = len(given[0]), given[0].device
        coords, labels = np.zeros((count, 0, 2)), np.zeros((count, 0))
        if point_coords is not None and point_labels is not None:
            coords, labels = point_coords.cpu().numpy(), point_labels.cpu().numpy()
        if boxes is not None:
            coords = np.concatenate([coords, boxes.cpu().numpy().reshape(-1, 2, 2)], axis=1)
            corners = np.tile([PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT], (count, 1))
            labels = np.concatenate([labels, corners], axis=1)
        mask = None if mask_input is None else mask_input.cpu().numpy()
        logits, *others, _ = self._predict(coords, labels, mask, multimask_output, whole.whole)
        masks, iou_predictions, low_res_masks = (
            torch.from_numpy(np.ascontiguousarray(output)).to(device)
            for output in (logits if return_logits else logits > MASK_THRESHOLD, *others)
        )
        return masks, iou_predictions, low_res_masks

    def get_image_embedding(self) -> Array:
        """Return the image's embeddings, (1, 256, G, G) float32.

        Raises:
            ContractError: no image is set, or it is shown in tiles.
        """
        image = self._require_whole("get_image_embedding")
        return image.embed(image.whole)[0]

    def reset_image(self) -> None:
        """Forget the image."""
        self.original_size = self.input_size = self._image = self.calibrated_prompt = None
        self.tile = EMPTY_BOX

    def _predict(
        self,
        point_coords: NDArray[Any],
        point_labels: NDArray[Any],
        mask_input: NDArray[Any] | None,
        multimask_output: bool,
        tile: Box,
        calibrate: bool = True,
    ) -> Decoded:
        """Decode prompts of a tile's frame, (P, N, 2), (P, N) and (P, 1, 4G, 4G), to its logits."""
        return decode_prompts(
            self.backend,
            self._require_image().embed(tile),
            tile.size,
            point_coords,
            point_labels,
            mask_input,
            multimask=multimask_output,
            calibrate=calibrate,
        )

    def _require_image(self) -> TiledImage:
        if self._image is None:
            raise ContractError.of(
                "predictor", got="no image", expected="an image", fix="call set_image first"
            )
        return self._image

    def _require_whole(self, what: str) -> TiledImage:
        image = self._require_image()
        if image.side:
            raise ContractError.of(
                what,
                got=f"an image in tiles of {image.side} pixels",
                expected="a whole image",
                fix="set a part of the image, of that side, or pass tile_size=0 to set_image",
            )
        return image
