"""Diagnosis of a failed start of Triton from its log."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["failure_cause"]

MODEL_FAILED: Final = re.compile(r"failed to load '([^']+)' version \d+: \w[\w ]*: (.*)\"$", re.M)
CONFIG_REJECTED: Final = re.compile(r"Poll failed for model directory '([^']+)': (.*)\"$", re.M)
CONFIG_DETAIL: Final = re.compile(r"Error parsing text-format inference\.ModelConfig: (.*)$", re.M)
ENSEMBLE_REJECTED: Final = re.compile(r"Invalid argument: (in ensemble|ensemble) (.*)\"$", re.M)
SOCKET_BUSY: Final = re.compile(r"failed to start (\w+) service: .*Socket '([^']+)' already in use")
LIBRARY_MISSING: Final = re.compile(r"error while loading shared libraries: (.*)$", re.M)
LAST_ERROR: Final = re.compile(r"^error: (.*)$", re.M)


def failure_cause(log: str) -> str:
    """Summarize in one line the cause of a failed start.

    Args:
        log: complete output of the server and its models.

    Returns:
        The failed model and its message, the busy port or the missing library; else the last
        line that is not empty.
    """
    # From the most specific cause to the least: one failure makes Triton log several.
    models = [f"model {name}: {_message(text)}" for name, text in MODEL_FAILED.findall(log)]
    if models:
        return "; ".join(dict.fromkeys(models))
    rejected = [f"model {name}: {_message(text)}" for name, text in CONFIG_REJECTED.findall(log)]
    if rejected:
        details = [f" ({text})" for text in CONFIG_DETAIL.findall(log)[:1]]
        return "".join([rejected[0], *details])
    if busy := SOCKET_BUSY.search(log):
        return f"{busy[1]} port: {busy[2]} is in use"
    if library := LIBRARY_MISSING.search(log):
        return f"missing library: {library[1]}"
    if ensemble := ENSEMBLE_REJECTED.search(log):
        return f"{ensemble[1]} {_message(ensemble[2])}"
    if error := LAST_ERROR.search(log):
        return error[1]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"


def _message(text: str) -> str:
    """Strip the Python traceback that the backend appends to a model's message."""
    text = text.split("\\n\\nAt:", 1)[0].removeprefix("TritonModelException: ")
    return " ".join(text.replace("\\n", " ").replace('\\"', '"').split())
