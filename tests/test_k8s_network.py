"""Who may call whom by the network policies, worked out as Kubernetes reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from kustomize import Document, pod_templates, render

from components.train.cluster import manifest
from components.train.cluster.manifest import JobSetOptions
from components.train.cluster.pod import PORT

(_TEMPLATE,) = pod_templates(
    manifest.render(JobSetOptions(run_id="r"), image="i", workers=1, arguments=[], max_restarts=0)
).values()
WORKER = _TEMPLATE["metadata"]["labels"]
BOARD = {"app.kubernetes.io/name": "charloom", "app.kubernetes.io/component": "tensorboard"}
TASK = {"pipelines.kubeflow.org/v2_component": "true"}
OUTSIDE = None
"""No pod of this namespace."""

Labels = Mapping[str, str] | None


def allows(documents: Sequence[Document], source: Labels, target: Labels, port: str) -> bool:
    """Tells whether the policies let a connection through, as Kubernetes reads them."""
    policies = [one["spec"] for one in documents if one["kind"] == "NetworkPolicy"]
    ways = (
        ("Ingress", "ingress", "from", target, source),
        ("Egress", "egress", "to", source, target),
    )
    for kind, field, peers, own, other in ways:
        bound = [
            one
            for one in policies
            if kind in one["policyTypes"] and selects(one["podSelector"], own)
        ]
        rules = [rule for one in bound for rule in one.get(field) or []]
        if bound and not any(matches(rule, peers, other, port) for rule in rules):
            return False
    return True


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    assert set(selector) <= {"matchLabels"}
    return labels is not None and selector.get("matchLabels", {}).items() <= labels.items()


def matches(rule: Mapping[str, Any], peers: str, other: Labels, port: str) -> bool:
    protocol, _, number = port.partition("/")
    ports = rule.get("ports")
    if ports and not any(
        (one["protocol"], str(one["port"])) == (protocol, number) for one in ports
    ):
        return False
    local = [one["podSelector"] for one in rule.get(peers, ()) if "namespaceSelector" not in one]
    return peers not in rule or any(selects(one, other) for one in local)


@pytest.mark.parametrize("folder", ["base", "overlays/gpu"])
def test_who_may_call_whom(folder: str) -> None:
    documents = render(folder)
    gpu = folder == "overlays/gpu"
    expected = [
        (WORKER, WORKER, f"TCP/{PORT}", True),
        (WORKER, WORKER, "TCP/45001", gpu),  # NCCL's ports are the kernel's choice
        (TASK, WORKER, f"TCP/{PORT}", False),
        (OUTSIDE, WORKER, f"TCP/{PORT}", False),
        (BOARD, WORKER, f"TCP/{PORT}", False),
        (WORKER, OUTSIDE, "UDP/53", True),
        (WORKER, OUTSIDE, "TCP/443", True),
        (WORKER, OUTSIDE, "TCP/6443", True),
        (WORKER, OUTSIDE, "TCP/80", False),
        (WORKER, BOARD, "TCP/6006", False),
        (TASK, BOARD, "TCP/6006", True),
        (OUTSIDE, BOARD, "TCP/6006", False),
        (BOARD, OUTSIDE, "TCP/443", False),
        (TASK, OUTSIDE, "TCP/80", True),
    ]
    assert [
        (source, target, port, allows(documents, source, target, port))
        for source, target, port, _ in expected
    ] == expected


def test_a_policy_that_lets_more_through_is_found() -> None:
    documents = render("base")
    workers = next(
        one["spec"]
        for one in documents
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "workers"
    )
    workers["ingress"][0]["from"][0]["podSelector"] = {}
    assert allows(documents, TASK, WORKER, f"TCP/{PORT}")
    del workers["ingress"][0]["from"]
    assert allows(documents, OUTSIDE, WORKER, f"TCP/{PORT}")
    documents.clear()
    assert allows(documents, OUTSIDE, WORKER, "TCP/1")
