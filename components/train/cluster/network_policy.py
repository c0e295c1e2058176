"""The network policy of a worker group: only workers of the same JobSet may call each other.

TensorFlow's server has no authentication and runs what a caller sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.train.cluster.manifest import GPU_RESOURCE, JOBSET_LABEL, owner_reference
from components.train.cluster.pod import PORT


def render_network_policy(jobset: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the policy of a JobSet for the API; it is removed with the JobSet.

    It admits the JobSet's own workers and isolates them from all other pods. What the workers call
    is limited by `k8s/base/network.yaml` alone.

    Args:
      jobset: as the API returned it.
    """
    name, uid = jobset["metadata"]["name"], jobset["metadata"]["uid"]
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    own = {"podSelector": {"matchLabels": {JOBSET_LABEL: name}}}
    rule: dict[str, Any] = {"from": [own]}
    if GPU_RESOURCE not in template["spec"]["containers"][0]["resources"]["limits"]:
        rule["ports"] = [{"protocol": "TCP", "port": PORT}]  # NCCL lets the kernel choose its ports
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            # The policy of an earlier JobSet of this name may still be there.
            "name": f"{name}-{uid[:8]}",
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner_reference(jobset)],
        },
        "spec": {**own, "policyTypes": ["Ingress"], "ingress": [rule]},
    }
