"""The pods of the chart run commands that exist, may do little, and lose nothing when replaced."""

from __future__ import annotations

import importlib
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cpcsam.artifacts.manifest import publish
from serving import health, watch
from serving.gateway import __main__ as gateway
from serving.gateway.auth.tokens import USER, Token, digest_of, write_tokens
from serving.gateway.config import config_from_args
from serving.gateway.inference.addresses import DNS_PERIOD_S, TritonAddresses
from serving.http import __main__ as front
from serving.http.app import create_app
from serving.http.config import http_config_from_args
from serving.watch import EXIT_TIMEOUT_S
from tests.support.kubernetes import (
    KINDS,
    Pod,
    Resource,
    ci_values,
    cluster,
    pods_of,
    rendered,
    rendered_ci,
    violations,
)
from tests.support.paths import ROOT
from tests.support.servers.gateway_watch import make_certificate

DEPLOY = ROOT / "deploy"
DNS_TTL_S = 5
"""Of CoreDNS's kubernetes plugin, by default."""
MARGIN_S = 5

each_kind = pytest.mark.parametrize("kind", KINDS)


def services(resources: Sequence[Resource]) -> list[Resource]:
    return [one for one in resources if one["kind"] == "Service"]


def ports_of(pod: Pod) -> dict[str, int]:
    return {one["name"]: one["containerPort"] for one in pod.container["ports"]}


