"""The chart's pods are reached by those who have to, and by nobody else, and its notes say how."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import pytest

from cpcsam.cli import main as cli
from tests.conformance.helm.test_pods import parsed
from tests.support.kubernetes import (
    KINDS,
    Pod,
    admits,
    ci_values,
    notes,
    pods_of,
    rendered,
    rendered_ci,
)

OTHERS: Mapping[str, Pod] = {
    "client": Pod({"role": "client"}),
    "foreign client": Pod({"role": "client"}, "elsewhere"),
    "stranger": Pod({"app.kubernetes.io/component": "gateway"}),
    "ingress": Pod({}, "ingress-nginx"),
    "prometheus": Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring"),
    "internet": Pod({}, "elsewhere"),
}
REACHED = {
    "cpu": {
        "triton:8001": {"gateway"},
        "triton:8002": {"prometheus"},
        "triton:8000": set(),
        "gateway:50051": {"http", *OTHERS},
        "gateway:9090": {"prometheus"},
        "http:8080": {*OTHERS},
        "http:9091": {"prometheus"},
        "internet:443": {*OTHERS},
    },
    "gpu": {
        "triton:8001": {"gateway"},
        "triton:8002": {"prometheus"},
        "triton:8000": set(),
        "gateway:50051": {"http", "client"},
        "gateway:9090": {"prometheus"},
        "http:8080": {"ingress"},
        "http:9091": {"prometheus"},
        "internet:443": {"http", *OTHERS},
    },
    "kserve": {
        "triton:8001": {"gateway"},
        "triton:8002": {"prometheus"},
        "triton:8000": set(),
        "gateway:50051": {"triton", *OTHERS},
        "gateway:9090": {"prometheus"},
        # KServe's init container, in Triton's pod, reads the models.
        "internet:443": {"triton", *OTHERS},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_network_policies_admit_only_who_has_to(kind: str) -> None:
    resources = rendered_ci(kind)
    pods = {**OTHERS, **pods_of(resources)}
    for address, callers in REACHED[kind].items():
        name, _, port = address.partition(":")
        found = {
            caller
            for caller, pod in pods.items()
            if caller != name and admits(resources, pod, pods[name], int(port))
        }
        assert found == callers - {name}, address


def test_without_network_policies_all_are_admitted() -> None:
    resources = rendered(ci_values("cpu") | {"networkPolicy": {"enabled": False}})
    assert admits(resources, OTHERS["internet"], pods_of(resources)["triton"], 8001)


@pytest.mark.parametrize("ca_key", ["ca.crt", ""])
def test_notes_tell_how_to_trust_a_gateway_at_another_address(
    ca_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ci_values("gpu")
    values["gateway"]["tls"]["caKey"] = ca_key
    front = pods_of(rendered(values))["http"]
    lines = notes(values).splitlines()
    [status] = [line for line in lines if "cpcsam status" in line]
    args = parsed(monkeypatch, cli, shlex.split(status)[1:])
    assert f"--gateway={args.tls_name}:50051" in front.container["args"]
    [fetch] = [line for line in lines if "get secret" in line]
    [secret] = [one["secret"] for one in front.spec["volumes"] if one["name"] == "gateway-ca"]
    assert f" get secret {secret['secretName']} " in fetch and fetch.endswith(f" >{args.ca}")
    assert f'{{{{ index .data "{secret["items"][0]["key"]}" | base64decode }}}}' in fetch
