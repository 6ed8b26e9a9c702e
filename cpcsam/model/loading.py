"""Loading of any artifact that holds a model, as a backend with the scale that it declares."""

from __future__ import annotations

from pathlib import Path

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.backends.protocol import Backend
from cpcsam.scale import Scale

__all__ = ["load_backend"]


def load_backend(path: Path, base: Path | None, device: str) -> tuple[Backend, Scale | None]:
    """Load a model.

    Args:
        path: an official `sam_vit_{b,l,h}_*.pth`, or an artifact's directory: a base
            (`checkpoint`), a training run, a merged model, or exported ONNX graphs.
        base: where a run's base is now; None takes the path that the run recorded.
        device: of torch models, such as `cuda`; ONNX graphs run on the CPU.

    Returns:
        The backend, and the scale of the artifact, None if it declares none.

    Raises:
        ArtifactError: missing, altered, or no model.
    """
    from cpcsam.backends.onnx_backend import OnnxBackend

    if not path.is_dir():
        return _torch_backend(path, "checkpoint", base, device), None
    # Unverified, because whichever loader follows verifies the digests.
    manifest = read_manifest(path, verify=False)
    scale = Scale.of_manifest(manifest.config)
    if manifest.kind == "onnx":
        return OnnxBackend(path), scale
    return _torch_backend(path, manifest.kind, base, device), scale


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
