"""The JobSets that we render, as a real API server takes and refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from crd_schema import load_schema, violations
from envtest import ControlPlane, control_plane
from envtest_cluster import Cluster
from kubernetes.client import ApiException
from test_components_train_cluster_manifest import CASES, CRD, rendered

pytestmark = [pytest.mark.envtest, pytest.mark.slow]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Cluster:
    return Cluster(plane)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the path and value of everything in an object that has no parts."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}")
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    else:
        yield path, value


@pytest.mark.parametrize("case", CASES)
def test_the_server_takes_every_jobset_and_only_adds_defaults(case: str, cluster: Cluster) -> None:
    sent, stored = dict(leaves(rendered(case))), dict(leaves(cluster.create(rendered(case))))
    assert {path: stored.get(path) for path in sent} == sent
    server = ("uid", "creationTimestamp", "generation", "resourceVersion", "managedFields")
    added = {
        path: value
        for path, value in stored.items()
        if path not in sent and not path.startswith(tuple(f".metadata.{one}" for one in server))
    }
    container = ".spec.replicatedJobs[0].template.spec.template.spec.containers[0]"
    assert added == {
        ".metadata.namespace": cluster.namespace,
        ".spec.replicatedJobs[0].groupName": "default",
        f"{container}.ports[0].protocol": "TCP",
    }


MISTAKES: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "enum": (("spec", "failurePolicy", "restartStrategy"), "Never", "Unsupported value"),
    "unknown": (("spec", "failurePolicy", "maxRestart"), 3, "unknown field"),
    "type": (("spec", "replicatedJobs", 0, "replicas"), "1", "must be of type integer"),
    "rule": (("spec", "startupPolicy"), {"startupPolicyOrder": "InOrder"}, "mutually exclusive"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_server_refuses_what_our_check_of_manifests_refuses(
    mistake: str, cluster: Cluster
) -> None:
    where, value, refusal = MISTAKES[mistake]
    jobset = rendered("2-plain")
    jobset["spec"]["replicatedJobs"][0]["dependsOn"] = [{"name": "data", "status": "Ready"}]
    assert cluster.create(jobset, dry_run="All")
    at: Any = jobset
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    with pytest.raises(ApiException, match=refusal) as refused:
        cluster.create(jobset)
    assert refused.value.status in (400, 422)
    assert violations(load_schema(CRD, "v1alpha2"), jobset)
    assert cluster.jobsets() == []


@pytest.mark.parametrize(
    "change",
    [
        {"failurePolicy": {"maxRestarts": 9}},
        {"successPolicy": {"operator": "Any"}},
        {"network": {"subdomain": "elsewhere"}},
    ],
)
def test_a_jobset_that_is_there_keeps_its_policies(
    change: dict[str, Any], cluster: Cluster
) -> None:
    name = cluster.create(rendered("2-plain"))["metadata"]["name"]
    with pytest.raises(ApiException, match="Value is immutable") as refused:
        cluster.change(name, {"spec": change})
    assert refused.value.status == 422
