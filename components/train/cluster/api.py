"""The launcher's access to the Kubernetes API: plain dictionaries, and retries on faults."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from components.train.cluster.manifest import API_GROUP, API_VERSION, JOBSET_LABEL, PLURAL
from model.errors import InputError, RestartableError

_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_JOBSETS = (API_GROUP, API_VERSION)
_TRANSIENT = frozenset({401, 408, 429, 500, 502, 503, 504})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """How often the API is polled, and how long faults are tolerated; all in seconds."""

    tick: float = 1.0
    """Between two polls of JobSet, pods and log; a failed pod may be gone a few seconds later."""
    first_wait: float = 0.5
    """Delay after a failed request; doubled for each further one, up to `longest_wait`."""
    longest_wait: float = 15.0
    patience: float = 600.0
    """How long the API may be unreachable; the training continues meanwhile."""
    stop: float = 20.0
    """Time for removing a JobSet when the launcher itself is asked to stop."""


class ClusterApi:
    """A connection to the API server that retries after transient faults."""

    def __init__(self, *, pace: Pace | None = None):
        """Connects as the pod's service account, or else according to kubeconfig.

        Raises:
          InputError: neither is available.
        """
        self.pace = pace or Pace()
        self.stop = threading.Event()
        """When set, requests are no longer retried."""
        self.asked_to_stop: Callable[[], bool] = self.stop.is_set
        """The same, for signal handlers, which must not set an event."""
        self._connect()

    def _connect(self) -> None:
        """Reads addresses, certificates and tokens; called again after a token was refused."""
        configuration = kubernetes.client.Configuration()
        configuration.retries = urllib3.Retry(0, redirect=3)
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
                kubernetes.config.load_incluster_config(configuration)
                self.namespace = _read(_NAMESPACE_FILE)
            else:
                kubernetes.config.load_kube_config(client_configuration=configuration)
                _, context = kubernetes.config.list_kube_config_contexts()
                self.namespace = context["context"].get("namespace", "default")
        except (kubernetes.config.ConfigException, OSError) as error:
            raise InputError(
                f"can't connect to the cluster's API ({' '.join(str(error).split())}); the launcher runs "
                "in a pod with a service account, or where KUBECONFIG names a file"
            ) from None
        self.namespace = os.environ.get("POD_NAMESPACE") or self.namespace
        self.host = configuration.host
        client = kubernetes.client.ApiClient(configuration)
        self._client = client
        self._custom = kubernetes.client.CustomObjectsApi(client)
        self._core = kubernetes.client.CoreV1Api(client)
        self._leases = kubernetes.client.CoordinationV1Api(client)
        self._networking = kubernetes.client.NetworkingV1Api(client)

    def call(
        self, send: Callable[[], Any], what: str, *, patience: float | None = None
    ) -> dict[str, Any]:
        """Sends a request until it is answered; returns the JSON answer.

        Args:
          send: the request; called again after a fault, so it must look up its client itself.
          what: for messages, such as "create the JobSet".
          patience: seconds to keep trying, even after a stop; default: the pace's, and only until a
            stop.

        Raises:
          ApiException: the server refused with a code that the caller may expect (404, 409).
          InputError: the server refused permanently.
          RestartableError: no answer for too long, or there was a stop.
        """
        stoppable = patience is None
        patience = self.pace.patience if patience is None else patience
        deadline = time.monotonic() + patience
        wait = self.pace.first_wait
        while True:
            after = 0.0
            try:
                return self._answer(send)
            except ApiException as error:
                if error.status not in _TRANSIENT:
                    raise self._refusal(error, what) from None
                fault = f"{error.status} {error.reason}"
                after = _retry_after(error)
                if error.status == 401:  # the token was renewed: read it again
                    self._connect()
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                fault = f"{type(error).__name__}: {error}"
            left = deadline - time.monotonic()
            if left <= 0 or self.pause(min(max(wait, after), left), stoppable=stoppable):
                raise RestartableError(
                    f"can't {what}: the API server {self.host} failed up to {patience:g} s, "
                    f"at last with {' '.join(fault.split())[:200]}"
                )
            wait = min(2 * wait, self.pace.longest_wait)

    def pause(self, seconds: float, *, stoppable: bool = True) -> bool:
        """Waits; returns True immediately on a stop, if `stoppable`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if stoppable and (self.stop.is_set() or self.asked_to_stop()):
                return True
            time.sleep(min(0.1, left))
        return False

    def _answer(self, send: Callable[[], Any]) -> dict[str, Any]:
        response = send()
        try:
            content = json.loads(response.data)
        finally:
            response.release_conn()
        if not isinstance(content, dict):
            raise ValueError("the answer is not an object")
        return content

    def _refusal(self, error: ApiException, what: str) -> BaseException:
        if error.status in (404, 409, 410):
            expected: BaseException = error
            return expected
        try:
            message = str(json.loads(error.body)["message"])
        except (ValueError, KeyError, TypeError):
            message = str(error.reason)
        hint = "; apply the roles of k8s/base" if error.status == 403 else ""
        return InputError(f"the cluster refused to {what} ({error.status}): {message}{hint}")

    # JobSets

    def create_jobset(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates a JobSet.

        Raises:
          ApiException: 409, the name is taken.
          InputError: JobSet is not installed in the cluster, or this one was refused.
        """
        try:
            return self.call(
                lambda: self._custom.create_namespaced_custom_object(
                    *_JOBSETS, self.namespace, PLURAL, dict(body), **_RAW
                ),
                "create the JobSet",
            )
        except ApiException as error:
            if error.status != 404:
                raise
            raise InputError(
                f"the cluster at {self.host} has no {API_GROUP}/{API_VERSION} JobSet, or no "
                f"namespace {self.namespace}; install JobSet (https://jobset.sigs.k8s.io)"
            ) from None

    def get_jobset(self, name: str, *, patience: float | None = None) -> dict[str, Any] | None:
        """Returns a JobSet, None if it does not exist."""
        return self._none_if_missing(
            lambda: self._custom.get_namespaced_custom_object(
                *_JOBSETS, self.namespace, PLURAL, name, **_RAW
            ),
            "read the JobSet",
            patience=patience,
        )

    def patch_jobset(self, name: str, change: Mapping[str, Any]) -> dict[str, Any] | None:
        """Merges a change into a JobSet; returns None if it does not exist."""
        return self._none_if_missing(
            lambda: self._custom.patch_namespaced_custom_object(
                *_JOBSETS, self.namespace, PLURAL, name, dict(change), **_RAW
            ),
            "change the JobSet",
        )

    def delete_jobset(self, name: str, *, uid: str, patience: float | None = None) -> None:
        """Removes a JobSet with its pods and lease, if it exists.

        It remains until its pods are gone: after a removal in the background, a controller that has
        not noticed it yet may create them again.

        Raises:
          ApiException: 409, the JobSet of that name is another one.
        """
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        self._none_if_missing(
            lambda: self._custom.delete_namespaced_custom_object(
                *_JOBSETS, self.namespace, PLURAL, name, body=options, **_RAW
            ),
            "delete the JobSet",
            patience=patience,
        )

    # Pods

    def pods(self, jobset: str, *, patience: float | None = None) -> list[dict[str, Any]]:
        """Returns the pods of a JobSet."""
        answer = self.call(
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{JOBSET_LABEL}={jobset}", **_RAW
            ),
            "list the workers' pods",
            patience=patience,
        )
        return list(answer["items"])

    def get_pod(self, name: str) -> dict[str, Any]:
        """Returns a pod.

        Raises:
          ApiException: 404, it does not exist.
        """
        return self.call(
            lambda: self._core.read_namespaced_pod(name, self.namespace, **_RAW), "read the pod"
        )

    def open_log(self, pod: str, *, since_seconds: int | None) -> Any:
        """Returns the open response of a pod's log so far, each line with its timestamp.

        Args:
          pod: the pod's name.
          since_seconds: maximum age of the first line; None: the whole log.
        """
        age = {} if since_seconds is None else {"since_seconds": since_seconds}
        return self._core.read_namespaced_pod_log(
            pod, self.namespace, timestamps=True, **age, **_RAW
        )

    # Leases

    def get_lease(self, name: str, *, patience: float) -> dict[str, Any] | None:
        """Returns a lease, None if it does not exist."""
        return self._none_if_missing(
            lambda: self._leases.read_namespaced_lease(name, self.namespace, **_RAW_LEASE),
            "read the lease",
            patience=patience,
        )

    def create_lease(self, body: Mapping[str, Any], *, patience: float) -> dict[str, Any]:
        """Creates a lease.

        Raises:
          ApiException: 409, the name is taken.
        """
        return self.call(
            lambda: self._leases.create_namespaced_lease(self.namespace, dict(body), **_RAW_LEASE),
            "create the lease",
            patience=patience,
        )

    def replace_lease(
        self, name: str, body: Mapping[str, Any], *, patience: float
    ) -> dict[str, Any]:
        """Replaces a lease.

        Raises:
          ApiException: 404, or 409: it has changed meanwhile.
        """
        return self.call(
            lambda: self._leases.replace_namespaced_lease(
                name, self.namespace, dict(body), **_RAW_LEASE
            ),
            "renew the lease",
            patience=patience,
        )

    # Network policies

    def create_network_policy(self, body: Mapping[str, Any]) -> None:
        """Creates a network policy, unless one of that name exists.

        Raises:
          InputError: the cluster refused.
        """
        what = "create the network policy"
        try:
            self.call(
                lambda: self._networking.create_namespaced_network_policy(
                    self.namespace, dict(body), **_RAW
                ),
                what,
            )
        except ApiException as error:
            if error.status != 409:
                raise InputError(f"the cluster refused to {what} ({error.status})") from None

    def _none_if_missing(
        self, send: Callable[[], Any], what: str, *, patience: float | None = None
    ) -> dict[str, Any] | None:
        try:
            return self.call(send, what, patience=patience)
        except ApiException as error:
            if error.status == 404:
                return None
            raise


_RAW: dict[str, Any] = {"_preload_content": False, "_request_timeout": (5.0, 10.0)}
_RAW_LEASE: dict[str, Any] = {"_preload_content": False, "_request_timeout": (2.0, 4.0)}
"""A lease can't wait: a silently dead connection must not use up its whole duration."""


def _retry_after(error: ApiException) -> float:
    try:
        return min(60.0, float((error.headers or {}).get("Retry-After", 0)))
    except ValueError:
        return 0.0


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()
