"""Locks have hashes, licences are allowed, and the bill of materials has the vendored scripts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT
from tools.licences import (
    LOCKS,
    PIN,
    VENDORED,
    Component,
    components,
    declared_licence,
    refused,
)
from tools.supply_chain import with_vendored

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ALL_LOCKS = sorted(
    path.relative_to(ROOT)
    for folder in (ROOT, ROOT / "deploy", ROOT / "tests")
    for path in folder.glob("**/*.lock" if folder != ROOT else "*.lock")
)


def test_all_locks_are_checked() -> None:
    assert {*LOCKS} <= {*ALL_LOCKS}
    # Tools of tests run as programs of others, and CI's is not installed.
    shipped = [lock for lock in ALL_LOCKS if lock.parts[0] not in ("tests", ".github")]
    assert {*shipped} <= {*LOCKS}


@pytest.mark.parametrize("lock", ALL_LOCKS, ids=str)
def test_every_pin_of_a_lock_has_a_hash(lock: Path) -> None:
    text = (ROOT / lock).read_text()
    pinned = re.split(r"^(?=[A-Za-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.M), flags=re.M)
    pins = [part for part in pinned if part.strip()]
    assert pins
    assert [pin for pin in pins if not PIN.match(pin) or "--hash=sha256:" not in pin] == []


def test_every_component_has_an_allowed_licence_and_stands_on_the_page() -> None:
    found = [*components(ROOT)]
    assert refused(found) == []
    page = (ROOT / "docs/reference/licences.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page, re.M))
    listed = {(name, licence) for licence, names in rows.items() for name in names.split(", ")}
    assert {(one.name, one.licence) for one in found} <= listed, "run python -m tools.licences"


def test_proprietary_licence_of_any_vendor_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "acme_sdk-1.0.dist-info/METADATA"
    metadata.parent.mkdir()
    classifier = "Classifier: License :: Other/Proprietary License"
    metadata.write_text(f"Metadata-Version: 2.1\nName: acme-sdk\nVersion: 1.0\n{classifier}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    component = Component("acme-sdk", "1.0", declared_licence("acme-sdk"))
    assert refused([component]) == [component]


@pytest.mark.parametrize(
    "licence, is_refused",
    [
        ("MIT", False),
        ("GPL-3.0-only", True),
        ("GPL-3.0-only OR MIT", False),
        ("MIT AND AGPL-3.0-only", True),
        ("(MIT OR Apache-2.0) AND BSD-3-Clause", False),
        ("none", True),
    ],
)
def test_refused_finds_licences_that_are_not_allowed(licence: str, is_refused: bool) -> None:
    component = Component("package", "1.0", licence)
    assert refused([component]) == [component] * is_refused


def test_the_bill_of_materials_has_the_digests_of_vendored_scripts() -> None:
    vendored = json.loads((ROOT / VENDORED).read_text())
    document = with_vendored({"components": [{"name": "numpy"}]}, vendored)
    names = [component["name"] for component in document["components"]]
    assert names == ["numpy", "openseadragon"]
    files = document["components"][1]["components"]
    assert {file["hashes"][0]["content"] for file in files} == {
        digest for entry in vendored.values() for digest in entry["sha256"].values()
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_actions_and_grant_nothing_by_default(workflow: Path) -> None:
    document = yaml.safe_load(workflow.read_text())
    assert document["permissions"] == {}
    uses = [
        step["uses"] for job in document["jobs"].values() for step in job["steps"] if "uses" in step
    ]
    assert uses
    assert all(re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action) for action in uses), uses


def test_a_release_publishes_nothing_before_its_tag_is_compared_with_the_version() -> None:
    [release] = [path for path in WORKFLOWS if path.name == "release.yml"]
    jobs = yaml.safe_load(release.read_text())["jobs"]
    [compares] = [name for name, job in jobs.items() if "pyproject.toml" in str(job)]
    waits = {compares}
    for _ in jobs:
        waits |= {name for name, job in jobs.items() if job.get("needs") in waits}
    assert waits == jobs.keys()
    assert not any("write" in scope for scope in jobs[compares]["permissions"].values())
