"""The playground's files: how they are sent, and what they may contain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving.http.config import HttpConfig
from serving.http.page import STATIC, routes
from serving.http.page.static_files import MEDIA_TYPES

VENDOR = STATIC / "vendor"
OWN = [path for path in sorted(STATIC.rglob("*")) if path.is_file() and VENDOR not in path.parents]
SOURCES = [path for path in OWN if path.suffix in {".js", ".css", ".html"}]
BROWSER = "https://playground.example"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(Starlette(routes=routes(HttpConfig())), base_url=BROWSER) as opened:
        yield opened


def test_index_is_sent_with_an_entity_tag_and_revalidated(client: TestClient) -> None:
    first = client.get("/")
    assert first.text == (STATIC / "index.html").read_text()
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/", headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", [path for path in OWN if path.suffix in MEDIA_TYPES], ids=str)
def test_file_is_sent_as_it_is(client: TestClient, path: Path) -> None:
    answer = client.get(f"/page/{path.relative_to(STATIC).as_posix()}")
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[path.suffix]


def test_vendored_file_is_kept_for_a_year(client: TestClient) -> None:
    answer = client.get("/page/vendor/openseadragon-6.1.1/openseadragon.min.js")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    manifest = client.get("/page/vendor/manifest.json")
    assert manifest.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["missing.js", "../__init__.py", "%2e%2e/static_files.py", "samples/README.md", ""]
)
def test_what_is_no_static_file_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(f"/page/{path}").status_code == 404


def test_vendored_files_equal_the_manifest() -> None:
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    listed = {
        f"{folder}/{name}": digest
        for folder, entry in manifest.items()
        for name, digest in entry["sha256"].items()
    }
    found = {
        path.relative_to(VENDOR).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert found == listed
    assert all((VENDOR / folder / "LICENSE.txt").exists() for folder in manifest)


def test_page_has_nothing_inline_and_nothing_foreign() -> None:
    html = (STATIC / "index.html").read_text()
    assert not re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", html)
    for path in SOURCES:
        foreign = re.findall(r"https?://[^\s\"')]+", path.read_text())
        assert {*foreign} <= {"http://www.w3.org/2000/svg"}, path


def test_every_reference_of_the_page_is_a_file() -> None:
    html = (STATIC / "index.html").read_text()
    references = re.findall(r'(?:href|src)="page/([^"#]+)', html)
    assert len(references) > 10
    for reference in references:
        assert (STATIC / reference).is_file(), reference
    icons = re.findall(r'id="([\w-]+)"', (STATIC / "icons.svg").read_text())
    assert {*re.findall(r'icons\.svg#([\w-]+)"', html)} <= {*icons}
    for path in STATIC.rglob("*.js"):
        for module in re.findall(r'^import .*?from "([^"]+)";$', path.read_text(), re.MULTILINE):
            assert (path.parent / module).is_file(), (path, module)


def test_every_module_holds_one_idea() -> None:
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 300, path
    folders = {path.parent for path in OWN}
    assert all(len([*folder.iterdir()]) <= 20 for folder in folders)
