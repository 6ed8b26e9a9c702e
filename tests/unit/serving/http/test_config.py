"""Options of the HTTP front, and those that `serving.serve` passes on to it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from serving import serve
from serving.common.logs import add_log_options
from serving.common.tracing import add_tracing_options
from serving.gateway.config import add_gateway_options
from serving.http.config import HttpConfig, add_http_options, http_config_from_args

OTHERS = {
    "gateway_tls": False,
    "gateway_ca": None,
    "gateway_name": None,
    "tls_cert": None,
    "tls_key": None,
    "max_seconds": 60.0,
    "grace": 10.0,
    "allow_anonymous": False,
}


def config_of(*words: str) -> HttpConfig:
    parser = argparse.ArgumentParser()
    add_http_options(parser)
    args = parser.parse_args(words, argparse.Namespace(**OTHERS))
    return http_config_from_args(args, "127.0.0.1:1")


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://tool.example/", "https://tool.example"),
        ("HTTP://Tool.Example:8081", "http://tool.example:8081"),
        ("http://[::1]:8081", "http://[::1]:8081"),
        ("*", "*"),
    ],
)
def test_origin_is_as_browsers_send_it(given: str, origin: str) -> None:
    assert config_of("--cors-origin", given).cors_origins == (origin,)


@pytest.mark.parametrize(
    ("given", "name"), [("Workstation", "workstation"), ("[FE80::1]", "fe80::1")]
)
def test_allowed_host_is_as_it_stands_in_urls(given: str, name: str) -> None:
    assert config_of("--allowed-host", given).allowed_hosts == (name,)


@pytest.mark.parametrize(
    "words",
    [
        ("--cors-origin", "tool.example"),
        ("--cors-origin", "https://tool.example/page"),
        ("--cors-origin", "https://*.example"),
        ("--allowed-host", "sam.example:8080"),
        ("--allowed-host", "https://sam.example"),
        ("--allowed-host", "ab:80"),
    ],
)
def test_origin_or_host_that_can_never_match_is_refused(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        config_of(*words)
    assert f"got {words[1]!r}, expected" in capsys.readouterr().err


def test_serve_passes_every_option_of_the_front_on(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    own = [
        "--cors-origin=https://tool.example",
        "--allowed-host=sam.example",
        "--max-body-bytes=1000",
        "--max-held-bytes=2000",
        "--max-connections=7",
        "--upload-seconds=3",
        "--unread-seconds=4",
        "--label-studio-url=http://127.0.0.1:8081",
        f"--label-studio-token-file={token}",
        "--label-studio-max-image-bytes=500",
    ]
    observed = ["--log-format=json", "--no-tracing"]
    parser = argparse.ArgumentParser()
    serve._add_options(parser)
    add_gateway_options(parser)
    args = parser.parse_args(
        ["--repository", str(tmp_path), "--http-max-in-flight=9", *own, *observed]
    )
    words = serve._http_options(args, "127.0.0.1:1")

    child = argparse.ArgumentParser()
    add_http_options(child)
    add_log_options(child)
    add_tracing_options(child)
    child.add_argument("--gateway")
    child.add_argument("--max-seconds", type=float)
    child.add_argument("--grace", type=float)
    child.add_argument("--allow-anonymous", action="store_true")
    passed = child.parse_args(words, argparse.Namespace(**OTHERS))
    assert (passed.log_format, passed.tracing) == ("json", False)
    expected = replace(config_of("--max-in-flight=9", *own), allow_anonymous=True)
    assert http_config_from_args(passed, "127.0.0.1:1") == replace(
        expected, max_seconds=args.max_seconds, grace_s=args.grace
    )
