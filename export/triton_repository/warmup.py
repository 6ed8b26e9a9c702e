"""Warm-up requests of a Triton model, which it runs before it is ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelWarmup

from export.engines.profiles import Profile

__all__ = ["warmup_requests"]


def warmup_requests(config: ModelConfig, profiles: Sequence[Profile]) -> Iterator[ModelWarmup]:
    """Make a request of zeros for each profile of an engine, of the shape that it is tuned for.

    Args:
        config: of the model, with its inputs and largest batch.
        profiles: of its engine, in Triton's numbering.
    """
    for number, profile in enumerate(profiles):
        shapes = {name: sizes.usual for name, sizes in profile.items()}
        yield ModelWarmup(
            name=f"profile_{number}",
            batch_size=min(config.max_batch_size, *(shape[0] for shape in shapes.values())),
            inputs={
                tensor.name: ModelWarmup.Input(
                    data_type=tensor.data_type, dims=shapes[tensor.name][1:], zero_data=True
                )
                for tensor in config.input
            },
        )
