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

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.backends.protocol import Backend
from cpcsam.contract import (
    LOW_RES_FACTOR,
    MASK_THRESHOLD,
    MULTIMASK,
    SINGLE_MASK,
    PointLabel,
    grid_size,
)
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.transforms import decode_image, resize_coords, to_frame, upscale_masks

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["CpcSamPredictor"]

Array = NDArray[np.float32]


class CpcSamPredictor:
    """Segments one image by points, boxes and masks: the image is embedded once.

    If the model has CaPL, it calibrates the prompts.

    Attributes:
        backend: runs the model.
        original_size: (H, W) of the image that is set.
        input_size: (H, W) of it in the encoder's frame.
        is_image_set: whether an image is set.
    """

    original_size: tuple[int, int] | None
    input_size: tuple[int, int] | None
    is_image_set: bool
    _image_embeddings: Array

    def __init__(self, backend: Backend) -> None:
        """Predict with a model that is loaded already.

        Args:
            backend: such as `TorchBackend(model)` or `OnnxBackend(path)`.
        """
        self.backend = backend
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
        from cpcsam.backends.onnx_backend import OnnxBackend

        path = Path(path)
        # Unverified, because whichever loader follows verifies the digests.
        kind = read_manifest(path, verify=False).kind if path.is_dir() else "checkpoint"
        if kind == "onnx":
            return cls(OnnxBackend(path))
        return cls(_torch_backend(path, kind, None if base is None else Path(base), device))

    def set_image(self, image: NDArray[np.uint8] | str | Path | Image.Image) -> None:
        """Embed an image; the prompts of the following calls refer to it.

        Args:
            image: (H, W, 3) uint8 RGB, a Pillow image, or the path of an image file, which is
                turned upright by its EXIF orientation.

        Raises:
            ContractError: not such an array, or no readable image.
            OSError: the file cannot be read.
        """
        pixels = _pixels(image)
        # First, so that an encoding that fails does not leave the previous image set.
        self.reset_image()
        frame, input_size = to_frame(pixels, self.backend.image_size)
        self._image_embeddings = self.backend.encode(frame[None], np.array([input_size], np.int32))
        self.original_size, self.input_size = (pixels.shape[0], pixels.shape[1]), input_size
        self.is_image_set = True

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], Array, Array]:
        """Predict the masks of one prompt, as `SamPredictor.predict` does.

        Args:
            point_coords: (N, 2), (X, Y) pixels of the image.
            point_labels: (N,), 1 on the entity and 0 on the background.
            box: (4,), XYXY pixels of the image.
            mask_input: (1, 4G, 4G) logits, such as an earlier call's low_res_masks.
            multimask_output: return three masks, for ambiguous prompts, instead of one.
            return_logits: return logits instead of thresholded masks.

        Returns:
            masks (M, H, W) bool, or float32 logits, in the image; iou_predictions (M,) float32;
            low_res_masks (M, 4G, 4G) float32 logits. M is 3 or 1.

        Raises:
            ContractError: no image is set, or shapes that do not fit each other.
        """
        points, labels = _points(point_coords, point_labels)
        corners = np.zeros((0, 2)) if box is None else _shaped("box", box, (4,)).reshape(2, 2)
        points = resize_coords(
            np.concatenate([points, corners]), self._sizes()[0], self.backend.image_size
        )
        box_labels = (PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT)
        labels = np.concatenate([labels, [] if box is None else box_labels])
        if mask_input is not None:
            side = LOW_RES_FACTOR * grid_size(self.backend.image_size)
            mask_input = _shaped("mask_input", mask_input, (1, side, side))[None]
        masks, iou_predictions, low_res_masks = self._predict(
            points[None], labels[None], mask_input, multimask_output, return_logits
        )
        return masks[0], iou_predictions[0], low_res_masks[0]

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
            ContractError: no image is set, or no prompt.
        """
        import torch

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
        outputs = self._predict(
            coords,
            labels,
            None if mask_input is None else mask_input.cpu().numpy(),
            multimask_output,
            return_logits,
        )
        masks, iou_predictions, low_res_masks = (
            torch.from_numpy(np.ascontiguousarray(output)).to(device) for output in outputs
        )
        return masks, iou_predictions, low_res_masks

    def get_image_embedding(self) -> Array:
        """Return the image's embeddings, (1, 256, G, G) float32.

        Raises:
            ContractError: no image is set.
        """
        self._sizes()
        return self._image_embeddings

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.original_size = self.input_size = None
        self._image_embeddings = np.zeros((0, 0, 0, 0), np.float32)

    def _predict(
        self,
        point_coords: NDArray[Any],
        point_labels: NDArray[Any],
        mask_input: NDArray[Any] | None,
        multimask_output: bool,
        return_logits: bool,
    ) -> tuple[NDArray[Any], Array, Array]:
        """Decode prompts of the encoder's frame, (P, N, 2), (P, N) and (P, 1, 4G, 4G)."""
        original_size, input_size = self._sizes()
        if not point_labels.shape[1]:  # the graphs take at least one slot
            point_coords = np.zeros((len(point_labels), 1, 2))
            point_labels = np.full((len(point_labels), 1), PointLabel.EMPTY)
        low_res_masks, iou_predictions = self.backend.decode(
            self._image_embeddings,
            np.ascontiguousarray(point_coords, np.float32)[None],
            np.ascontiguousarray(point_labels, np.int32)[None],
            None if mask_input is None else np.ascontiguousarray(mask_input, np.float32)[None],
        )
        chosen = MULTIMASK if multimask_output else SINGLE_MASK
        low_res_masks, iou_predictions = low_res_masks[0, :, chosen], iou_predictions[0, :, chosen]
        logits = upscale_masks(low_res_masks, input_size, original_size, self.backend.image_size)
        masks = logits if return_logits else logits > MASK_THRESHOLD
        return masks, iou_predictions, low_res_masks

    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        if self.original_size is None or self.input_size is None:
            raise ContractError.of(
                "predictor", got="no image", expected="an image", fix="call set_image first"
            )
        return self.original_size, self.input_size


def _torch_backend(path: Path, kind: str, base: Path | None, device: str) -> Backend:
    # Imported here, as ONNX graphs run without torch.
    from cpcsam.model.base_checkpoint import load_base
    from cpcsam.model.run_checkpoint import load_merged, load_run
    from cpcsam.model.torch_backend import TorchBackend

    if kind == "run":
        model = load_run(path, base)
    else:
        model = load_merged(path) if kind == "merged" else load_base(path)
    return TorchBackend(model.to(device))


def _pixels(image: NDArray[np.uint8] | str | Path | Image.Image) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) uint8 RGB."""
    if isinstance(image, str | Path):
        return decode_image(Path(image).read_bytes())
    if not isinstance(image, np.ndarray):
        image = np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise _misshapen("image", f"{image.dtype} {image.shape}", "uint8 (H, W, 3), RGB")
    return image


def _points(
    point_coords: ArrayLike | None, point_labels: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (N, 2) coordinates and (N,) labels; N is 0 without points."""
    coords = np.zeros((0, 2)) if point_coords is None else np.asarray(point_coords, np.float64)
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise _misshapen("point_coords", f"shape {coords.shape}", "(N, 2)")
    labels = np.zeros(0) if point_labels is None else np.asarray(point_labels)
    return coords, _shaped("point_labels", labels, (len(coords),))


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.asarray(value)
    if array.shape != shape:
        raise _misshapen(name, f"shape {array.shape}", str(shape))
    return array


def _misshapen(name: str, got: str, expected: str) -> CpcSamError:
    return ContractError.of(name, got=got, expected=expected, fix="correct its shape and type")
