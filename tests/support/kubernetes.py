"""Kubernetes resources of the chart: rendered by Helm's own library, checked and evaluated."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
    "cluster",
    "notes",
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


def _files(values: Mapping[str, Any], config: helm_python.Config | None) -> dict[str, str]:
    with helm_python.Chart.load(CHART) as chart:
        named = {"name": RELEASE, "namespace": NAMESPACE}
        if config is None:
            return chart.render(dict(values), **named)
        return config.render(chart, dict(values), **named)


def rendered(values: Mapping[str, Any], config: helm_python.Config | None = None) -> list[Resource]:
    """Render the chart as `helm template` does, or as `helm upgrade` with a cluster's config.

    Raises:
        helm_python.HelmError: the values are refused.
    """
    files = _files(values, config)
    texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
    return [part for text in texts for part in yaml.safe_load_all(text) if part]


def notes(values: Mapping[str, Any]) -> str:
    """Return what Helm prints after an installation."""
    [text] = [text for name, text in _files(values, None).items() if name.endswith("NOTES.txt")]
    return text


@contextmanager
def cluster(secrets: Mapping[str, Mapping[str, str]]) -> Iterator[helm_python.Config]:
    """Access to an API server on loopback that has Secrets alone, as they are when it is asked."""
    kind = {"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
    fixed: dict[str, Resource] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [kind]},
    }

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            body = fixed.get(path)
            folder, _, name = path.rpartition("/")
            if folder == f"/api/v1/namespaces/{NAMESPACE}/secrets" and name in secrets:
                body = {"kind": "Secret", "apiVersion": "v1", "data": secrets[name]}
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body or {"kind": "Status", "code": 404}).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with helm_python.Config(kubeconfig_content=_kubeconfig(server.server_port)) as config:
                yield config
        finally:
            server.shutdown()


def _kubeconfig(port: int) -> str:
    return json.dumps(
        {
            "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "a", "user": {}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "current-context": "a",
        }
    )


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
