#!/usr/bin/env bash
# segment-anything 1.0, torch 2.14.1, torchvision 0.29.1: SAM's mask decoder on several images, and on
# prompts of different length.
# Expected: B image embeddings with B prompts give B results; points labelled -1 ("not a point", which SAM
#   itself appends) are padding and change nothing.
# Seen: B images with B prompts become B² rows and fail on their sizes; padding by further points of label
#   -1 changes the masks, since each is a learned token that the others attend to.
# For users: neither images nor prompts can be batched by stacking and padding alone; repeat the image
#   for each of its prompts and mask padded tokens out of the attention.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 segment-anything==1.0 torch==2.14.1 torchvision==0.29.1
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

torch.manual_seed(0)
prompt_encoder = PromptEncoder(256, (8, 8), (128, 128), 16).eval()
transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=512, num_heads=8)
decoder = MaskDecoder(transformer_dim=256, transformer=transformer).eval()
image_pe = prompt_encoder.get_dense_pe()
embeddings = torch.randn(3, 256, 8, 8)


@torch.no_grad()
def decode(images: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    sparse, dense = prompt_encoder(points=(coords, labels), boxes=None, masks=None)
    masks, _ = decoder(
        image_embeddings=images,
        image_pe=image_pe,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return masks


clicks = torch.tensor([[[20.0, 30.0]], [[90.0, 40.0]], [[60.0, 100.0]]])
ones = torch.ones(3, 1, dtype=torch.int)
try:
    together = f"masks of shape {tuple(decode(embeddings, clicks, ones).shape)}"
except RuntimeError as error:
    together = f"an error ({str(error).splitlines()[0]})"
print("3 images, one click each, in one call:", together)
alone = decode(embeddings[:1], clicks[:1], ones[:1])
padded = decode(
    embeddings[:1],
    torch.cat([clicks[:1], torch.zeros(1, 3, 2)], 1),
    torch.cat([ones[:1], -torch.ones(1, 3, dtype=torch.int)], 1),
)
change = float((padded - alone).norm() / alone.norm())
similarity = float(torch.cosine_similarity(padded.flatten(), alone.flatten(), dim=0))
print(f"one click padded by three points labelled -1: masks change by {change:.0%} (cosine {similarity:.2f})")
sys.exit(not ("an error" in together and change > 0.1))
PROGRAM
