"""The launcher against a real API server; what JobSet's controller does, the tests do."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envtest import ControlPlane, Relay, control_plane, eventually
from envtest_cluster import Cluster, Kubelet
from envtest_launcher import Launcher, renewed
from kubernetes.client import V1ObjectMeta, V1Pod
from test_components_train_cluster_manifest import rendered

from components.train.cluster.manifest import jobset_name

pytestmark = [pytest.mark.envtest, pytest.mark.slow]

RUN = "0b7a4c1e-5d57-4a3e-9d0e-7f6f2c1d9a10"
NAME = jobset_name(RUN, "train")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Cluster:
    return Cluster(plane)


def launcher(
    cluster: Cluster,
    folder: Path,
    *,
    pod: Any = None,
    port: int = 0,
    lease_seconds: int = 4,
) -> Launcher:
    """Starts a launcher as if in a pod, by default a new one."""
    pod = pod or cluster.create_launcher_pod()
    path = folder / f"kubeconfig-{pod.metadata.name}"
    config = cluster.plane.kubeconfig(path, namespace=cluster.namespace, port=port)
    environment = {
        "KUBECONFIG": str(config),
        "KFP_POD_NAME": pod.metadata.name,
        "KFP_POD_UID": pod.metadata.uid,
    }
    options = {"run_id": RUN, "lease_seconds": lease_seconds}
    return Launcher(folder, options, environment=environment)


def test_a_training_from_its_start_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    pod = cluster.create_launcher_pod("registry.example/charloom:1.2.3")
    with Kubelet(cluster) as kubelet, launcher(cluster, tmp_path, pod=pod) as process:
        jobset = cluster.jobset()
        assert jobset["metadata"]["name"] == NAME
        assert jobset["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": pod.metadata.name,
                "uid": pod.metadata.uid,
            }
        ]
        first, second = cluster.start_pods(jobset, node=kubelet.node)
        container = cluster.core.read_namespaced_pod(first, cluster.namespace).spec.containers[0]
        assert container.image == "registry.example/charloom:1.2.3"  # of main, not of the sidecar

        kubelet.lines[first] = [
            "2026-11-25T10:00:00.000000001Z step 10",
            "2026-11-25T10:00:01Z a b",
        ]
        kubelet.lines[second] = ["2026-11-25T10:00:00Z not shown"]
        process.wait_for("a b")
        kubelet.lines[first].append("2026-11-25T10:00:02.5Z step 20")
        process.wait_for("step 20")
        assert process.process.poll() is None

        kubelet.ended |= {first, second}
        cluster.end_pod(first, 0)
        cluster.end_pod(second, 0)
        cluster.end(NAME, "Completed")
        assert process.ended() == 0
        assert process.output.splitlines() == [
            f"JobSet {NAME} was created in namespace {cluster.namespace}",
            "step 10",
            "a b",
            "step 20",
        ]
    assert [one["metadata"]["uid"] for one in cluster.jobsets()] == [jobset["metadata"]["uid"]]


def test_a_log_that_breaks_off_is_read_again_and_no_line_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    with Kubelet(cluster) as kubelet, launcher(cluster, tmp_path) as process:
        first, _ = cluster.start_pods(cluster.jobset(), node=kubelet.node)
        kubelet.cut_after[first] = 3
        kubelet.lines[first] = [
            f"2026-11-25T10:00:0{i // 2}.12Z line {i} is whole" for i in range(8)
        ]
        process.wait_for("line 7")
        kubelet.ended.add(first)
        cluster.end_pod(first, 0)
        cluster.end(NAME, "Completed")
        assert process.ended() == 0
        assert process.output.splitlines()[1:] == [f"line {i} is whole" for i in range(8)]


def test_the_lease_is_renewed_and_belongs_to_the_jobset(cluster: Cluster, tmp_path: Path) -> None:
    pod = cluster.create_launcher_pod()
    with launcher(cluster, tmp_path, pod=pod):
        jobset = cluster.jobset()
        lease = eventually(lambda: cluster.lease(NAME), "the lease")
        assert lease.spec.lease_duration_seconds == 4
        assert lease.spec.holder_identity == pod.metadata.name
        owner = lease.metadata.owner_references[0]
        assert (owner.kind, owner.name, owner.uid) == ("JobSet", NAME, jobset["metadata"]["uid"])

        second = renewed(cluster, lease)
        third = renewed(cluster, second)
        times = [one.spec.renew_time for one in (lease, second, third)]
        assert times == sorted(set(times))
        assert third.spec.acquire_time == lease.spec.acquire_time


def test_a_retried_step_adopts_the_jobset(cluster: Cluster, tmp_path: Path) -> None:
    with launcher(cluster, tmp_path) as killed:
        uid = cluster.jobset()["metadata"]["uid"]
        lease = eventually(lambda: cluster.lease(NAME), "the lease")
        killed.kill()
    pod = cluster.create_launcher_pod()
    with launcher(cluster, tmp_path, pod=pod) as process:
        process.wait_for(f"JobSet {NAME} of an earlier attempt exists; following it")
        eventually(
            lambda: cluster.lease(NAME).spec.holder_identity == pod.metadata.name, "the new holder"
        )
        assert cluster.lease(NAME).metadata.uid == lease.metadata.uid
        assert cluster.lease(NAME).spec.acquire_time > lease.spec.acquire_time
        owners = cluster.jobset()["metadata"]["ownerReferences"]
        assert [one["uid"] for one in owners] == [pod.metadata.uid]
        cluster.end(NAME, "Completed")
        assert process.ended() == 0
    assert cluster.jobset()["metadata"]["uid"] == uid


def test_two_launchers_at_once_make_one_jobset(cluster: Cluster, tmp_path: Path) -> None:
    with launcher(cluster, tmp_path) as one, launcher(cluster, tmp_path) as other:
        eventually(
            lambda: (
                "was created" in one.output + other.output
                and "following it" in one.output + other.output
            ),
            "both launchers",
        )
        assert len(cluster.jobsets()) == 1
        cluster.end(NAME, "Completed")
        assert (one.ended(), other.ended()) == (0, 0)


def test_a_jobset_that_failed_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    with launcher(cluster, tmp_path) as killed:
        uid = cluster.jobset()["metadata"]["uid"]
        killed.kill()
    cluster.end(NAME, "Failed")
    with launcher(cluster, tmp_path) as process:
        process.wait_for("has failed and is replaced")
        process.wait_for("was created")
        jobset = cluster.jobset()
        assert jobset["metadata"]["uid"] != uid

        def lease_is_of_the_new_one() -> bool:
            owners = cluster.lease(NAME).metadata.owner_references
            return [one.uid for one in owners] == [jobset["metadata"]["uid"]]

        eventually(lease_is_of_the_new_one, "the lease's owner")


def test_a_jobset_that_completed_meanwhile_is_success(cluster: Cluster, tmp_path: Path) -> None:
    with launcher(cluster, tmp_path) as killed:
        cluster.jobset()
        killed.kill()
    cluster.end(NAME, "Completed")
    with launcher(cluster, tmp_path) as process:
        assert process.ended() == 0


def test_the_jobset_of_another_training_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    uid = cluster.create(rendered("2-plain"))["metadata"]["uid"]
    with launcher(cluster, tmp_path) as process:
        assert process.ended() == 2
        assert "already exists, for workdir None" in process.error
    assert cluster.jobset()["metadata"]["uid"] == uid


def test_restarts_and_bad_input_are_told(cluster: Cluster, tmp_path: Path) -> None:
    with launcher(cluster, tmp_path) as process:
        jobset = cluster.jobset()
        pods = cluster.start_pods(jobset)
        cluster.end_pod(pods[1], 137, "last words")
        process.wait_for("worker 1 ended with exit code 137 (Error)\n  | last words")
        cluster.delete_pods(pods)
        cluster.set_status(NAME, restarts=1, restartsCountTowardsMax=1)
        process.wait_for(
            "restarting from step 0 (1 of 3 counted): worker 1 ended with exit code 137"
        )
        pods = cluster.start_pods(jobset, attempt=1)
        cluster.end_pod(pods[0], 75, "error: peers were lost")
        cluster.end_pod(pods[1], 2, "x\nerror: records/dataset.json: is missing; run prepare")
        cluster.end(NAME, "Failed", "jobset failed")
        assert process.ended() == 2
        assert process.error == "error: records/dataset.json: is missing; run prepare"
    assert len(cluster.jobsets()) == 1  # to be looked at until its time is up


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_launcher_removes_the_jobset(
    number: signal.Signals, cluster: Cluster, tmp_path: Path
) -> None:
    with launcher(cluster, tmp_path) as process:
        process.wait_for("was created")
        pods = cluster.start_pods(cluster.jobset())
        process.process.send_signal(number)
        eventually(lambda: not cluster.jobsets(), "the removal of the JobSet")
        cluster.delete_pods(pods)  # as the garbage collector does
        code = process.ended()
        assert f"JobSet {NAME} is deleted" in process.output
        assert code == (75 if number == signal.SIGTERM else 130)


def test_a_jobset_that_someone_deletes_ends_the_step(cluster: Cluster, tmp_path: Path) -> None:
    with launcher(cluster, tmp_path) as process:
        process.wait_for("was created")
        cluster.delete(NAME)
        assert process.ended() == 1
        assert f"JobSet {NAME} was deleted by someone else" in process.error


def test_connections_that_break_are_made_again(cluster: Cluster, tmp_path: Path) -> None:
    with (
        Relay(cluster.plane.port) as relay,
        Kubelet(cluster) as kubelet,
        launcher(cluster, tmp_path, port=relay.port) as process,
    ):
        pods = cluster.start_pods(cluster.jobset(), node=kubelet.node)
        for number in range(4):
            lines = kubelet.lines.setdefault(pods[0], [])
            lines.append(f"2026-11-25T10:00:0{number}Z l{number}")
            process.wait_for(f"\nl{number}\n")
            assert relay.cut() >= 1  # that of the launcher's requests, perhaps of the lease
            cluster.set_status(NAME, restarts=number + 1, restartsCountTowardsMax=number + 1)
            process.wait_for(f"({number + 1} of 3 counted)")
        kubelet.ended.add(pods[0])
        cluster.end(NAME, "Completed")
        assert process.ended() == 0
        assert re.findall(r"^l\d$", process.output, re.MULTILINE) == ["l0", "l1", "l2", "l3"]


def test_connections_that_fall_silent_are_given_up_while_the_lease_is_good(
    cluster: Cluster, tmp_path: Path
) -> None:
    """As when a router between them forgets them: nobody is told that they are broken."""
    seconds = 30
    with (
        Relay(cluster.plane.port) as relay,
        launcher(cluster, tmp_path, port=relay.port, lease_seconds=seconds) as process,
    ):
        lease = eventually(lambda: cluster.lease(NAME), "the lease")
        eventually(lambda: relay.silence() >= 1, "a connection of the launcher")
        seen = time.monotonic()
        for _ in range(2):
            lease = renewed(cluster, lease)
            assert time.monotonic() - seen < seconds  # or else the workers end
            seen = time.monotonic()
        cluster.end(NAME, "Completed")
        assert process.ended() == 0


def test_an_api_server_that_comes_back_finds_the_launcher_waiting(
    cluster: Cluster, tmp_path: Path
) -> None:
    with launcher(cluster, tmp_path) as process:
        process.wait_for("was created")
        eventually(lambda: cluster.lease(NAME), "the lease")
        cluster.plane.stop_api()
        cluster.plane.start_api()
        renewed(cluster, cluster.lease(NAME))
        cluster.set_status(NAME, restarts=1)
        process.wait_for("restarting from step 0")
        cluster.end(NAME, "Completed")
        assert process.ended() == 0
    assert len(cluster.jobsets()) == 1


def test_a_launcher_that_is_stopped_while_the_server_is_away_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    with launcher(cluster, tmp_path) as process:
        process.wait_for("was created")
        cluster.plane.stop_api()
        try:
            process.process.send_signal(signal.SIGTERM)
            assert process.ended() == 75
            assert f"JobSet {NAME} may remain, and will end by itself soon" in process.output
        finally:
            cluster.plane.start_api()


def test_a_cluster_without_jobset_is_named(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as plane:
        assert refusal(plane, "default", tmp_path).endswith(
            "has no jobset.x-k8s.io/v1alpha2 JobSet, or no namespace default; install JobSet "
            "(https://jobset.sigs.k8s.io)"
        )


def test_a_namespace_that_is_not_there_is_named(plane: ControlPlane, tmp_path: Path) -> None:
    assert "or no namespace nowhere" in refusal(plane, "nowhere", tmp_path)


def refusal(plane: ControlPlane, namespace: str, folder: Path) -> str:
    """Returns with which error a launcher ends."""
    config = plane.kubeconfig(folder / "kubeconfig", namespace=namespace)
    options = {"run_id": RUN, "image": "registry.example/charloom:0.1.0"}
    with Launcher(folder, options, environment={"KUBECONFIG": str(config)}) as process:
        assert process.ended() == 2
        return process.error


def test_an_image_that_cannot_be_found_out_is_an_error(cluster: Cluster, tmp_path: Path) -> None:
    pod = V1Pod(metadata=V1ObjectMeta(name="gone", uid="1-2-3"))
    with launcher(cluster, tmp_path, pod=pod) as process:
        assert process.ended() == 2
        assert "the launcher's pod gone can't be read (Not Found)" in process.error
    assert cluster.jobsets() == []
