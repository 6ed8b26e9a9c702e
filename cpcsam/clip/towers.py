"""CLIP's image and text towers in torch, loaded by open_clip from local weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from cpcsam.artifacts.manifest import sha256_file
from cpcsam.clip.preprocess import Preprocess
from cpcsam.clip.tokenizer import VOCABULARY_SIZE, Tokenizer
from cpcsam.errors import ArtifactError, ConfigError, extra

__all__ = ["ClipTowers", "published_preprocessing"]

BATCH: Final = 32
PREPROCESSING: Final = ("mean", "std", "interpolation", "resize_mode")
"""What weights decide, as open_clip's configurations spell it."""
Array = NDArray[np.float32]


class ClipTowers:
    """A CLIP of open_clip, in evaluation mode.

    Attributes:
        name: of its configuration.
        digest: SHA-256 of configuration, preprocessing and weights; embeddings of different
            digests cannot be compared.
        model: open_clip's, which has `encode_image`, `encode_text` and `visual`.
        config: open_clip's configuration of it.
        weights: SHA-256 of the file of its weights.
        preprocess: what its image tower expects.
        tokenizer: what its text tower expects.
        bpe: file of the tokenizer's vocabulary.
        logit_scale: factor of cosine similarities before the softmax, the inverse temperature.
    """

    def __init__(self, name: str, model: Any, config: dict[str, Any], weights: str) -> None:
        self.name, self.model, self.config, self.weights = name, model, config, weights
        self.preprocess = _preprocess(model)
        self.bpe = _bpe_file()
        self.tokenizer = Tokenizer(self.bpe, int(model.context_length))
        self.logit_scale = float(model.logit_scale.exp())
        made_of = {"config": config, "preprocess": asdict(self.preprocess), "weights": weights}
        self.digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, name: str, weights: str | Path, device: str = "cpu") -> ClipTowers:
        """Load towers; nothing is downloaded.

        The preprocessing is that of the JSON file, or what all weights that open_clip knows of the
        name agree on, else open_clip's own default.

        Args:
            name: a name of `open_clip.list_models()`, such as `ViT-B-32-quickgelu`, or the path of
                such a configuration as a JSON file, or of an `open_clip_config.json`.
            weights: a state dict in open_clip's layout, `.safetensors` or `.pt`.
            device: of torch, such as `cuda`.

        Raises:
            ConfigError: an unknown name, no configuration in the JSON file, or a tokenizer or
                preprocessing other than CLIP's.
            ArtifactError: no weights, or those of another model.
            ModuleNotFoundError: open_clip is not installed.
        """
        with extra("text"):
            import open_clip
        preprocessing = published_preprocessing(name)
        if name.endswith(".json"):
            name, preprocessing = _register(Path(name))
        # Other schemes of names would download.
        config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
        if config is None:
            raise _no_config(name)
        _require_bpe(name, config["text_cfg"])
        if not Path(weights).is_file():
            raise ArtifactError.of(
                str(weights),
                got="no such file",
                expected=f"weights of {name} in open_clip's layout",
                fix="download them, and give the file's path",
            )
        try:
            model = open_clip.create_model(
                name,
                pretrained=str(weights),
                device=device,
                weights_only=True,
                force_preprocess_cfg=preprocessing,
            )
        except Exception as error:  # open_clip's, torch's, safetensors' and pickle's
            raise ArtifactError.of(
                str(weights),
                got=f"a file that is refused ({' '.join(str(error).split())[:200]})",
                expected=f"weights of {name} in open_clip's layout",
                fix="give the name that belongs to the weights",
            ) from error
        model.eval().requires_grad_(False)
        return cls(name, model, config, sha256_file(Path(weights)))

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Embed texts as they are, without templates.

        Returns:
            (n, d) float32 of unit length.
        """
        tokens = torch.from_numpy(self.tokenizer(texts))
        return self._batched(self.model.encode_text, tokens)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Array:
        """Embed crops, each (H, W, 3) uint8 RGB of any size.

        Returns:
            (n, d) float32 of unit length.
        """
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        embedded = [self._batched(self.model.encode_image, self._pixels(part)) for part in parts]
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *embedded])

    def dense(self, image: NDArray[np.uint8]) -> Array:
        """Embed the patches of an image by the last block's values (MaskCLIP, Zhou et al. 2022).

        Args:
            image: (H, W, 3) uint8 RGB, squashed to the tower's square.

        Returns:
            (G, G, d) float32 of unit length, G = image_size / patch size.

        Raises:
            ConfigError: the image tower is no vision transformer of open_clip's own.
        """
        visual = self.model.visual
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", [None])
        if not isinstance(getattr(blocks[-1], "attn", None), torch.nn.MultiheadAttention):
            raise ConfigError.of(
                "CLIP",
                got=f"{self.name}, whose image tower has no attention of torch",
                expected="a ViT of open_clip",
                fix="give another CLIP",
            )
        squash = replace(self.preprocess, resize_mode="squash")
        pixels = torch.from_numpy(squash([image])).to(self._device)
        with torch.inference_mode():
            found = visual.forward_intermediates(
                pixels,
                indices=[len(blocks) - 2],
                stop_early=True,
                intermediates_only=True,
                output_fmt="NLC",
            )
            tokens, block = found["image_intermediates"][0], blocks[-1]
            weight, bias = (part.chunk(3)[2] for part in _projections(block.attn))
            values = block.attn.out_proj(F.linear(block.ln_1(tokens), weight, bias))
            tokens = tokens + block.ls_1(values)
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
            embedded = F.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1)[0]
        grid = round(len(embedded) ** 0.5)
        return np.asarray(embedded.reshape(grid, grid, -1).cpu().numpy(), np.float32)

    @property
    def embed_dim(self) -> int:
        """Length d of embeddings."""
        return int(self.config["embed_dim"])

    @property
    def _device(self) -> torch.device:
        return self.model.logit_scale.device  # type: ignore[no-any-return]

    def _pixels(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        return torch.from_numpy(self.preprocess(images))

    def _batched(self, encode: Any, inputs: torch.Tensor) -> Array:
        with torch.inference_mode():
            parts = [
                encode(part.to(self._device), normalize=True).float().cpu()
                for part in inputs.split(BATCH)
                if len(part)
            ]
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *parts])


def published_preprocessing(name: str) -> dict[str, Any]:
    """Return the preprocessing on which all weights agree that open_clip knows of a name.

    Weights from a file have no preprocessing of their own.

    Args:
        name: of `open_clip.list_models()`.

    Returns:
        Those of `PREPROCESSING` that are known.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    stated = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    return {
        key: stated[0][key]
        for key in PREPROCESSING
        if stated and all(key in one and one[key] == stated[0][key] for one in stated)
    }


