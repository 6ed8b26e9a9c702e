"""Lock of wheels that are installed without their dependencies."""

from __future__ import annotations

from typing import Any

from tools.lock_no_deps import lock_lines


def item(name: str, version: str, sha256: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"archive_info": {"hashes": {"sha256": sha256}}},
    }


def test_lock_lines_are_sorted_pinned_and_hashed() -> None:
    report = {"install": [item("zebra", "2.0", "ff" * 32), item("ant", "1.0.1", "0a" * 32)]}
    assert lock_lines([report]).splitlines() == [
        "ant==1.0.1 \\",
        f"    --hash=sha256:{'0a' * 32}",
        "zebra==2.0 \\",
        f"    --hash=sha256:{'ff' * 32}",
    ]


def test_lock_lines_of_several_pythons_list_each_wheel_once() -> None:
    first = {"install": [item("zebra", "2.0", "ff" * 32), item("ant", "1.0.1", "0a" * 32)]}
    second = {"install": [item("zebra", "2.0", "ee" * 32), item("ant", "1.0.1", "0a" * 32)]}
    assert lock_lines([first, second]).splitlines() == [
        "ant==1.0.1 \\",
        f"    --hash=sha256:{'0a' * 32}",
        "zebra==2.0 \\",
        f"    --hash=sha256:{'ee' * 32} \\",
        f"    --hash=sha256:{'ff' * 32}",
    ]
