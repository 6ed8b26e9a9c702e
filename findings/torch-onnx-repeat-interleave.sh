#!/usr/bin/env bash
# torch 2.14.1, onnx 1.23.0, onnxscript 0.7.0, onnxruntime 1.31.1: Tensor.repeat_interleave with a count
# that is a dynamic dimension, as SAM repeats an image's embedding for its prompts.
# Expected: what torch.onnx.export (dynamo=True) exports and the checker passes computes what torch does.
# Seen: the graph is right for one image or one prompt each, which is what exports are usually tested with,
#   and fails in every run with several of both ("invalid expand shape").
# For users: test exports with every dynamic dimension above 1, and write expand followed by reshape.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.0 onnxruntime==1.31.1 onnxscript==0.7.0 torch==2.14.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

onnxruntime.set_default_logger_severity(4)
generator = torch.Generator().manual_seed(0)


class RepeatInterleave(nn.Module):
    def forward(self, embeddings: Tensor, prompts: Tensor) -> Tensor:
        count = prompts.shape[1]
        return embeddings.repeat_interleave(count, 0) + prompts.reshape(-1, prompts.shape[2])


class ExpandReshape(nn.Module):
    def forward(self, embeddings: Tensor, prompts: Tensor) -> Tensor:
        count = prompts.shape[1]
        expanded = embeddings[:, None].expand(-1, count, -1).reshape(-1, embeddings.shape[1])
        return expanded + prompts.reshape(-1, prompts.shape[2])


def results(module: nn.Module) -> dict[tuple[int, int], str]:
    images, prompts = torch.export.Dim("images"), torch.export.Dim("prompts")
    torch.onnx.export(
        module.eval(),
        (torch.randn(2, 4), torch.randn(2, 3, 4)),
        "model.onnx",
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: images}, {0: images, 1: prompts}),
        verbose=False,
    )
    onnx.checker.check_model("model.onnx", full_check=True)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    found = {}
    for count in ((1, 1), (1, 3), (2, 1), (2, 3)):
        inputs = torch.randn(count[0], 4, generator=generator), torch.randn(*count, 4, generator=generator)
        names = [value.name for value in session.get_inputs()]
        feeds = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
        try:
            (output,) = session.run(None, feeds)
            equal = np.allclose(output, module(*inputs).numpy(), atol=1e-6)
            found[count] = "equal to torch" if equal else "differs from torch"
        except Exception:
            found[count] = "fails"
    return found


seen = {module.__name__: results(module()) for module in (RepeatInterleave, ExpandReshape)}
for name, found in seen.items():
    for (images, prompts), result in found.items():
        print(f"{name:16} {images} images x {prompts} prompts: {result}")
wrong = {(name, count) for name, found in seen.items() for count in found if found[count] != "equal to torch"}
sys.exit(wrong != {("RepeatInterleave", (2, 3))})
PROGRAM
