"""Groups of test files that share what is slow to start, for pytest-xdist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from xdist.scheduler import LoadFileScheduling

__all__ = ["GroupScheduling", "group_of"]

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "served": (
        "tests/integration/annotators/",
        "tests/integration/gateway/",
        "tests/integration/http/",
        "tests/integration/served/",
        "tests/integration/test_async_client.py",
        "tests/integration/test_gateway_loop.py",
        "tests/integration/test_shipped_model.py",
        "tests/integration/test_triton.py",
    ),
    "faults": ("tests/integration/faults/",),
    "forked": (
        "tests/conformance/export/test_export_killed.py",
        "tests/conformance/test_readme.py",
        "tests/integration/test_gpu_measurements.py",
        "tests/integration/training/test_distributed_processes.py",
        "tests/integration/training/test_kill_resume.py",
    ),
}
"""Folders and files whose tests use the same servers, or fork from the same process."""


def group_of(file: str) -> str:
    """Return the group of a test file, by default the file itself.

    Args:
        file: path relative to the checkout.
    """
    for group, members in GROUPS.items():
        if file.startswith(members):
            return group
    return file


class GroupScheduling(LoadFileScheduling):
    """pytest-xdist's `--dist loadfile`, with groups of files instead of single ones."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(super()._split_scope(nodeid))