def _register(path: Path) -> tuple[str, dict[str, Any]]:
    """Make open_clip know the configuration of a file; return its name and preprocessing."""
    import open_clip

    try:
        document = json.loads(path.read_text())
        # As on Hugging Face, where the preprocessing stands beside the model.
        config, stated = document.get("model_cfg", document), document.get("preprocess_cfg", {})
        chosen = {key: stated[key] for key in PREPROCESSING if key in stated}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _no_config(f"{path} ({error})") from error
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise _no_config(str(path))
    with TemporaryDirectory() as folder:
        file = Path(folder, path.name)
        file.write_text(json.dumps(config))
        open_clip.add_model_config(file)
    return path.stem, chosen


def _no_config(got: str) -> ConfigError:
    return ConfigError.of(
        "CLIP",
        got=got,
        expected="a name of open_clip.list_models() or a JSON file of a configuration",
        fix="correct it",
    )


def _projections(attention: torch.nn.MultiheadAttention) -> tuple[torch.Tensor, torch.Tensor]:
    return attention.in_proj_weight, attention.in_proj_bias


def _preprocess(model: Any) -> Preprocess:
    import open_clip

    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise ConfigError.of(
            "CLIP", got=f"images of {height} x {width}", expected="squares", fix="give another CLIP"
        )
    return Preprocess(
        height,
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
        config["resize_mode"],
    )


def _bpe_file() -> Path:
    from open_clip.tokenizer import default_bpe

    return Path(default_bpe())


def _require_bpe(name: str, text_config: dict[str, Any]) -> None:
    """Refuse tokenizers of Hugging Face, which need files besides the weights."""
    names = "hf_model_name", "hf_tokenizer_name"
    other = next((text_config[key] for key in names if text_config.get(key)), None)
    size = text_config.get("vocab_size", VOCABULARY_SIZE)
    if other is not None or size != VOCABULARY_SIZE or text_config.get("tokenizer_kwargs"):
        raise ConfigError.of(
            "CLIP",
            got=f"{name} with the tokenizer {other or f'of {size} tokens'}",
            expected=f"CLIP's own of {VOCABULARY_SIZE} tokens",
            fix="give another CLIP, such as ViT-B-32",
        )
