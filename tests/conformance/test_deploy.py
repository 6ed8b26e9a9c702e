"""The deployment's files are accepted by their own tools and name what really exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.gateway.config import GatewayConfig
from serving.gateway.inference.addresses import TritonAddresses
from serving.gateway.metrics import Metrics
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
PUBLISHED = re.compile(r"127\.0\.0\.1:\d+:\d+")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def run(package: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool; skip the test where it is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed; on Debian: apt-get install {package}")
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_compose_file_is_accepted() -> None:
    done = run("docker-compose", "docker-compose", "--file", "docker-compose.yml", "config")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() == {"gateway", "prometheus", "triton"}


def test_alert_rules_are_accepted() -> None:
    done = run("prometheus", "promtool", "check", "rules", "deploy/alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should() -> None:
    done = run("prometheus", "promtool", "test", "rules", "tests/conformance/alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_configuration_is_accepted() -> None:
    done = run("prometheus", "promtool", "check", "config", "deploy/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_name_metrics_that_exist() -> None:
    text = (DEPLOY / "alerts.yml").read_text()
    named = set(re.findall(r"\bcpcsam_[a-z_]+", text))
    assert named
    metrics = Metrics()
    metrics.replica_up.labels("triton:8001").set(1)
    metrics.replica_success.labels("triton:8001").set_to_current_time()
    metrics.request_seconds.labels("Segment", "OK").observe(0.1)
    metrics.stage_seconds.labels("queue").observe(0.1)
    collected = [*metrics.registry.collect()]
    exposed = {sample.name for metric in collected for sample in metric.samples}
    families = {metric.name for metric in collected}
    assert named <= exposed | families | {f"{name}_total" for name in families}


def test_only_gateway_and_prometheus_are_published_and_only_on_loopback(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert {name for name in services if "ports" in services[name]} == {"gateway", "prometheus"}
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(PUBLISHED.fullmatch(port) for port in ports), ports
    assert services["triton"]["networks"] == ["private"]
    assert compose["networks"]["private"]["internal"] is True


def test_services_are_unprivileged_and_checked(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert "healthcheck" in service, name
    for volume in compose["services"]["triton"]["volumes"]:
        assert volume.endswith(":ro"), volume


def test_container_of_triton_ends_with_a_dead_step(compose: dict[str, Any]) -> None:
    triton = compose["services"]["triton"]
    assert triton["restart"] == "unless-stopped"
    assert triton["healthcheck"]["test"][:4] == ["CMD", "python3", "-m", "serving.watch"]
    assert "exec python3 -m serving.watch tritonserver" in (DEPLOY / "triton.sh").read_text()


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    bases = re.findall(
        r"^FROM (\S+)", "".join(file.read_text() for file in DEPLOY.glob("*.Dockerfile")), re.M
    )
    assert len(bases) == 2
    for image in [*bases, *(service["image"] for service in compose["services"].values())]:
        assert re.search(r":v?\d+\.\d+", image), image


def test_copied_files_exist_and_are_sent_to_the_builder(compose: dict[str, Any]) -> None:
    sent = set((ROOT / ".dockerignore").read_text().split())
    for service in compose["services"].values():
        if "build" not in service:
            continue
        text = (ROOT / service["build"]["dockerfile"]).read_text()
        copied = [
            word for line in re.findall(r"^COPY (.+)", text, re.M) for word in line.split()[:-1]
        ]
        assert copied
        for path in copied:
            assert (ROOT / path).exists(), path
            assert f"!{Path(path).parts[0]}" in sent, path


def test_addresses_agree_with_the_gateways_defaults(compose: dict[str, Any]) -> None:
    defaults = GatewayConfig()
    gateway = compose["services"]["gateway"]
    assert gateway["ports"] == [f"127.0.0.1:{defaults.port}:{defaults.port}"]
    options = dict(option.split("=") for option in gateway["command"])
    assert options["--port"] == str(defaults.port)
    assert options["--metrics-port"] == str(defaults.metrics_port)
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    jobs = {job["job_name"]: job for job in scraped}
    (fixed,) = jobs["gateway"]["static_configs"]
    assert fixed["targets"] == [f"gateway:{defaults.metrics_port}"]
    (found,) = jobs["triton"]["dns_sd_configs"]
    assert TritonAddresses.parse(options["--triton"]) == TritonAddresses((), "triton", 8001)
    assert (found["names"], found["type"], found["port"]) == (["triton"], "A", 8002)
    assert compose["services"]["triton"]["expose"] == ["8001", "8002"]


@pytest.mark.parametrize("name", ["gateway", "triton"])
def test_image_locks_agree_with_the_main_lock(name: str) -> None:
    pins = re.compile(r"^([a-z0-9-]+)==(\S+)", re.M)
    main = dict(pins.findall((ROOT / "requirements.lock").read_text()))
    image = dict(pins.findall((DEPLOY / f"{name}.lock").read_text()))
    assert image
    assert {package: main[package] for package in image} == image
