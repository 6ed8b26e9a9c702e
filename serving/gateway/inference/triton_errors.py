"""Mapping of Triton's failures to the project's errors.

Messages about a wrong request are passed on to the caller; messages about Triton itself are logged.
"""

from __future__ import annotations

import logging

from tritonclient.utils import InferenceServerException

from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import DeadlineError, LimitError, UnavailableError

__all__ = ["error_from_triton"]

LOG = logging.getLogger(__name__)


def error_from_triton(error: InferenceServerException, address: str) -> CpcSamError:
    """Convert a failure of Triton, or of the connection to it, to an error of the project.

    Args:
        error: as tritonclient raises it; its status reads like `StatusCode.UNAVAILABLE`.
        address: of the server, for the log.
    """
    status = str(error.status()).removeprefix("StatusCode.")
    details = _without_ensemble(str(error.message()))
    if status == "INVALID_ARGUMENT":
        return ContractError(details)
    if status == "DEADLINE_EXCEEDED" or details == "Request timeout expired":
        return DeadlineError.of(
            "deadline", got="no answer", expected="an answer in time", fix="allow more time"
        )
    # Triton reports a full queue only by its message.
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


def _without_ensemble(message: str) -> str:
    """Strip the ensemble's name, which Triton puts before a step's message."""
    head, separator, tail = message.partition(", ")
    return tail if separator and head.startswith("in ensemble ") else message
