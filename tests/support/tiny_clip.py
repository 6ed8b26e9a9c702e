"""A small CLIP with random weights."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["write_tiny_clip"]

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 2,
    },
}


def write_tiny_clip(folder: Path, seed: int = 0) -> tuple[str, Path]:
    """Write a configuration and random weights, which `ClipTowers.load` takes."""
    import open_clip
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "tiny-clip.json", folder / f"tiny-clip-{seed}.pt"
    config.write_text(json.dumps(CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = CONFIG["embed_dim"], CONFIG["vision_cfg"], CONFIG["text_cfg"]
        torch.save(open_clip.CLIP(*parts).state_dict(), weights)
    return str(config), weights
