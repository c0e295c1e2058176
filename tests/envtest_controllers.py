"""The controllers of Kubernetes and of JobSet, real ones, and a node that runs pods in name only."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import yaml
from envtest import ControlPlane, eventually, free_port
from envtest_cluster import Cluster, Kubelet
from kubernetes.client import ApiException

PROGRAMS = ("kube-controller-manager", "jobset")


@contextlib.contextmanager
def controllers(plane: ControlPlane, folder: Path) -> Iterator[None]:
    """Runs the Job controller, the garbage collector, and JobSet's controller and webhooks."""
    config = plane.kubeconfig(folder / "admin", namespace="default")
    names = ["job-controller", "garbage-collector-controller"]
    flags = [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"]
    plane.start_program(PROGRAMS[0], [*flags, f"--controllers={','.join(names)}"])

    certificates = folder / "webhook"
    certificates.mkdir()
    shutil.copy(plane.certificate, certificates / "tls.crt")
    shutil.copy(plane.key, certificates / "tls.key")
    port = free_port()
    settings = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "internalCertManagement": {"enable": False},
        "leaderElection": {"leaderElect": False},
        "webhook": {"port": port, "host": "127.0.0.1", "certDir": str(certificates)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": "0"},
    }
    (folder / "jobset.yaml").write_text(yaml.safe_dump(settings))
    arguments = [f"--kubeconfig={config}", f"--config={folder / 'jobset.yaml'}"]
    plane.start_program(PROGRAMS[1], arguments)
    _register_webhooks(plane, port)
    yield


def _register_webhooks(plane: ControlPlane, port: int) -> None:
    """Makes the API server ask JobSet's program, as its own manifests do."""
    admission = kubernetes.client.AdmissionregistrationV1Api(plane.client())
    authority = plane.certificate_base64()

    def webhook(name: str, path: str, group: str, version: str, kind: str, *verbs: str) -> Any:
        url = f"https://127.0.0.1:{port}/{path}"
        rule = {"apiGroups": [group], "apiVersions": [version], "resources": [kind]}
        return {
            "name": name,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "clientConfig": {"url": url, "caBundle": authority},
            "rules": [rule | {"operations": list(verbs)}],
        }

    jobsets = ("jobset.x-k8s.io", "v1alpha2", "jobsets")
    pods = ("", "v1", "pods")
    path = "jobset-x-k8s-io-v1alpha2-jobset"
    admission.create_mutating_webhook_configuration(
        {
            "metadata": {"name": "jobset"},
            "webhooks": [
                webhook("mjobset.kb.io", f"mutate-{path}", *jobsets, "CREATE"),
                webhook("mpod.kb.io", "mutate--v1-pod", *pods, "CREATE"),
            ],
        }
    )
    admission.create_validating_webhook_configuration(
        {
            "metadata": {"name": "jobset"},
            "webhooks": [
                webhook("vjobset.kb.io", f"validate-{path}", *jobsets, "CREATE", "UPDATE"),
                webhook("vpod.kb.io", "validate--v1-pod", *pods, "CREATE"),
            ],
        }
    )
    pod = {
        "metadata": {"name": "probe"},
        "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "automountServiceAccountToken": False,
        },
    }
    cluster = Cluster(plane)
    pod["spec"]["serviceAccountName"] = "charloom-worker"

    def answers() -> bool:
        with contextlib.suppress(ApiException):
            cluster.core.create_namespaced_pod(cluster.namespace, pod, dry_run="All")
            return True
        return False

    eventually(answers, "JobSet's webhooks")


class Node:
    """Takes the pods of a namespace, says that they run, and lets them go when asked."""

    def __init__(self, cluster: Cluster, kubelet: Kubelet):
        """Begins at once."""
        self._cluster, self._kubelet = cluster, kubelet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.1):
            for pod in self._cluster.core.list_namespaced_pod(self._cluster.namespace).items:
                if "jobset.sigs.k8s.io/jobset-name" not in (pod.metadata.labels or {}):
                    continue
                with contextlib.suppress(ApiException):  # it is gone, or was changed meanwhile
                    if pod.metadata.deletion_timestamp:
                        self._cluster.delete_pods([pod.metadata.name])
                    elif not pod.spec.node_name:
                        self._run(pod.metadata.name)

    def _run(self, name: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": self._kubelet.node}
        self._cluster.core.create_namespaced_pod_binding(
            name,
            self._cluster.namespace,
            {"metadata": {"name": name}, "target": target},
            _preload_content=False,
        )
        self._cluster.run_pod(name)


def running(cluster: Cluster, *, attempt: int, count: int = 2) -> list[str]:
    """Returns the names of the workers' pods by rank, once all of an attempt run."""
    selector = f"jobset.sigs.k8s.io/restart-attempt={attempt}"

    def look() -> list[str]:
        answer = cluster.core.list_namespaced_pod(cluster.namespace, label_selector=selector)
        pods = [one for one in answer.items if one.status.phase == "Running"]
        pods.sort(
            key=lambda one: int(one.metadata.labels["batch.kubernetes.io/job-completion-index"])
        )
        return [one.metadata.name for one in pods] if len(pods) == count else []

    return eventually(look, f"{count} pods of attempt {attempt}")
