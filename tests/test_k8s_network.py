"""Who may call whom by the network policies, worked out as Kubernetes reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from kustomize import Document, pod_templates, render

from components.train.cluster import manifest
from components.train.cluster.manifest import JobSetOptions
from components.train.cluster.network_policy import render_network_policy
from components.train.cluster.pod import PORT

RUN, OTHER_RUN = "train-a", "train-b"


def jobset(name: str, *, gpus: int = 0) -> Document:
    """Returns a JobSet as the API does."""
    options = JobSetOptions(run_id="r", gpus_per_worker=gpus)
    body = manifest.render(options, image="i", workers=2, arguments=[], max_restarts=0)
    return body | {"metadata": body["metadata"] | {"name": name, "uid": f"{name}-0b7a4c1e"}}


def workers_of(name: str) -> dict[str, str]:
    """Returns the labels of a JobSet's pods; its controller adds its name."""
    (template,) = pod_templates(jobset(name)).values()
    return template["metadata"]["labels"] | {manifest.JOBSET_LABEL: name}


WORKER, STRANGER = workers_of(RUN), workers_of(OTHER_RUN)
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


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("folder", ["base", "overlays/gpu"])
def test_who_may_call_whom(folder: str, gpus: int) -> None:
    groups = [jobset(name, gpus=gpus) for name in (RUN, OTHER_RUN)]
    documents = [*render(folder), *map(render_network_policy, groups)]
    expected = [
        (WORKER, WORKER, f"TCP/{PORT}", True),
        (WORKER, WORKER, "TCP/45001", gpus > 0),  # NCCL's ports are the kernel's choice
        (STRANGER, WORKER, f"TCP/{PORT}", False),
        (WORKER, STRANGER, f"TCP/{PORT}", False),
        (WORKER, STRANGER, "TCP/45001", False),
        (TASK, WORKER, f"TCP/{PORT}", False),
        (OUTSIDE, WORKER, f"TCP/{PORT}", False),
        (BOARD, WORKER, f"TCP/{PORT}", False),
        (WORKER, OUTSIDE, "UDP/53", True),
        (WORKER, OUTSIDE, "TCP/443", True),
        (WORKER, OUTSIDE, "TCP/6443", True),
        (WORKER, OUTSIDE, "TCP/8443", True),
        (WORKER, OUTSIDE, "TCP/16443", True),
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


def test_without_its_policy_a_worker_admits_nobody() -> None:
    assert not allows(render("base"), WORKER, WORKER, f"TCP/{PORT}")


def test_without_those_of_the_namespace_a_jobset_is_still_closed_and_may_call_others() -> None:
    documents = [render_network_policy(jobset(RUN))]
    assert allows(documents, WORKER, WORKER, f"TCP/{PORT}")
    assert not allows(documents, TASK, WORKER, f"TCP/{PORT}")
    assert allows(documents, WORKER, OUTSIDE, "TCP/80")


def test_a_policy_that_lets_more_through_is_found() -> None:
    documents = [*render("base"), render_network_policy(jobset(RUN))]
    workers = documents[-1]["spec"]
    workers["ingress"][0]["from"][0]["podSelector"] = {}
    assert allows(documents, TASK, WORKER, f"TCP/{PORT}")
    del workers["ingress"][0]["from"]
    assert allows(documents, OUTSIDE, WORKER, f"TCP/{PORT}")
    documents.clear()
    assert allows(documents, OUTSIDE, WORKER, "TCP/1")
