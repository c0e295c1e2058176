from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
from test_components_train_cluster_manifest import rendered

from components.train.cluster.network_policy import render_network_policy

UID = "6f1d2c3b-aaaa-bbbb-cccc-0123456789ab"
NAME = "train-0b7a4c1e-5d57-4a3e-9d0e-7f6f2c1d9a10"
OWN = {"podSelector": {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": NAME}}}


def policy_of(case: str) -> dict[str, Any]:
    jobset = rendered(case)
    jobset["metadata"]["uid"] = UID
    return render_network_policy(jobset)


def test_only_workers_of_the_same_jobset_are_admitted_to_the_port() -> None:
    assert policy_of("2-plain") == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": f"{NAME}-6f1d2c3b",
            "labels": {
                "app.kubernetes.io/name": "charloom",
                "app.kubernetes.io/component": "worker",
                "charloom.dev/run-id": NAME.removeprefix("train-"),
            },
            "ownerReferences": [
                {
                    "apiVersion": "jobset.x-k8s.io/v1alpha2",
                    "kind": "JobSet",
                    "name": NAME,
                    "uid": UID,
                }
            ],
        },
        "spec": {
            **OWN,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [OWN], "ports": [{"protocol": "TCP", "port": 2222}]}],
        },
    }


@pytest.mark.parametrize("case", ["2-gpu", "2-full"])
def test_between_workers_with_gpus_all_ports_are_open(case: str) -> None:
    assert policy_of(case)["spec"]["ingress"] == [{"from": [OWN]}]


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_the_policy_is_valid(version: str) -> None:
    kubernetes_validate.validate(policy_of("2-plain"), version, strict=True)
