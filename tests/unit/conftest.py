"""Unit tests start no process: what does belongs to tests/integration."""

from __future__ import annotations

import multiprocessing.process
import sys
from collections.abc import Iterator
from typing import Any

import numpy.testing  # noqa: F401  as it starts a process when it is imported, which a test may not
import pytest

STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "pty.spawn", "subprocess.Popen"}
"""Audit events of Python before it starts a process."""

running: list[str] = []
"""The unit test that runs, for the audit hook, which Python never removes."""


def refuse(started: str) -> None:
    """Fail the running unit test, if there is one."""
    if running:
        pytest.fail(
            f"{running[-1]}: got {started}, expected a unit test that starts no process; "
            "move it to tests/integration"
        )


def _audit(event: str, _: tuple[Any, ...]) -> None:
    # Python clears the module's names while it ends.
    if STARTS is not None and event in STARTS:
        refuse(event)


sys.addaudithook(_audit)


@pytest.fixture(scope="module")
def two_blocks() -> Iterator[None]:
    """Let the encoder of vit_t have two blocks, for tests whose assertions hold at any depth."""
    from cpcsam.model.build_sam import ENCODERS  # torch, which many tests here do without
    from tests.support.model_factory import shallow_encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "vit_t", shallow_encoder("vit_t"))
        yield


@pytest.fixture(autouse=True)
def no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse what starts a process, multiprocessing's ways without an audit event among them."""
    monkeypatch.setattr(
        multiprocessing.process.BaseProcess, "start", lambda _: refuse("a multiprocessing process")
    )
    running.append(request.node.nodeid)
    yield
    running.pop()
