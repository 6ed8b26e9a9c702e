"""Scenario `fuzz`: requests that schemathesis generates from the OpenAPI document."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.report import Check, at_least, at_most
from cpcsam.errors import ServingError

__all__ = ["OPERATIONS", "run"]

CHECKS: Final = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)
"""All about answers. That every document of the schema is accepted cannot hold: an image must be
one. Nor that all others are refused: protobuf's mapping takes numbers in strings, for example."""
OPERATIONS: Final = 8
"""Operations of the document, which share the cases."""
REQUEST_S: Final = 60
SUMMARY: Final = re.compile(r"(\d+) generated")
FAILED: Final = re.compile(r"(\d+) unique failures|Runtime Error: (\d+)|Network Error: (\d+)")


def run(
    url: str, cases: int, seed: int, log: Path, *, covering: bool = True
) -> tuple[dict[str, Any], list[Check]]:
    """Send generated requests, valid and invalid ones, and check all answers.

    Args:
        url: of the front.
        cases: to generate at random, about.
        seed: of them.
        log: gets what schemathesis prints.
        covering: also send each keyword's bounds and breaches, about a thousand cases.

    Returns:
        Figures and checks.

    Raises:
        ServingError: schemathesis did not run.
    """
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{url}/openapi.json"),
        *("--mode", "all", "--max-examples", str(max(1, cases // OPERATIONS))),
        *("--phases", "examples,coverage,fuzzing" if covering else "examples,fuzzing"),
        *("--checks", ",".join(CHECKS)),
        *("--seed", str(seed), "--generation-database", "none", "--continue-on-failure"),
        # A generated time limit of a microsecond would be exceeded, as it should.
        *("--request-timeout", str(REQUEST_S), "--header", "X-Request-Timeout:30"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=log.parent)
    log.write_text(done.stdout + done.stderr)
    generated = SUMMARY.search(done.stdout)
    if generated is None:
        raise ServingError.of(
            "schemathesis", got=f"exit status {done.returncode}", expected="cases", fix=f"see {log}"
        )
    failures = sum(
        int(number) for found in FAILED.findall(done.stdout) for number in found if number
    )
    if done.returncode and not failures:
        failures = 1
    figures = {"cases": int(generated[1]), "failures": failures, "exit_status": done.returncode}
    return figures, [
        at_least("generated requests", figures["cases"], cases // 2),
        at_most("answers that break the document, or of 5xx", failures, 0),
    ]
