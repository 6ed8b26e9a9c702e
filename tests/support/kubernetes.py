"""Kubernetes resources of the chart: rendered by Helm's own library, checked and evaluated."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import jsonschema_rs
import yaml

from tests.support.paths import ROOT

__all__ = [
    "CHART",
    "KINDS",
    "NAMESPACE",
    "Pod",
    "Resource",
    "admits",
    "ci_values",
    "pods_of",
    "rendered",
    "rendered_ci",
    "selects",
    "violations",
]

CHART = ROOT / "deploy/helm/cpcsam"
NAMESPACE = "vision"
RELEASE = "sam"
KINDS = ("cpu", "gpu", "kserve")
"""Names of the chart's files of values for tests, `ci/KIND-values.yaml`."""

Resource = dict[str, Any]

CUSTOM = json.loads((ROOT / "tests/conformance/helm/custom_resources.json").read_text())
"""Schemas of the custom resources, from the projects' own definitions (Apache-2.0): without
descriptions and status, closed to unknown fields, fields of Kubernetes as references to its own,
and of an InferenceService the predictor's `model` alone."""


def ci_values(kind: str) -> dict[str, Any]:
    """Return the values of a file in the chart's folder `ci`."""
    return dict(yaml.safe_load((CHART / f"ci/{kind}-values.yaml").read_text()))


def rendered(values: Mapping[str, Any]) -> list[Resource]:
    """Render the chart as `helm template` does.

    Raises:
        helm_python.HelmError: the values are refused.
    """
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(dict(values), name=RELEASE, namespace=NAMESPACE)
    texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
    return [part for text in texts for part in yaml.safe_load_all(text) if part]


@cache
def rendered_ci(kind: str) -> list[Resource]:
    """Render the chart with a file of its folder `ci`; not to be changed."""
    return rendered(ci_values(kind))


@cache
def _folder(version: str) -> Path:
    spec = importlib.util.find_spec("kubernetes_validate")
    assert spec is not None and spec.submodule_search_locations
    [root] = spec.submodule_search_locations
    return Path(root, "kubernetes-json-schema", f"v{version}.0-local-strict")


@cache
def _definitions(version: str) -> jsonschema_rs.Registry:
    definitions = json.loads((_folder(version) / "_definitions.json").read_text())
    return jsonschema_rs.Registry([(definitions["$id"], definitions)])


@cache
def _validator(version: str, kind: str, api_version: str) -> jsonschema_rs.Draft202012Validator:
    group, _, api = api_version.rpartition("/")
    if kind in CUSTOM:
        schema = {**CUSTOM[kind], "$id": f"https://kubernetes.io/api/custom/{kind}"}
    else:
        words = [kind.lower(), *filter(None, [group.partition(".")[0]]), api]
        schema = json.loads((_folder(version) / f"{'-'.join(words)}.json").read_text())
    return jsonschema_rs.Draft202012Validator(schema, registry=_definitions(version))


def violations(resource: Resource, version: str = "1.37") -> list[str]:
    """Return what is wrong with a resource by the strict schemas of a Kubernetes version."""
    validator = _validator(version, resource["kind"], resource["apiVersion"])
    where = f"{resource['kind']} {resource['metadata']['name']}"
    return [
        f"{where}: {'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator.iter_errors(resource)
    ]


@dataclass(frozen=True)
class Pod:
    """A pod as network policies see it.

    Attributes:
        labels: of the pod.
        namespace: in which it runs; its name is the namespace's only label.
        spec: of the pod; empty for one of others.
    """

    labels: Mapping[str, str]
    namespace: str = NAMESPACE
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def container(self) -> Mapping[str, Any]:
        """Its only container."""
        [container] = self.spec["containers"]
        return dict(container)


def pods_of(resources: Sequence[Resource]) -> dict[str, Pod]:
    """Return the pods that a release runs, by component.

    KServe makes a pod of the runtime's container and the service's predictor, and adds labels.
    """
    pods = {}
    for one in resources:
        if one["kind"] == "Deployment":
            template = one["spec"]["template"]
            labels = template["metadata"]["labels"]
            pods[labels["app.kubernetes.io/component"]] = Pod(labels, spec=template["spec"])
        if one["kind"] == "InferenceService":
            name = one["metadata"]["name"]
            [runtime] = [other for other in resources if other["kind"] == "ServingRuntime"]
            predictor = one["spec"]["predictor"]
            added = {"app": f"isvc.{name}-predictor", "serving.kserve.io/inferenceservice": name}
            spec = {
                **predictor,
                "containers": runtime["spec"]["containers"],
                "volumes": runtime["spec"]["volumes"],
            }
            pods["triton"] = Pod({**predictor["labels"], **added}, spec=spec)
    return pods


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Evaluate a label selector; an empty one selects all."""
    for rule in selector.get("matchExpressions", ()):
        found = labels.get(rule["key"])
        values = rule.get("values", ())
        holds = {
            "In": found in values,
            "NotIn": found not in values,
            "Exists": found is not None,
            "DoesNotExist": found is None,
        }
        if not holds[rule["operator"]]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def admits(resources: Sequence[Resource], source: Pod, target: Pod, port: int) -> bool:
    """Return whether network policies let one pod reach a TCP port of another."""
    return all(
        _passes(rules, peer, port, key)
        for pod, peer, direction, key in (
            (target, source, "Ingress", "from"),
            (source, target, "Egress", "to"),
        )
        if (rules := _rules(resources, pod, direction)) is not None
    )


def _rules(resources: Sequence[Resource], pod: Pod, direction: str) -> list[Any] | None:
    """Return the rules for a pod; None if no policy selects it."""
    policies = [
        one["spec"]
        for one in resources
        if one["kind"] == "NetworkPolicy"
        and one["metadata"]["namespace"] == pod.namespace
        and selects(one["spec"]["podSelector"], pod.labels)
        and direction in one["spec"]["policyTypes"]
    ]
    rules = [rule for spec in policies for rule in spec.get(direction.lower()) or ()]
    return rules if policies else None


def _passes(rules: Sequence[Any], peer: Pod, port: int, key: str) -> bool:
    return any(
        (not rule.get("ports") or port in _tcp_ports(rule))
        and (not rule.get(key) or any(_matches(one, peer) for one in rule[key]))
        for rule in rules
    )


def _tcp_ports(rule: Mapping[str, Any]) -> Iterator[int]:
    return (one["port"] for one in rule["ports"] if one.get("protocol", "TCP") == "TCP")


def _matches(peer: Mapping[str, Any], pod: Pod) -> bool:
    """Evaluate a peer; without a namespaceSelector it is of the policy's own namespace."""
    assert peer.keys() <= {"podSelector", "namespaceSelector"}, "no other is evaluated here"
    name = {"kubernetes.io/metadata.name": pod.namespace}
    namespace = (
        selects(peer["namespaceSelector"], name)
        if "namespaceSelector" in peer
        else pod.namespace == NAMESPACE
    )
    return namespace and selects(peer.get("podSelector", {}), pod.labels)
