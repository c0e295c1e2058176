"""Ends a worker group whose launcher is gone, as nobody would use its work.

The launcher renews a Lease. Worker 0 reads it without comparing clocks of two machines: it counts
as expired after repeated reads without a change for its whole duration. While the API can't be
reached nothing is known, and the training continues.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

LOOK_SECONDS = 5.0
"""Maximum interval between two reads of a lease."""

_TIMEOUTS = (3.0, 5.0)


class LeaseWatch:
    """Watches a lease in a dedicated thread."""

    def __init__(
        self,
        name: str,
        *,
        seconds: float,
        orphaned: Callable[[str], None],
    ):
        """Does nothing until `start`.

        Args:
          name: name of the lease.
          seconds: how long it is valid without a change.
          orphaned: called once, with the reason, when it has not been renewed for that long.
        """
        self._name = name
        self._seconds = seconds
        self._orphaned = orphaned
        self._look_seconds = min(LOOK_SECONDS, seconds / 6)
        self._version: str | None = None
        self._since: float | None = None

    def start(self) -> None:
        """Starts watching."""
        threading.Thread(target=self._watch, name="lease-watch", daemon=True).start()

    def _watch(self) -> None:
        reported = False
        while True:
            try:
                version = _version(self._name)
            except Exception as error:  # the thread must keep watching in any case
                if not reported:
                    line = " ".join(str(error).split())[:200]
                    logging.warning("the lease %s can't be read: %s", self._name, line)
                reported, self._since = True, None
            else:
                reported = False
                if self.is_over(version, now=time.monotonic()):
                    what = "is gone" if version is None else "was not renewed"
                    self._orphaned(f"the launcher's lease {what} for {self._seconds:g} s")
                    return
            time.sleep(self._look_seconds)

    def is_over(self, version: str | None, *, now: float) -> bool:
        """Records a version that was read; returns whether the lease has expired.

        Args:
          version: version of the lease; None: it does not exist.
          now: monotonic time, seconds.
        """
        if self._since is None or version != self._version:
            self._version, self._since = version, now
        return now - self._since > self._seconds


def _version(name: str) -> str | None:
    """Returns the resource version of a lease, None if it does not exist.

    The token is read each time: Kubernetes renews it every hour.
    """
    configuration = kubernetes.client.Configuration()
    configuration.retries = urllib3.Retry(0)
    try:
        if os.environ.get("KUBECONFIG"):
            kubernetes.config.load_kube_config(client_configuration=configuration)
        else:
            kubernetes.config.load_incluster_config(configuration)
    except kubernetes.config.ConfigException as error:
        raise OSError(str(error)) from None
    with kubernetes.client.ApiClient(configuration) as client:
        leases = kubernetes.client.CoordinationV1Api(client)
        namespace = os.environ.get("POD_NAMESPACE", "default")
        try:
            lease = leases.read_namespaced_lease(name, namespace, _request_timeout=_TIMEOUTS)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
    return str(lease.metadata.resource_version)
