"""CLIP's exported towers in ONNX Runtime, without torch, and their golden embeddings."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.backends.onnx_backend import open_session
from cpcsam.clip.preprocess import ClipInfo
from cpcsam.clip.tokenizer import Tokenizer
from cpcsam.errors import ArtifactError, ServingError

__all__ = [
    "BPE_FILE",
    "CLIP_KIND",
    "CROPS",
    "EMBEDDINGS",
    "FILES",
    "GOLDEN_FILE",
    "IMAGE_FILE",
    "TEXT_FILE",
    "TOKENS",
    "OnnxTowers",
]

CLIP_KIND: Final = "clip"
"""Kind of the artifact of exported towers."""
TEXT_FILE: Final = "text.onnx"
IMAGE_FILE: Final = "image.onnx"
BPE_FILE: Final = "bpe_simple_vocab_16e6.txt.gz"
GOLDEN_FILE: Final = "golden.npz"
FILES: Final = (TEXT_FILE, IMAGE_FILE, BPE_FILE, GOLDEN_FILE)
TOKENS: Final = "tokens"
"""Input of the text tower, (n, context_length) int64."""
CROPS: Final = "crops"
"""Input of the image tower, (n, S, S, 3) uint8: what `Preprocess.resize` gives."""
EMBEDDINGS: Final = "embeddings"
"""Output of both, (n, d) float32 of unit length."""
GOLDEN_TOLERANCE: Final = 1e-4
"""Largest difference of an embedding's values from torch's, which machines may round otherwise."""

Array = NDArray[np.float32]


class OnnxTowers:
    """Exported towers on the CPU.

    Args:
        folder: with `FILES`.
        info: facts of the CLIP.
        threads: for one operator; 0 leaves the choice to ONNX Runtime.

    Raises:
        ArtifactError: a file is missing or unreadable.
    """

    def __init__(self, folder: Path, info: ClipInfo, threads: int = 0) -> None:
        self.info = info
        self._folder = folder
        self._tokenizer = Tokenizer(folder / BPE_FILE, info.context_length)
        self._text = open_session(folder / TEXT_FILE, threads, memory_arena=False)
        self._image = open_session(folder / IMAGE_FILE, threads, memory_arena=False)

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Embed texts as they are; (n, d) float32 of unit length."""
        return self._run(self._text, TOKENS, self._tokenizer(texts))

    def embed_crops(self, crops: NDArray[np.uint8]) -> Array:
        """Embed resized crops.

        Args:
            crops: (n, S, S, 3) uint8, RGB.

        Returns:
            (n, d) float32 of unit length.
        """
        return self._run(self._image, CROPS, crops)

    def check_golden(self) -> float:
        """Compare embeddings with the golden ones, which torch gave when the towers were exported.

        Returns:
            The largest difference.

        Raises:
            ArtifactError: the golden embeddings cannot be read.
            ServingError: an embedding differs by more than `GOLDEN_TOLERANCE`.
        """
        golden = self._golden()
        found = {
            "text_embeddings": self.embed_texts(golden["texts"].tolist()),
            "image_embeddings": self.embed_crops(golden["crops"]),
        }
        worst = 0.0
        for name, embeddings in found.items():
            same = embeddings.shape == golden[name].shape
            difference = float(np.abs(embeddings - golden[name]).max()) if same else np.inf
            if not difference <= GOLDEN_TOLERANCE:  # NaN differs, too
                raise ServingError.of(
                    f"golden {name} of {self.info.name}",
                    got=f"a difference of {difference:.2g}",
                    expected=f"at most {GOLDEN_TOLERANCE:g}",
                    fix="export the towers again, and publish them",
                )
            worst = max(worst, difference)
        return worst

    def _golden(self) -> dict[str, NDArray[Any]]:
        path = self._folder / GOLDEN_FILE
        try:
            with np.load(path) as arrays:
                names = "texts", "crops", "text_embeddings", "image_embeddings"
                return {name: arrays[name] for name in names}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ArtifactError.of(
                str(path),
                got=f"an unreadable file ({error})",
                expected="golden embeddings",
                fix="export the towers again",
            ) from error

    def _run(self, session: Any, name: str, batch: NDArray[Any]) -> Array:
        if not len(batch):
            return np.zeros((0, self.info.embed_dim), np.float32)
        try:
            (embeddings,) = session.run([EMBEDDINGS], {name: batch})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ServingError.of(
                f"{name} of shape {batch.shape}",
                got=f"a failure of ONNX Runtime ({str(error).splitlines()[0]})",
                expected="embeddings",
                fix="give what the towers expect",
            ) from error
        return np.asarray(embeddings, np.float32)
