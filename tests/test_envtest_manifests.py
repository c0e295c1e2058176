"""The manifests of k8s/ and the workers' pods, as a real API server takes and refuses them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from envtest import ControlPlane, control_plane
from envtest_cluster import K8S, NAMESPACE, Cluster, apply_base, documents, kubectl
from kubernetes.client import ApiException
from test_components_train_cluster_manifest import CASES, IMAGE

from components.train.cluster.manifest import render

pytestmark = [pytest.mark.envtest, pytest.mark.slow]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        apply_base(plane)
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Cluster:
    return Cluster(plane, namespace=NAMESPACE)


# Pods


@pytest.mark.parametrize("case", ["2-plain", "2-full"])
def test_workers_pass_the_namespace_s_pod_security(case: str, cluster: Cluster) -> None:
    labels = cluster.core.read_namespace(NAMESPACE).metadata.labels
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    workers, options = CASES[case]
    jobset = render(options, image=IMAGE, workers=workers, arguments=[], max_restarts=3)
    names = cluster.start_pods(jobset)
    assert len(names) == workers
    cluster.delete_pods(names)

    def refused(**change: Any) -> None:
        mutant = copy.deepcopy(jobset)
        job = mutant["spec"]["replicatedJobs"][0]["template"]["spec"]
        job["template"]["spec"].update(change)
        with pytest.raises(ApiException, match='violates PodSecurity \\\\"restricted'):
            cluster.start_pods(mutant)

    refused(hostNetwork=True)
    refused(securityContext={})
    volumes = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["volumes"]
    refused(volumes=[*volumes, {"name": "root", "hostPath": {"path": "/"}}])


def test_pods_of_deployments_pass_the_namespace_s_pod_security(cluster: Cluster) -> None:
    templates = [
        one["spec"]["template"] for one in documents("base") if one["kind"] == "Deployment"
    ]
    assert templates
    for template in templates:
        body = template | {"metadata": template["metadata"] | {"generateName": "pod-"}}
        assert cluster.core.create_namespaced_pod(NAMESPACE, body, dry_run="All")


# Manifests

FOREIGN: dict[str, set[str]] = {
    "base": set(),
    "overlays/gpu": set(),
    "overlays/cpu-kind": set(),
    "overlays/kueue": {"LocalQueue"},
    "overlays/flink": {"FlinkDeployment"},
}
"""Folder -> kinds in it whose definitions are not installed here."""

DRY_RUN = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")


@pytest.mark.parametrize("folder", FOREIGN)
def test_the_server_takes_the_manifests(folder: str, plane: ControlPlane, tmp_path: Path) -> None:
    """In a namespace of its own; checked as `kubectl apply -k` does, and not stored."""
    namespace = Cluster(plane).namespace
    moved = {"namespace": namespace, "resources": [os.path.relpath(K8S / folder, tmp_path)]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(moved))
    found = list(yaml.safe_load_all(kubectl("kustomize", str(tmp_path))))
    assert {one["metadata"].get("namespace", namespace) for one in found} == {namespace}
    known = [one for one in found if one["kind"] not in FOREIGN[folder]]
    assert {one["kind"] for one in found} - {one["kind"] for one in known} == FOREIGN[folder]
    text = kubectl(*DRY_RUN, plane=plane, text=yaml.safe_dump_all(known))
    assert text.count("(server dry run)") == len(known)


def test_the_server_refuses_a_manifest_with_a_slip(plane: ControlPlane) -> None:
    slip = next(one for one in documents("base") if one["kind"] == "Deployment")
    slip["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(AssertionError, match="unknown field"):
        kubectl(*DRY_RUN, plane=plane, text=yaml.safe_dump(slip))
