"""What Triton's failures mean to the gateway's callers.

What Triton says of a request at fault is passed on; what it says of its own trouble is logged.
"""

from __future__ import annotations

import logging

from tritonclient.utils import InferenceServerException

from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import DeadlineError, LimitError, UnavailableError

__all__ = ["error_of_triton"]

LOG = logging.getLogger(__name__)


def error_of_triton(error: InferenceServerException, address: str) -> CpcSamError:
    """Error of the project for one that Triton, or the way to it, answered.

    Args:
        error: as tritonclient raises it; its status reads like `StatusCode.UNAVAILABLE`.
        address: of the server, for messages.
    """
    status = str(error.status()).removeprefix("StatusCode.")
    details = _own_words(str(error.message()))
    if status == "INVALID_ARGUMENT":
        return ContractError(details)
    if status == "DEADLINE_EXCEEDED" or details == "Request timeout expired":
        return DeadlineError.of(
            "deadline", got="no answer in time", expected="one sooner", fix="allow more time"
        )
    if status == "UNAVAILABLE" and "maximum queue size" in details:
        return LimitError.of(
            "Triton's queue", got="full", expected="a free place", fix="try again in a moment"
        )
    LOG.error("Triton at %s: %s: %s", address, status, details)
    if status in ("UNAVAILABLE", "NOT_FOUND"):
        return UnavailableError.of(
            "inference server",
            got="none that is ready",
            expected="Triton with the model loaded",
            fix="try again; if it stays away, see its log",
        )
    return ServingError.of(
        "inference server", got="a failure", expected="masks", fix="see the gateway's log"
    )


def _own_words(message: str) -> str:
    """A step's message without the name of the ensemble that Triton puts before it."""
    head, separator, tail = message.partition(", ")
    return tail if separator and head.startswith("in ensemble ") else message
