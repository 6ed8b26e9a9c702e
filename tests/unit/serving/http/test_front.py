"""The application without a gateway: routes, bodies, credentials, origins and headers."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from serving.http.middleware.headers import SECURITY_HEADERS
from tests.support.servers.http_front import front_without_gateway, problem_of

SEGMENT = "/v1/segment"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with front_without_gateway(max_body_bytes=4000) as connected:
        yield connected


def test_process_is_live_but_not_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    answer = client.get("/health/ready")
    problem = problem_of(answer)
    assert (problem["status"], problem["code"]) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"


def test_call_without_gateway_is_unavailable_and_names_no_address(client: TestClient) -> None:
    problem = problem_of(client.get("/v1/describe"))
    assert (problem["status"], problem["code"]) == (503, "UNAVAILABLE")
    assert problem["detail"] == "gateway: got no connection, expected a gateway; try again"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("POST", "/v1/segment/", 404, "NOT_FOUND"),
        ("GET", "/v1/segment", 405, "UNIMPLEMENTED"),
        ("DELETE", "/v1/classes", 405, "UNIMPLEMENTED"),
        ("BREW", "/v1/classes", 405, "UNIMPLEMENTED"),
    ],
)
def test_unknown_route_is_a_problem(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    problem = problem_of(client.request(method, path))
    assert (problem["status"], problem["code"]) == (status, code)


@pytest.mark.parametrize("path", ["/health/live", "/nothing", "/openapi.json", "/v1/describe"])
def test_every_answer_has_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    for name, value in SECURITY_HEADERS.items():
        assert headers[name] == value
    assert "server" not in headers
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers.get("cache-control") == "no-store") == path.startswith("/v1/")


def test_request_id_is_kept_if_fit_for_logs(client: TestClient) -> None:
    given = {"x-request-id": "scan 17"}
    assert client.get("/health/live", headers=given).headers["x-request-id"] == "scan 17"
    for unfit in ("", "x" * 129, "\x1b[31m", "a\tb"):
        answer = client.get("/health/live", headers={"x-request-id": unfit})
        assert answer.headers["x-request-id"].isalnum()


@pytest.mark.parametrize(
    ("body", "kind", "status", "detail"),
    [
        (b"{}", None, 415, "Content-Type: got none"),
        (b"{}", "text/plain", 415, "Content-Type: got another"),
        (b"x" * 4001, "application/json", 413, "a Content-Length of 4001, expected at most 4000"),
        (b"--a", "multipart/form-data", 400, "body: got "),
        (b"--a", "multipart/form-data; boundary=a", 400, "body: got "),
        (b"junk", "multipart/form-data; boundary=a", 400, "body: got "),
        (
            b'--a\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--a--\r\n',
            "multipart/form-data; boundary=a; charset=punycode",
            400,
            "a part 'other'",
        ),
        (
            b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--\r\n",
            "multipart/form-data; boundary=a",
            400,
            'header field "name" must be provided',
        ),
        (
            b'--a\r\nContent-Disposition: form-data; name="request"\r\n\r\n'
            b'{"image_id": "\xff"}\r\n--a--\r\n',
            "multipart/form-data; boundary=a",
            400,
            "text that is not UTF-8",
        ),
    ],
)
def test_body_that_is_no_request_is_refused(
    client: TestClient, body: bytes, kind: str | None, status: int, detail: str
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    problem = problem_of(client.post(SEGMENT, content=body, headers=headers))
    assert problem["status"] == status
    assert detail in problem["detail"]


def test_length_of_thousands_of_digits_is_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json", "content-length": "9" * 5000}
    problem = problem_of(client.post(SEGMENT, content=b"{}", headers=headers))
    assert problem["status"] == 400
    assert "Content-Length" in problem["detail"]


def test_body_without_length_is_counted(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    problem = problem_of(client.post(SEGMENT, content=chunks(), headers=headers))
    assert (problem["status"], problem["code"]) == (413, "RESOURCE_EXHAUSTED")


def test_bodies_of_all_requests_have_one_budget(client: TestClient) -> None:
    with front_without_gateway(max_held_bytes=1000) as small:
        room = small.app.state.room  # type: ignore[attr-defined]
        assert room.take(999)
        headers = {"content-type": "application/json"}
        answer = small.post(SEGMENT, content=b"{ }", headers=headers)
        assert problem_of(answer)["code"] == "RESOURCE_EXHAUSTED"
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        room.release(999)
        assert small.post(SEGMENT, content=b"{ }", headers=headers).status_code == 503
        assert room.take(1000), "what a request held is given back"
        assert not room.take(1)


def test_form_with_two_images_or_parts_of_one_name_is_refused(client: TestClient) -> None:
    two = [("image", ("a.png", b"a")), ("image", ("b.png", b"b"))]
    assert "two parts" in problem_of(client.post(SEGMENT, files=two))["detail"]
    beside = {"request": '{"image_id": "x"}'}
    answer = client.post(SEGMENT, files={"image": ("a.png", b"a")}, data=beside)
    assert problem_of(answer)["field"] == "image"
    examples = {"request": '{"name": "x", "examples": [{}]}'}
    answer = client.post("/v1/classes", files={"image1": ("a.png", b"a")}, data=examples)
    assert problem_of(answer)["detail"].startswith("image1: got no examples[1]")


CONFIG = '<View><Image name="image" value="$image"/></View>'
LONG = "\x01" * 1500
REGION = {
    "type": LONG,
    "to_name": "image",
    "original_width": 9,
    "original_height": 9,
    "value": {"labels": [LONG], "x": 1, "y": 1},
}


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("x-anylabeling", {"model": LONG, "image": "AAAA"}),
        (
            "x-anylabeling",
            {"model": "cpcsam-prompts", "image": "AAAA", "params": {"marks": [{"type": LONG}]}},
        ),
        ("label-studio", {"context": {"result": [REGION]}}),
        ("label-studio", {"context": {"result": [{**REGION, "type": "keypointlabels"}]}}),
    ],
)
def test_long_text_of_a_caller_is_not_sent_back_whole(path: str, record: dict[str, object]) -> None:
    version = "v1/" if path == "x-anylabeling" else ""
    if path == "label-studio":
        record = {"tasks": [{}], "label_config": CONFIG, "params": record}
    with front_without_gateway() as client:
        answer = client.post(f"/{path}/{version}predict", json=record)
    detail = problem_of(answer)["detail"]
    assert "\\x01" in detail and "..." in detail and len(answer.content) < 1000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer token"}, 503),
        ({"authorization": "bearer  token "}, 503),
        ({"authorization": "Basic " + base64.b64encode(b"user:token").decode()}, 503),
        ({"authorization": "Basic " + base64.b64encode(b"no colon").decode()}, 401),
        ({"authorization": "Basic !"}, 401),
        ({"authorization": "Digest x"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer a\tb"}, 401),
        ({"x-request-timeout": "5"}, 503),
        ({"x-request-timeout": "1e9"}, 503),
        ({"x-request-timeout": "0"}, 400),
        ({"x-request-timeout": "nan"}, 400),
        ({"x-request-timeout": "soon"}, 400),
    ],
)
def test_caller_is_read_from_the_headers(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = client.get("/v1/describe", headers=headers)
    assert problem_of(answer)["status"] == status
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer realm=")
        assert "Basic" in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8080"}, 200),
        ({"origin": "http://127.0.0.1:8081"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:8080"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "rebound.example:8080"}, 403),
        ({"host": "[::1"}, 403),
    ],
)
def test_foreign_pages_are_refused(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert client.get("/health/live", headers=headers).status_code == status


def test_configured_origins_and_hosts_are_admitted() -> None:
    tool = "https://tool.example"
    with front_without_gateway(cors_origins=(tool,), allowed_hosts=("sam.test",)) as client:
        preflight = client.options(
            SEGMENT,
            headers={
                "origin": tool,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == tool
        answer = client.get("/health/live", headers={"origin": tool, "host": "sam.test"})
        assert answer.headers["access-control-allow-origin"] == tool
        assert client.get("/health/live", headers={"origin": "http://x"}).status_code == 403
    with front_without_gateway() as client:
        assert "access-control-allow-origin" not in client.get("/health/live").headers


def test_names_are_checked_beyond_loopback_where_some_are_given() -> None:
    with front_without_gateway(host="0.0.0.0") as client:
        assert client.get("/health/live", headers={"host": "any.example"}).status_code == 200
    with front_without_gateway(host="0.0.0.0", allowed_hosts=("localhost",)) as client:
        assert client.get("/health/live", headers={"host": "any.example"}).status_code == 403
        assert client.get("/health/live").status_code == 200


def test_requests_beyond_the_bound_are_refused_but_for_health() -> None:
    tool = "https://tool.example"
    with front_without_gateway(max_in_flight=0, cors_origins=(tool,)) as client:
        answer = client.get("/v1/describe", headers={"origin": tool})
        assert problem_of(answer)["status"] == 429
        assert answer.headers["access-control-allow-origin"] == tool, "its page can read it"
        assert answer.headers["retry-after"] == "1"
        assert client.get("/health/live").status_code == 200
