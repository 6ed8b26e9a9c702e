from __future__ import annotations

import base64

import pytest

from cpcsam.errors import ContractError
from serving.http.label_studio.addresses import data_of_uri, target_of

BASE = "http://studio.example:8080/label"


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("/data/upload/3/a.png", "/label/data/upload/3/a.png"),
        ("upload/3/a.png", "/label/data/upload/3/a.png"),
        ("/data/local-files/?d=x/b c.png", "/label/data/local-files/?d=x/b%20c.png"),
        ("/data/upload/3/zelle-ü%20.png", "/label/data/upload/3/zelle-%C3%BC%20.png"),
        ("http://studio.example:8080/label/data/upload/3/a.png", "/label/data/upload/3/a.png"),
        ("HTTP://Studio.Example:8080/label/data/upload/3/a.png", "/label/data/upload/3/a.png"),
        ("s3://bucket/a.png", "/label/tasks/7/resolve/?fileuri=czM6Ly9idWNrZXQvYS5wbmc="),
    ],
)
def test_target_of_image_of_the_server_is_its_path(reference: str, target: str) -> None:
    assert target_of(BASE, reference, 7) == target


@pytest.mark.parametrize(
    "reference",
    [
        "http://elsewhere.example/label/data/upload/3/a.png",
        "https://studio.example:8080/label/data/upload/3/a.png",
        "http://studio.example/label/data/upload/3/a.png",
        "http://studio.example:8080@elsewhere.example/label/data/a.png",
        "http://user@studio.example:8080/label/data/a.png",
        "http://studio.example:8080/data/upload/3/a.png",
        "http://studio.example:port/label/data/a.png",
        "//elsewhere.example/label/data/a.png",
        "/\\elsewhere.example/label/data/a.png",
        "/data/../api/projects",
        "/data/%2e%2e/api/projects",
        "/data/x/..%2f..%2fapi/projects",
        "/api/projects",
        "/data",
        "file:///label/data/a.png",
        "/data/a.png\r\nHost: elsewhere.example",
        "",
        "a.png",
        "s3:",
    ],
)
def test_target_of_anything_else_is_refused(reference: str) -> None:
    with pytest.raises(ContractError, match=f"got an address elsewhere.*{BASE}"):
        target_of(BASE, reference, None)


def test_target_of_redirect_is_relative_to_what_redirects() -> None:
    seen = "/label/data/upload/3/a.png"
    assert target_of(BASE, "b.png", None, seen_at=seen) == "/label/data/upload/3/b.png"
    with pytest.raises(ContractError):
        target_of(BASE, "../../../api/x", None, seen_at=seen)


def test_data_of_uri_is_decoded() -> None:
    text = base64.b64encode(b"image").decode()
    assert data_of_uri(f"data:image/png;base64,{text}") == b"image"


@pytest.mark.parametrize(
    "reference",
    ["data:text/plain;base64,YQ==", "data:image/png,abc", "data:image/png;base64,%", "data:"],
)
def test_data_of_uri_of_another_form_is_refused(reference: str) -> None:
    with pytest.raises(ContractError, match="a data URI of another form"):
        data_of_uri(reference)


@pytest.mark.parametrize(
    "reference", ["http://[", "http://a\u2100b/data/x.png", "s3://\ud800", "/data/\ud800.png"]
)
def test_target_of_refuses_what_is_no_address(reference: str) -> None:
    with pytest.raises(ContractError, match="an address elsewhere"):
        target_of(BASE, reference, 7)
