"""The chart is accepted by Helm and Kubernetes, and refuses values that could not work."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import helm_python
import pytest
import yaml

from tests.support.kubernetes import (
    CHART,
    KINDS,
    Resource,
    ci_values,
    pods_of,
    rendered,
    rendered_ci,
    selects,
    violations,
)
from tests.support.paths import ROOT

ERROR = 3
"""Severity of a finding of `helm lint`."""
LONGEST_BACKOFF_S = 300
"""Of the kubelet, before it starts a container again."""
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
ALLOWED: dict[str, Any] = ci_values("cpu")
ONE_CLASSES: dict[str, Any] = {"classes": {"enabled": True, "accessModes": ["ReadWriteOnce"]}}


@pytest.fixture(scope="module", params=KINDS)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    """What the chart renders from each file of values for tests."""
    return rendered_ci(request.param)


def with_values(**changes: Any) -> dict[str, Any]:
    """Merge changes into the values of a release that is accepted."""

    def merge(base: Any, change: Any) -> Any:
        if not isinstance(base, dict) or not isinstance(change, dict):
            return change
        return base | {key: merge(base.get(key), value) for key, value in change.items()}

    merged = merge(copy.deepcopy(ALLOWED), changes)
    assert isinstance(merged, dict)
    return merged


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [one for one in resources if one["kind"] in kinds]


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_helm_lint_finds_nothing(kind: str | None) -> None:
    report = helm_python.lint(CHART, ci_values(kind) if kind else None, strict=True)
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


def test_resources_are_valid_in_the_newest_kubernetes(resources: list[Resource]) -> None:
    assert [error for one in resources for error in violations(one)] == []


def test_resources_are_valid_in_the_oldest_admitted_kubernetes() -> None:
    oldest = re.search(r">=(\d+\.\d+)\.", (CHART / "Chart.yaml").read_text())
    assert oldest
    assert [error for one in rendered(ALLOWED) for error in violations(one, oldest[1])] == []


def test_validation_is_strict(resources: list[Resource]) -> None:
    for one in resources:
        part = copy.deepcopy(one)
        part.get("spec", part)["unknownField"] = 1
        assert len(violations(part)) == 1, one["kind"]
        assert violations({**one, "metadata": {**one["metadata"], "label": {}}}), one["kind"]
    for one in of_kind(resources, "Deployment"):
        part = copy.deepcopy(one)
        part["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["period"] = 1
        assert len(violations(part)) == 1


def test_every_kind_is_rendered_by_some_values() -> None:
    kinds = {one["kind"] for kind in KINDS for one in rendered_ci(kind)}
    assert kinds == {
        *("Deployment", "HorizontalPodAutoscaler", "InferenceService", "Ingress", "NetworkPolicy"),
        *("PersistentVolumeClaim", "PodDisruptionBudget", "PrometheusRule", "ScaledObject"),
        *("Service", "ServiceAccount", "ServiceMonitor", "ServingRuntime"),
    }


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"replicas": 2}, "replicas"),
        ({"triton": {"target": "tpu"}}, "triton/target"),
        ({"triton": {"replicas": 2}}, "triton"),
        ({"triton": {"extraArgs": ["log-verbose=1"]}}, "triton/extraArgs/0"),
        ({"triton": {"sharedMemory": "1 GB"}}, "triton/sharedMemory"),
        ({"triton": {"models": {"image": {"path": "models"}}}}, "triton/models/image/path"),
        ({"gateway": {"auth": {"allowAnonymous": "yes"}}}, "gateway/auth/allowAnonymous"),
        ({"gateway": {"image": {"digest": "sha256:12"}}}, "gateway/image/digest"),
        ({"gateway": {"graceSeconds": 0}}, "gateway/graceSeconds"),
        ({"http": {"ingress": {"hosts": ["sam.example"]}}}, "http/ingress/hosts/0"),
        ({"kserve": {"storageUri": "models"}}, "kserve/storageUri"),
        ({"serviceMonitor": {"interval": "often"}}, "serviceMonitor/interval"),
    ],
)
def test_schema_refuses_wrong_values(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(helm_python.HelmError) as caught:
        rendered(with_values(**changes))
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"triton": {"models": {"existingClaim": ""}}}, "triton.models: got neither"),
        ({"triton": {"models": {"image": {"reference": "a:1"}}}}, "triton.models: got neither"),
        ({"gateway": {"auth": {"allowAnonymous": False}}}, "gateway.auth: got neither"),
        ({"gateway": {"auth": {"existingSecret": "tokens"}}}, "gateway.auth: got neither"),
        ({"http": {"labelStudio": {"existingSecret": "a"}}}, "http.labelStudio: got one"),
        ({"http": {"ingress": {"enabled": True}}}, "http.ingress.hosts: got none"),
        ({"kserve": {"enabled": True}}, "kserve.storageUri: got none"),
        (
            {"gateway": {"classes": {"enabled": True, "accessModes": ["ReadWriteOnce"]}}},
            "gateway.classes.accessModes: got no ReadWriteMany",
        ),
        (
            {"gateway": {"replicaCount": 1, "rollingUpdate": {"maxSurge": "25%"}} | ONE_CLASSES},
            "gateway.classes.accessModes: got no ReadWriteMany",
        ),
    ],
)
def test_chart_refuses_values_that_contradict_each_other(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        rendered(with_values(**changes))


def test_one_gateway_without_a_surge_may_keep_classes_on_a_claim_of_its_own() -> None:
    for surge in (0, "0%"):
        rolling = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": 1}}
        assert rendered(with_values(gateway={"replicaCount": 1} | rolling | ONE_CLASSES))


def test_front_trusts_the_gateways_certificate_itself_where_no_other_signed_it() -> None:
    tls = {"existingSecret": "pair", "caKey": ""}
    pod = pods_of(rendered(with_values(gateway={"tls": tls})))["http"]
    assert "--gateway-ca=/etc/cpcsam/gateway/ca.crt" in pod.container["args"]
    [volume] = [one for one in pod.spec["volumes"] if one["name"] == "gateway-ca"]
    assert volume["secret"]["items"] == [{"key": "tls.crt", "path": "ca.crt"}]


def test_rollouts_may_wait_for_triton() -> None:
    for kind in KINDS:
        values = ci_values(kind)
        values["triton"]["startupSeconds"] = 5000
        for one in of_kind(rendered(values), "Deployment"):
            assert one["spec"]["progressDeadlineSeconds"] > 5000 + LONGEST_BACKOFF_S


def test_resources_may_be_numbers() -> None:
    resources = {"requests": {"cpu": 0.5, "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    pod = pods_of(rendered(with_values(http={"resources": resources})))["http"]
    assert pod.container["resources"]["requests"]["cpu"] == 0.5


def test_schema_and_defaults_have_the_same_keys() -> None:
    def compare(schema: dict[str, Any], value: Any, path: str) -> None:
        schema = SCHEMA["definitions"].get(schema.get("$ref", "").rpartition("/")[2], schema)
        if "properties" in schema and schema.get("type") == "object":
            assert schema["properties"].keys() - {"global", "claims"} == value.keys(), path
            for key in value:
                compare(schema["properties"][key], value[key], f"{path}.{key}")

    compare(SCHEMA, yaml.safe_load((CHART / "values.yaml").read_text()), "")


def test_names_fit_into_63_characters() -> None:
    values = ci_values("kserve") | {"fullnameOverride": "a" * 63}
    [service] = of_kind(rendered(values), "InferenceService")
    assert len(service["metadata"]["name"] + "-predictor") <= 63


def test_selectors_find_the_pods_of_their_component(resources: list[Resource]) -> None:
    pods = pods_of(resources)
    names = {one["metadata"]["name"] for one in of_kind(resources, "Deployment")}
    names |= {
        f"{one['metadata']['name']}-predictor" for one in of_kind(resources, "InferenceService")
    }
    for one in resources:
        component = one["metadata"]["labels"]["app.kubernetes.io/component"]
        spec = one.get("spec", {})
        match one["kind"]:
            case "Service":
                selector = {"matchLabels": spec["selector"]}
            case "Deployment" | "PodDisruptionBudget":
                selector = spec["selector"]
            case "NetworkPolicy":
                selector = spec["podSelector"]
            case "HorizontalPodAutoscaler" | "ScaledObject":
                assert spec["scaleTargetRef"]["name"] in names
                continue
            case _:
                continue
        found = [name for name, pod in pods.items() if selects(selector, pod.labels)]
        assert found == [component], one["metadata"]["name"]


def test_ports_and_volumes_are_those_of_the_container(resources: list[Resource]) -> None:
    pods = pods_of(resources)
    for pod in pods.values():
        ports = {one["name"]: one["containerPort"] for one in pod.container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for kind, asked in pod.container[probe].items():
                if kind in ("httpGet", "grpc"):
                    assert asked["port"] in {*ports, *ports.values()}
        mounts = [one["name"] for one in pod.container["volumeMounts"]]
        assert sorted(mounts) == sorted(one["name"] for one in pod.spec["volumes"])
    for service in of_kind(resources, "Service"):
        [pod] = [
            one
            for one in pods.values()
            if service["spec"]["selector"].items() <= one.labels.items()
        ]
        known = {one["name"]: one["containerPort"] for one in pod.container["ports"]}
        for port in service["spec"]["ports"]:
            assert known[port["name"]] == port["port"]
            assert port["targetPort"] in (port["name"], port["port"])
            # A headless Service resolves to the pods themselves.
            assert service["spec"].get("clusterIP") != "None" or port["targetPort"] == port["port"]
    fronts = {
        one["metadata"]["name"]: [port["name"] for port in one["spec"]["ports"]]
        for one in of_kind(resources, "Service")
    }
    for ingress in of_kind(resources, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in fronts[backend["name"]]


def test_monitor_selects_each_service_once_under_the_jobs_of_the_rules() -> None:
    resources = rendered_ci("gpu")
    [monitor] = of_kind(resources, "ServiceMonitor")
    [endpoint] = monitor["spec"]["endpoints"]
    jobs = []
    for service in of_kind(resources, "Service"):
        labels = service["metadata"]["labels"]
        assert selects(monitor["spec"]["selector"], labels)
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
        jobs.append(labels[monitor["spec"]["jobLabel"]])
    assert sorted(jobs) == ["gateway", "http", "triton"]
    values = ci_values("kserve") | {"serviceMonitor": {"enabled": True}}
    [monitor] = of_kind(rendered(values), "ServiceMonitor")
    theirs = {
        **monitor["spec"]["selector"]["matchLabels"],
        "serving.kserve.io/inferenceservice": "a",
    }
    assert not selects(monitor["spec"]["selector"], theirs)


def test_rules_are_those_of_compose() -> None:
    [rule] = of_kind(rendered_ci("gpu"), "PrometheusRule")
    files = sorted((CHART / "files").glob("*.yml"))
    assert files and all(file.is_symlink() for file in files), "a copy would differ some day"
    groups = [yaml.safe_load(file.read_text())["groups"] for file in files]
    assert rule["spec"]["groups"] == [one for part in groups for one in part]


def test_page_names_values_that_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    page = (ROOT / "docs/guides/kubernetes.md").read_text()
    named = re.findall(rf"\b((?:{'|'.join(values)})(?:\.[A-Za-z]\w*)+)", page)
    assert len(set(named)) > 20
    for path in named:
        part = values
        for key in path.split("."):
            assert key in part, path
            part = part[key]
