"""Keeps the lease of a JobSet; its workers end when it is not renewed."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Mapping
from typing import Any

from kubernetes.client.exceptions import ApiException

from components.train.cluster.api import ClusterApi
from components.train.cluster.manifest import owner_reference
from model.errors import RestartableError


class LeaseKeeper:
    """Renews the lease in a dedicated thread."""

    def __init__(
        self,
        api: ClusterApi,
        jobset: Mapping[str, Any],
        *,
        seconds: int,
        holder: str,
    ):
        """Renews nothing until entered.

        Args:
          api: the API connection.
          jobset: owner of the lease, which has its name and is removed with it.
          seconds: duration of the lease.
          holder: name of the launcher's pod.
        """
        self._api = api
        self._name = jobset["metadata"]["name"]
        self._owner = owner_reference(jobset)
        self._seconds = seconds
        self._holder = holder
        self._error: Exception | None = None
        self._patience = seconds / 4
        self._stop = threading.Event()

    def __enter__(self) -> LeaseKeeper:
        threading.Thread(target=self._keep, name="lease", daemon=True).start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()

    def raise_if_lost(self) -> None:
        """Raises the error that permanently prevents renewing the lease."""
        if self._error:
            raise self._error

    def _keep(self) -> None:
        while not self._stop.is_set() and not self._api.stop.is_set():
            try:
                # Retry transient faults next time: the workers ask the same server.
                with contextlib.suppress(RestartableError, ApiException):
                    self._renew()
            except Exception as error:  # otherwise all workers would end without a reason given
                self._error = error
                return
            self._stop.wait(self._patience)

    def _renew(self) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found = self._api.get_lease(self._name, patience=self._patience)
        if self._stop.is_set():
            return
        spec = {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": self._seconds,
            "renewTime": now,
        }
        if found is None:
            metadata: dict[str, Any] = {"name": self._name, "ownerReferences": [self._owner]}
            spec["acquireTime"] = now
            self._api.create_lease(_lease(metadata, spec), patience=self._patience)
        else:
            metadata = found["metadata"] | {"ownerReferences": [self._owner]}
            metadata.pop("managedFields", None)
            before = found.get("spec", {})
            if before.get("holderIdentity") != self._holder:
                spec["acquireTime"] = now
            body = _lease(metadata, before | spec)
            self._api.replace_lease(self._name, body, patience=self._patience)


def _lease(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": dict(metadata),
        "spec": dict(spec),
    }
