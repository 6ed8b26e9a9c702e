"""Command: export the image and text towers of a CLIP, for classes by text.

python -m export.text_encoder --clip ViT-B-32-quickgelu --weights clip.safetensors --out build/clip

The graphs are compared with torch before anything is published. With
`python -m export.repository publish --clip build/clip` they are served beside SAM, on the CPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch.nn import functional as F

from cpcsam.artifacts.manifest import is_made_from, publish
from cpcsam.clip.onnx_towers import (
    BPE_FILE,
    CLIP_KIND,
    CROPS,
    EMBEDDINGS,
    GOLDEN_FILE,
    IMAGE_FILE,
    TEXT_FILE,
    TOKENS,
    OnnxTowers,
)
from cpcsam.clip.preprocess import ClipInfo
from cpcsam.clip.text_classes import phrases_of
from cpcsam.clip.towers import ClipTowers
from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ExportError
from export.graphs.tracing import OPSET, save
from export.provenance import code_digest

__all__ = ["TOLERANCE", "export_towers", "main"]

PROG: Final = "python -m export.text_encoder"
TOLERANCE: Final = 1e-5
"""Largest difference from torch of a value of an embedding, which has unit length."""
TEXTS: Final = ("nucleus", "mitotic cell", "a very long description " * 30, "")
CROP_COUNT: Final = 3


class _TextTower(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.model.encode_text(tokens), dim=-1)


class _ImageTower(torch.nn.Module):
    """Image tower of (n, S, S, 3) uint8, with the normalisation inside."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        pixels = crops.permute(0, 3, 1, 2).float() / 255
        return F.normalize(self.model.encode_image((pixels - self.mean) / self.std), dim=-1)


def _made_from(towers: ClipTowers) -> dict[str, str]:
    """Digests of what the graphs of towers depend on."""
    return {"weights": towers.weights, "towers": towers.digest, "code": code_digest()}


def export_towers(towers: ClipTowers, out: Path) -> float:
    """Export both towers, compare them with torch and publish an artifact of kind `clip`.

    Args:
        towers: in float32, on the CPU.
        out: the artifact to write.

    Returns:
        The largest difference from torch.

    Raises:
        ExportError: a tower cannot be exported, or is too far from torch; nothing is published.
    """
    info = ClipInfo(
        towers.name,
        towers.digest,
        towers.embed_dim,
        towers.logit_scale,
        int(towers.model.context_length),
        towers.preprocess,
    )
    metrics: dict[str, Any] = {}
    made_from = _made_from(towers)
    config = {"clip": info.to_json(), "opset": OPSET}
    with publish(out, CLIP_KIND, parents=made_from, config=config, metrics=metrics) as staging:
        text = _TextTower(towers.model).eval()
        image = _ImageTower(towers.model, info.preprocess.mean, info.preprocess.std).eval()
        crops = _golden_crops(info.preprocess.image_size)
        tokens = torch.from_numpy(towers.tokenizer(TEXTS[:2]))
        _export(text, tokens, TOKENS, staging / TEXT_FILE)
        _export(image, torch.from_numpy(crops[:2]), CROPS, staging / IMAGE_FILE)
        shutil.copyfile(towers.bpe, staging / BPE_FILE)
        # Not through the tower that was exported, whose normalisation may be wrong.
        golden = {
            "texts": np.array(phrases_of(TEXTS)),
            "crops": crops,
            "text_embeddings": towers.embed_texts(phrases_of(TEXTS)),
            "image_embeddings": towers.embed_images(list(crops)),
        }
        np.savez_compressed(staging / GOLDEN_FILE, **golden)
        difference = OnnxTowers(staging, info, threads=1).check_golden()
        if difference > TOLERANCE:
            raise ExportError.of(
                towers.name,
                got=f"a difference of {difference:.2g} from torch",
                expected=f"at most {TOLERANCE:g}",
                fix="correct the exported code",
            )
        metrics["difference"] = difference
    return difference


def _golden_crops(side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return noise, a gradient and a disc, (3, S, S, 3) uint8."""
    rows, columns = np.mgrid[:side, :side] / side
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    gradient = np.stack([rows, columns, 1 - rows], -1) * 255
    disc = np.where(np.hypot(rows - 0.5, columns - 0.5) < 0.3, 230, 20)[..., None]
    shown = [noise, gradient, np.broadcast_to(disc, noise.shape)]
    return np.stack([crop.astype(np.uint8) for crop in shown])


@contextmanager
def _without_fast_attention() -> Iterator[None]:
    """Let attention be computed by operators that ONNX has, rather than by one fused kernel."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def _export(tower: torch.nn.Module, example: torch.Tensor, name: str, file: Path) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad(), _without_fast_attention():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)  # of constant folding
            torch.onnx.export(
                tower,
                (example,),
                file,
                input_names=[name],
                output_names=[EMBEDDINGS],
                opset_version=OPSET,
                dynamic_axes={name: {0: "n"}, EMBEDDINGS: {0: "n"}},
                dynamo=False,
            )
        # Loading pulls external weights in, so that `save` decides where they go.
        save(onnx.load(file), file)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ExportError.of(
            name,
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            expected=f"a valid graph of opset {OPSET}",
            fix="give another CLIP",
        ) from error


def _run(args: argparse.Namespace) -> None:
    towers = ClipTowers.load(args.clip, args.weights)
    if is_made_from(args.out, CLIP_KIND, parents=_made_from(towers)):
        print(f"{args.out}: unchanged")
        return
    difference = export_towers(towers, args.out)
    print(f"{args.out}: both towers of {towers.name}, digest {towers.digest[:12]}")
    print(f"largest difference from torch {difference:.1e}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = "a name of open_clip.list_models(), or a JSON file of a configuration"
    parser.add_argument("--clip", metavar="NAME", required=True, help=text)
    text = "state dict in open_clip's layout, .safetensors or .pt"
    parser.add_argument("--weights", type=Path, metavar="FILE", required=True, help=text)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