def parsed(monkeypatch: pytest.MonkeyPatch, command: Any, words: list[str]) -> Namespace:
    """Parse words by the parser of a command, instead of running it."""
    found: list[Namespace] = []

    def parse(parser: ArgumentParser, work: object, argv: list[str]) -> int:
        found.append(parser.parse_args(argv))
        return 0

    monkeypatch.setattr(command, "run_command", parse)
    assert command.main(words) == 0
    return found[0]


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with the files that Secrets and claims bring into the pods."""
    root = tmp_path_factory.mktemp("pod")
    folder = root / "etc/cpcsam"
    for name in ("tokens", "tls", "gateway", "label-studio"):
        (folder / name).mkdir(parents=True)
    write_tokens(folder / "tokens/tokens.txt", [Token("pathology", USER, digest_of("secret"))])
    pair = make_certificate(root)
    pair.certificate.rename(folder / "tls/tls.crt")
    pair.key.rename(folder / "tls/tls.key")
    (folder / "gateway/ca.crt").write_bytes((folder / "tls/tls.crt").read_bytes())
    (folder / "label-studio/token").write_text("token\n")
    with publish(root / "var/lib/cpcsam/vocabulary", "vocabulary", config={}):
        pass
    return root


def words_of(pod: Pod, mounted: Path) -> list[str]:
    """Return a container's arguments, with the mounted files where the test has them.

    Each path has to lie under a mount.
    """
    mounts = [one["mountPath"] for one in pod.container["volumeMounts"]]
    words = []
    for word in pod.container["args"]:
        option, _, value = word.partition("=")
        if value.startswith("/"):
            assert any(value == mount or value.startswith(f"{mount}/") for mount in mounts), word
            word = f"{option}={mounted}{value}"
        words.append(word)
    return words


@each_kind
def test_gateway_accepts_its_arguments(
    kind: str, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = rendered_ci(kind)
    pods = pods_of(resources)
    args = parsed(monkeypatch, gateway, words_of(pods["gateway"], mounted))
    config = config_from_args(args, args.triton)
    [triton] = [one for one in services(resources) if one["spec"].get("clusterIP") == "None"]
    name, ports = triton["metadata"]["name"], ports_of(pods["triton"])
    assert TritonAddresses.parse(config.triton) == TritonAddresses((), name, ports["grpc"])
    ports = ports_of(pods["gateway"])
    assert (config.port, config.metrics_port) == (ports["grpc"], ports["metrics"])
    assert config.grace_s >= config.max_seconds, "the longest request is answered"
    auth = ci_values(kind)["gateway"]["auth"]
    assert (config.tokens is None) == auth.get("allowAnonymous", False)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_front_accepts_its_arguments(
    kind: str, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = rendered_ci(kind)
    pods = pods_of(resources)
    args = parsed(monkeypatch, front, words_of(pods["http"], mounted))
    config = http_config_from_args(args, args.gateway)
    addresses = [
        f"{one['metadata']['name']}:{port['port']}"
        for one in services(resources)
        for port in one["spec"]["ports"]
        if one["spec"]["selector"]["app.kubernetes.io/component"] == "gateway"
        and port["name"] == "grpc"
    ]
    assert [config.gateway] == addresses
    ports = ports_of(pods["http"])
    assert (config.port, config.metrics_port) == (ports["http"], ports["metrics"])
    assert config.grace_s >= config.max_seconds
    assert config.gateway_tls == ("--tls-cert" in " ".join(pods["gateway"].container["args"]))
    # The kubelet calls the pod's address, which --allowed-host would refuse.
    with TestClient(create_app(config), base_url="http://10.0.0.7:8080") as client:
        for name in ("startupProbe", "livenessProbe"):
            probe = pods["http"].container[name]["httpGet"]
            headers = {one["name"]: one["value"] for one in probe["httpHeaders"]}
            assert client.get(probe["path"], headers=headers).status_code == 200
        assert client.get("/health/live").status_code == (403 if config.allowed_hosts else 200)


@each_kind
def test_probes_of_inference_accept_their_arguments(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = pods_of(rendered_ci(kind))
    triton, gateway_pod = pods["triton"].container, pods["gateway"].container
    for name in ("startupProbe", "readinessProbe"):
        python, dash_m, module, *words = triton[name]["exec"]["command"]
        assert (python, dash_m, module) == ("python3", "-m", watch.__name__)
        args = parsed(monkeypatch, watch, words)
        assert args.command == [] and args.timeout < triton[name]["timeoutSeconds"]
    ready = gateway_pod["readinessProbe"]
    if "exec" in ready:
        assert ready["exec"]["command"][:3] == ["python3", "-m", health.__name__]
        args = parsed(monkeypatch, health, ready["exec"]["command"][3:])
        assert args.address.endswith(f":{ports_of(pods['gateway'])['grpc']}")
        assert f"--tls-cert={args.tls_cert}" in gateway_pod["args"]
        assert args.timeout < ready["timeoutSeconds"]
    else:
        assert ready["grpc"] == {"port": ports_of(pods["gateway"])["grpc"]}
        assert "--tls-cert" not in " ".join(gateway_pod["args"])


@each_kind
def test_commands_user_and_models_are_those_of_the_images(kind: str) -> None:
    script = (DEPLOY / "triton.sh").read_text()
    dockerfiles = [file.read_text() for file in DEPLOY.glob("**/*Dockerfile*")]
    users = {
        match for text in dockerfiles for match in re.findall(r"^USER (\d+):(\d+)", text, re.M)
    }
    for name, pod in pods_of(rendered_ci(kind)).items():
        context = pod.spec["securityContext"]
        assert users == {(str(context["runAsUser"]), str(context["runAsGroup"]))}
        command = pod.container["command"]
        if name != "triton":
            assert command[:2] == ["python3", "-m"] and importlib.import_module(command[2])
            continue
        assert any(f'["{command[0]}"]' in text for text in dockerfiles)
        environment = {one["name"]: one["value"] for one in pod.container["env"]}
        known = {key for key in environment if key.startswith("CPCSAM_")}
        assert known and known <= set(re.findall(r"\$\{(CPCSAM_\w+)", script))
        mounts = {one["mountPath"]: one for one in pod.container["volumeMounts"]}
        # KServe mounts a storageUri there.
        # The images' own folder of caches is on the root, which is read-only.
        assert environment["XDG_CACHE_HOME"] in mounts
        models = environment["CPCSAM_MODELS"]
        assert models == "/mnt/models" if kind == "kserve" else mounts[models]["readOnly"]


@each_kind
def test_pods_are_restricted(kind: str) -> None:
    for pod in pods_of(rendered_ci(kind)).values():
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        resources = pod.container["resources"]
        assert resources["limits"]["memory"] and resources["requests"].keys() >= {"cpu", "memory"}
        for volume in pod.spec["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume
        writable = {
            one["mountPath"] for one in pod.container["volumeMounts"] if not one.get("readOnly")
        }
        assert writable <= {"/tmp", "/dev/shm", "/var/lib/cpcsam/classes"}


def test_gpu_pods_ask_for_gpus_and_tolerate_their_taint() -> None:
    [cpu, gpu] = [pods_of(rendered_ci(kind))["triton"] for kind in ("cpu", "gpu")]
    asked = gpu.container["resources"]
    assert asked["limits"]["nvidia.com/gpu"] == asked["requests"]["nvidia.com/gpu"] == "1"
    assert [one["key"] for one in gpu.spec["tolerations"]] == ["nvidia.com/gpu"]
    assert "nvidia.com/gpu" not in cpu.container["resources"]["limits"]
    assert "tolerations" not in cpu.spec


def test_models_can_be_copied_from_an_image() -> None:
    values = ci_values("gpu")
    values["triton"]["models"]["image"] |= {"copy": True}
    resources = rendered(values)
    pod = pods_of(resources)["triton"]
    [copy] = pod.spec["initContainers"]
    assert copy["command"] == ["cp", "-R", "-P", "/repository/.", "/copied"]
    # Beside the image's own folder, wherever that is.
    assert copy["volumeMounts"] == [{"name": "models", "mountPath": "/copied"}]
    [volume] = [one for one in pod.spec["volumes"] if one["name"] == "models"]
    assert volume["emptyDir"] == {"sizeLimit": "8Gi"}
    [mount] = [one for one in pod.container["volumeMounts"] if one["name"] == "models"]
    assert "subPath" not in mount
    assert [error for one in resources for error in violations(one)] == []


@pytest.mark.parametrize(
    ("secret", "key", "ca_key", "components"),
    [
        ("cpcsam-tls", "tls.crt", "ca.crt", ["gateway"]),
        ("cpcsam-tls", "ca.crt", "ca.crt", ["http"]),
        ("cpcsam-tls", "tls.crt", "", ["gateway", "http"]),
        ("cpcsam-front-tls", "tls.crt", "ca.crt", ["http"]),
        ("label-studio", "token", "ca.crt", ["http"]),
        ("cpcsam-tokens", "tokens.txt", "ca.crt", []),  # The gateway notices it by itself.
    ],
)
def test_updates_replace_the_pods_that_read_a_renewed_secret_once(
    secret: str, key: str, ca_key: str, components: list[str]
) -> None:
    values, secrets = ci_values("gpu"), {secret: {key: "b25l"}}
    values["gateway"]["tls"]["caKey"] = ca_key
    with cluster(secrets) as config:
        before = rendered(values, config)
        secrets[secret][key] = "dHdv"
        after = rendered(values, config)
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [one["kind"] for one in changed] == ["Deployment"] * len(components)
    assert sorted(pods_of(changed)) == components


@each_kind
def test_updates_lose_nothing(kind: str) -> None:
    for name, pod in pods_of(rendered_ci(kind)).items():
        pause_s = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        if name == "triton":
            assert pause_s > DNS_TTL_S + DNS_PERIOD_S, "the gateway sends no more calls then"
            [own_s] = re.findall(r"--exit-timeout-secs=(\d+)", (DEPLOY / "triton.sh").read_text())
            assert int(own_s) < EXIT_TIMEOUT_S
            ends_s = EXIT_TIMEOUT_S
        else:
            [grace] = [one for one in pod.container["args"] if one.startswith("--grace=")]
            ends_s = float(grace.partition("=")[2])
        if name == "gateway":
            [age] = [one for one in pod.container["args"] if "--max-connection-age=" in one]
            age_s = float(age.partition("=")[2]) * 1.1
            assert pause_s >= age_s + MARGIN_S, "callers have gone elsewhere before SIGTERM"
        assert pod.spec["terminationGracePeriodSeconds"] >= pause_s + ends_s + MARGIN_S
    for one in rendered_ci(kind):
        if one["kind"] in ("Deployment", "InferenceService"):
            spec = one["spec"]
            strategy = spec.get("strategy") or spec["predictor"]["deploymentStrategy"]
            assert strategy == {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            }
    budgets = [one for one in rendered_ci(kind) if one["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == len(pods_of(rendered_ci(kind)))
    assert {one["spec"]["maxUnavailable"] for one in budgets} == {1}
