#!/usr/bin/env bash
# segment-anything 1.0, torch 2.14.1, torchvision 0.29.1: clicks embedded under autocast in bfloat16.
# Expected: mixed precision rounds weights and features; where a click lies is not one of them.
# Seen: the prompt encoder's positional encoding is a matrix product, so autocast computes it in
#   bfloat16: of eight clicks that lie a pixel apart in a frame of 1024 some have the same encoding.
# For users: fine-tuning in mixed precision teaches the decoder from moved clicks, while float32
#   serves the true ones. Leave autocast for the positional encoding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 segment-anything==1.0 torch==2.14.1 torchvision==0.29.1
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import torch
from segment_anything.modeling import PromptEncoder

SIDE = 1024
torch.manual_seed(0)
encoder = PromptEncoder(256, (SIDE // 16, SIDE // 16), (SIDE, SIDE), 16)
clicks = torch.stack([700.0 + torch.arange(8), torch.full((8,), 300.0)], dim=-1)[None]
labels = torch.ones(1, 8)


def encodings(mixed: bool) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        sparse, _ = encoder(points=(clicks, labels), boxes=None, masks=None)
    return sparse[0, :8].float()


exact, mixed = encodings(False), encodings(True)
distinct = [len(torch.unique(each, dim=0)) for each in (exact, mixed)]
step = (exact[1:] - exact[:-1]).norm(dim=-1).mean()
error = (mixed - exact).norm(dim=-1).max()
print(f"eight clicks, a pixel apart: {distinct[0]} encodings in float32, {distinct[1]} in bfloat16")
print(f"largest error of bfloat16: {float(error / step):.2f} times the step of one pixel")
sys.exit(not (distinct[0] == 8 and distinct[1] < 8 and error > 0.5 * step))
PROGRAM
