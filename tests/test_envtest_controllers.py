"""The launcher, its manifest and JobSet's own controller together; only the nodes are not real.

Skips unless KUBEBUILDER_ASSETS has `kube-controller-manager` and `jobset`, JobSet's program, too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envtest import ControlPlane, control_plane, eventually
from envtest_cluster import Cluster, Kubelet
from envtest_controllers import Node, controllers, running
from envtest_launcher import Launcher
from test_components_train_cluster_manifest import CASES, rendered

from components.train.cluster.manifest import jobset_name

pytestmark = [pytest.mark.envtest, pytest.mark.slow]

RUN = "0b7a4c1e-5d57-4a3e-9d0e-7f6f2c1d9a10"
NAME = jobset_name(RUN, "train")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("plane")
    with control_plane(folder) as plane, controllers(plane, folder):
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    cluster = Cluster(plane)
    with Kubelet(cluster) as kubelet, Node(cluster, kubelet):
        yield cluster


@pytest.fixture
def launcher(
    cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Launcher]:
    pod = cluster.create_launcher_pod()
    config = cluster.plane.kubeconfig(tmp_path / "kubeconfig", namespace=cluster.namespace)
    environment = {
        "KUBECONFIG": str(config),
        "KFP_POD_NAME": pod.metadata.name,
        "KFP_POD_UID": pod.metadata.uid,
    }
    options = {"run_id": RUN, "lease_seconds": 30} | getattr(request, "param", {})
    with Launcher(tmp_path, options, environment=environment, max_restarts=1) as launcher:
        yield launcher


@pytest.mark.parametrize("case", CASES)
def test_jobset_s_webhooks_take_every_jobset(case: str, cluster: Cluster) -> None:
    assert cluster.create(rendered(case), dry_run="All")


def test_a_training_that_completes(cluster: Cluster, launcher: Launcher) -> None:
    pods = running(cluster, attempt=0)
    found = cluster.core.read_namespaced_pod(pods[1], cluster.namespace)
    assert (found.spec.hostname, found.spec.subdomain) == (f"{NAME}-worker-0-1", NAME)
    for pod in pods:
        cluster.end_pod(pod, 0)
    assert launcher.ended() == 0
    assert cluster.jobset()["status"]["terminalState"] == "Completed"


def test_a_worker_that_was_stopped_is_not_counted(cluster: Cluster, launcher: Launcher) -> None:
    for attempt in range(3):
        cluster.end_pod(running(cluster, attempt=attempt)[1], 75, "error: stopped by SIGTERM")
        launcher.wait_for(
            "restarting from step 0 (0 of 1 counted): worker 1 ended with exit code 75"
        )
        assert counted_restarts(cluster, attempt + 1) == 0
    for pod in running(cluster, attempt=3):
        cluster.end_pod(pod, 0)
    assert launcher.ended() == 0


def counted_restarts(cluster: Cluster, restarts: int) -> int:
    """Returns how many restarts count, once there were so many."""

    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = cluster.jobset().get("status", {})
        return status if status.get("restarts") == restarts else None

    return int(eventually(look, f"restart {restarts}").get("restartsCountTowardsMax", 0))


def test_a_node_that_is_drained_is_not_counted(cluster: Cluster, launcher: Launcher) -> None:
    pod = running(cluster, attempt=0)[0]
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    change = {"status": {"conditions": [condition]}}
    cluster.core.patch_namespaced_pod_status(pod, cluster.namespace, change)
    cluster.end_pod(pod, 143)
    assert counted_restarts(cluster, 1) == 0
    launcher.wait_for("(0 of 1 counted)")


def test_a_worker_that_crashes_again_and_again(cluster: Cluster, launcher: Launcher) -> None:
    cluster.end_pod(running(cluster, attempt=0)[1], 137)
    assert counted_restarts(cluster, 1) == 1
    launcher.wait_for("(1 of 1 counted): worker 1 ended with exit code 137")
    cluster.end_pod(running(cluster, attempt=1)[1], 137)
    assert launcher.ended() == 75
    assert launcher.error.startswith("error: worker 1 ended with exit code 137 (Error), after 1 ")
    assert cluster.jobset()["status"]["terminalState"] == "Failed"


def test_bad_input_fails_for_good(cluster: Cluster, launcher: Launcher) -> None:
    cluster.end_pod(running(cluster, attempt=0)[0], 2, "error: records: no such folder")
    assert launcher.ended() == 2
    assert launcher.error == "error: records: no such folder"
    assert cluster.jobset()["status"]["restarts"] == 0


def test_bad_input_fails_for_good_whichever_worker_ends_first(
    cluster: Cluster, launcher: Launcher
) -> None:
    """The others lose the worker that ends, and end too; Kubernetes looks at any of them first."""
    for pod, code in zip(running(cluster, attempt=0), (75, 2), strict=True):
        cluster.end_pod(pod, code, "error: records: no such folder")
    assert launcher.ended() == 2
    assert launcher.error == "error: records: no such folder"
    terminal = [one["status"].get("terminalState") for one in cluster.jobsets()]
    assert terminal in ([], ["Failed"])


def test_orphans_end_for_good(cluster: Cluster, launcher: Launcher) -> None:
    cluster.end_pod(running(cluster, attempt=0)[0], 78, "error: nobody renews the lease")
    assert launcher.ended() == 75
    assert cluster.jobset()["status"]["restarts"] == 0


@pytest.mark.parametrize("launcher", [{"deadline_hours": 0.001}], indirect=True)
def test_a_training_that_takes_too_long_is_ended(cluster: Cluster, launcher: Launcher) -> None:
    running(cluster, attempt=0)
    assert launcher.ended() == 1
    assert "the training ran longer than 0.001 h" in launcher.error
    assert cluster.jobset()["status"]["restarts"] == 0


def test_a_stopped_launcher_leaves_nothing(cluster: Cluster, launcher: Launcher) -> None:
    running(cluster, attempt=0)
    eventually(lambda: cluster.lease(NAME), "the lease")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.ended() == 75
    assert f"JobSet {NAME} is deleted" in launcher.output
    selector = "jobset.sigs.k8s.io/jobset-name"
    assert not cluster.core.list_namespaced_pod(cluster.namespace, label_selector=selector).items
    assert not cluster.jobsets()
    eventually(lambda: not cluster.lease(NAME), "the removal of the lease")


def test_a_launcher_whose_pod_is_deleted_takes_the_workers_along(
    cluster: Cluster, launcher: Launcher
) -> None:
    running(cluster, attempt=0)
    launcher.kill()
    owner = cluster.jobset()["metadata"]["ownerReferences"][0]["name"]
    cluster.core.delete_namespaced_pod(owner, cluster.namespace, grace_period_seconds=0)
    eventually(lambda: not cluster.jobsets(), "the removal of the JobSet")
    eventually(
        lambda: not cluster.core.list_namespaced_pod(cluster.namespace).items, "no pods to be left"
    )
