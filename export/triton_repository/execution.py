"""How Triton executes a model: backend, instances, batches, warm-up and latency buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tritonclient.grpc.model_config_pb2 import (
    ModelConfig,
    ModelInstanceGroup,
    ModelMetrics,
    ModelWarmup,
)

from cpcsam.backends.onnx_backend import PROVIDER
from cpcsam.contract import IMAGE_ENCODER
from export.engines.profiles import Profile

__all__ = ["join_requests", "latency_buckets", "run_as_engine", "run_in_python", "run_on_cuda"]

LATENCY_FAMILY: Final = "nv_inference_first_response_histogram_ms"
LATENCY_BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
ENCODER_QUEUE_DELAY_US: Final = 2000
"""Dynamic batching delay of the image encoder on a GPU; the other models have none. No queue has a
timeout: with one, Triton before core pull request 509 miscounts its queue, and requests stall for
500 ms and more."""


def latency_buckets() -> ModelMetrics:
    """Make latency buckets from 1 ms; Triton's own begin at 100 ms."""
    control = ModelMetrics.MetricControl(
        metric_identifier=ModelMetrics.MetricControl.MetricIdentifier(family=LATENCY_FAMILY),
        histogram_options=ModelMetrics.MetricControl.HistogramOptions(buckets=LATENCY_BUCKETS_MS),
    )
    return ModelMetrics(metric_control=[control])


def run_in_python(config: ModelConfig, instances: int = 1) -> None:
    """Run a model's model.py in the Python backend on the CPU.

    Args:
        config: of the model, changed in place.
        instances: processes that run it.
    """
    config.backend = "python"
    config.default_model_filename = "model.py"
    config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=instances)


def run_on_cuda(config: ModelConfig) -> None:
    """Let a model of the Python backend run its graphs in ONNX Runtime's CUDA provider.

    Its one process takes the first GPU that it sees.

    Args:
        config: of the model after `run_in_python`, changed in place.
    """
    [group] = config.instance_group
    # Not KIND_GPU: an instance a GPU would divide the embeddings that `decoder` keeps.
    group.kind = ModelInstanceGroup.KIND_MODEL
    config.parameters[PROVIDER].string_value = "cuda"


def run_as_engine(config: ModelConfig, profiles: Sequence[Profile]) -> None:
    """Run a model as a TensorRT plan on each GPU.

    Args:
        config: of the model, with its inputs and largest batch, changed in place.
        profiles: of its plan, in Triton's numbering.
    """
    config.platform = "tensorrt_plan"
    config.backend = "tensorrt"
    config.default_model_filename = "model.plan"
    # Triton uses only the first profile unless all are listed.
    numbers = map(str, range(len(profiles)))
    config.instance_group.add(kind=ModelInstanceGroup.KIND_GPU, count=1, profile=numbers)
    config.model_warmup.extend(_warmup_requests(config, profiles))


def join_requests(config: ModelConfig) -> None:
    """Let Triton's dynamic batcher join the requests of a model, up to its largest batch.

    Args:
        config: of the model, changed in place.
    """
    config.dynamic_batching.max_queue_delay_microseconds = (
        ENCODER_QUEUE_DELAY_US if config.name == IMAGE_ENCODER.name else 0
    )


def _warmup_requests(config: ModelConfig, profiles: Sequence[Profile]) -> Iterator[ModelWarmup]:
    """Make a request of zeros for each profile, of the shape that it is tuned for."""
    for number, profile in enumerate(profiles):
        shapes = {name: sizes.usual for name, sizes in profile.items()}
        yield ModelWarmup(
            name=f"profile_{number}",
            batch_size=config.max_batch_size,
            inputs={
                tensor.name: ModelWarmup.Input(
                    data_type=tensor.data_type, dims=shapes[tensor.name][1:], zero_data=True
                )
                for tensor in config.input
            },
        )
