"""State dicts: reading, writing and loading into modules, with errors that name the tensor."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cpcsam.errors import ArtifactError

__all__ = [
    "cpu_state",
    "fill",
    "read_pth",
    "read_safetensors",
    "require_finite",
    "require_fit",
    "write_safetensors",
]


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file; ArtifactError if it is missing or cut short."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ArtifactError.of(
            str(file),
            got=f"an unreadable file ({error})",
            expected="safetensors",
            fix="make it again",
        ) from error


def write_safetensors(state: Mapping[str, Tensor], file: Path) -> None:
    """Write contiguous tensors that share no memory as a safetensors file."""
    save_file(dict(state), file)
    file.chmod(0o644)  # safetensors writes for the owner alone; the server has another uid


def read_pth(file: Path) -> dict[str, Tensor]:
    """Read an official checkpoint; nothing but tensors is unpickled.

    Raises:
        ArtifactError: missing, cut short or of another format.
    """
    expected = "an artifact of kind checkpoint or an official sam_vit_{b,l,h}_*.pth"
    if not file.is_file():
        raise ArtifactError.of(
            str(file), got="no such file", expected=expected, fix="correct the base's path"
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    # Which of these torch raises depends on the place where the file is damaged.
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError.of(
            str(file),
            got=f"an unreadable file of {file.stat().st_size} bytes ({reason})",
            expected=expected,
            fix="it is cut short or of another format; download it again",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ArtifactError.of(
            str(file),
            got=f"a {type(state).__name__} of other things than tensors",
            expected=expected,
            fix="save the plain state dict",
        )
    return state


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict into a module, naming the first key or shape that does not fit.

    Raises:
        ArtifactError: a missing, unknown or misshapen tensor.
    """
    require_fit(state, module.state_dict(), source)
    module.load_state_dict(state)


def require_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Raise ArtifactError for the first tensor whose name or shape is not the expected one.

    Args:
        state: to be checked.
        wanted: a model's state dict; only names and shapes count.
        source: its name in errors.

    Raises:
        ArtifactError: a missing, unknown or misshapen tensor.
    """
    missing = sorted(wanted.keys() - state.keys())
    unexpected = sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        raise ArtifactError.of(
            source,
            got=f"{len(missing)} tensors missing {missing[:2]} and {len(unexpected)} unknown "
            f"{unexpected[:2]}",
            expected=f"exactly the {len(wanted)} tensors of this model",
            fix="the file is incomplete or of another model",
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise ArtifactError.of(
                f"{source}: {name}",
                got=f"shape {tuple(tensor.shape)}",
                expected=str(tuple(wanted[name].shape)),
                fix="the file is of another model",
            )


def cpu_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as contiguous tensors on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise ArtifactError for the first tensor with NaN or infinity."""
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError.of(
                f"{source}: {name}",
                got="values that are not finite",
                expected="finite weights",
                fix="the training diverged; lower the learning rate",
            )
