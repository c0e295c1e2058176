"""The objects of a stand-in API server: versions, history, owners, logs."""

from __future__ import annotations

import copy
import datetime
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

KINDS = {
    "jobsets": ("JobSet", "jobset.x-k8s.io/v1alpha2"),
    "pods": ("Pod", "v1"),
    "leases": ("Lease", "coordination.k8s.io/v1"),
    "networkpolicies": ("NetworkPolicy", "networking.k8s.io/v1"),
}
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
FOREGROUND = "foregroundDeletion"


class RefusedError(Exception):
    """An answer that is a Status of failure."""

    def __init__(self, code: int, reason: str, message: str, **details: Any):
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """What etcd holds of one namespace, and what the garbage collector makes of it."""

    def __init__(self, namespace: str = "charloom"):
        self.namespace = namespace
        self.changed = threading.Condition()
        """Held for each look and change; notified after each change and log line."""
        self.version = 100
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        """Version, plural, ADDED, MODIFIED or DELETED, and the object as it then was."""
        self.logs: dict[str, list[tuple[str, str]]] = {}
        """Stamps and lines by a pod's uid."""

    def created(self, plural: str) -> list[dict[str, Any]]:
        """Returns all objects that were ever made, as they were made."""
        with self.changed:
            return [
                one for _, kind, event, one in self.history if (kind, event) == (plural, "ADDED")
            ]

    def get(self, plural: str, name: str) -> dict[str, Any]:
        with self.changed:
            found = self.objects.get((plural, name))
            if found is None:
                raise RefusedError(
                    404, "NotFound", f'{plural} "{name}" not found', **_of(plural, name)
                )
            return copy.deepcopy(found)

    def list(
        self, plural: str, matches: Callable[[Mapping[str, Any]], bool]
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns objects, and the version at which they are so."""
        with self.changed:
            found = sorted(item for item in self.objects.items() if item[0][0] == plural)
            return [copy.deepcopy(item) for _, item in found if matches(item)], self.version

    def create(self, plural: str, body: Mapping[str, Any]) -> dict[str, Any]:
        kind, group = KINDS[plural]
        made = copy.deepcopy(dict(body))
        if (made.get("kind", kind), made.get("apiVersion", group)) != (kind, group):
            raise RefusedError(400, "BadRequest", f"{made.get('kind')} is no {kind} of {group}")
        metadata = made.setdefault("metadata", {})
        name = metadata.get("name", "")
        if metadata.get("resourceVersion"):
            raise RefusedError(
                400, "BadRequest", "resourceVersion should not be set on objects to be created"
            )
        if len(name) > 253 or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
            raise RefusedError(
                422, "Invalid", f'{kind} "{name}" is invalid: metadata.name', **_of(plural, name)
            )
        self._check(plural, made)
        with self.changed:
            if (plural, name) in self.objects:
                text = f'{plural} "{name}" already exists'
                raise RefusedError(409, "AlreadyExists", text, **_of(plural, name))
            made |= {"kind": kind, "apiVersion": group}
            metadata |= {"uid": str(uuid.uuid4()), "namespace": self.namespace, "generation": 1}
            metadata["creationTimestamp"] = now()
            if plural == "jobsets":
                made.pop("status", None)  # it is a subresource
            return self._put(plural, made, "ADDED")

    def change(
        self, plural: str, name: str, make: Callable[[dict[str, Any]], Any], *, status: bool = False
    ) -> dict[str, Any]:
        """Puts what `make` makes of an object in its place; of its status, or of the rest."""
        with self.changed:
            before = self.get(plural, name)
            after = make(copy.deepcopy(before))
            asked = after["metadata"].get("resourceVersion")
            if asked not in (None, before["metadata"]["resourceVersion"]):
                text = (
                    "the object has been modified; please apply your changes to the latest version"
                )
                raise RefusedError(409, "Conflict", text, **_of(plural, name))
            if after["metadata"].get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
                raise RefusedError(
                    409, "Conflict", "Precondition failed: UID in precondition", **_of(plural, name)
                )
            if after["metadata"].get("name", name) != name:
                raise RefusedError(
                    400, "BadRequest", "the name of the object does not match the name on the URL"
                )
            if status:
                after = before | {"status": after.get("status", {})}
            elif plural == "jobsets":
                after.pop("status", None)
                after |= {"status": before["status"]} if "status" in before else {}
            self._check(plural, after)
            for field in ("uid", "creationTimestamp", "namespace", "name"):
                after["metadata"][field] = before["metadata"][field]
            after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            if after == before:
                return before  # as the real one: nothing is written
            grown = after.get("spec") != before.get("spec")
            after["metadata"]["generation"] = before["metadata"]["generation"] + grown
            return self._put(plural, after, "MODIFIED")

    def delete(self, plural: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Deletes an object; a pod, or what waits for its dependents, is only marked."""
        with self.changed:
            found = self.get(plural, name)
            wanted = (options.get("preconditions") or {}).get("uid")
            if wanted not in (None, found["metadata"]["uid"]):
                raise RefusedError(
                    409, "Conflict", "Precondition failed: UID in precondition", **_of(plural, name)
                )
            foreground = options.get("propagationPolicy") == "Foreground"
            if plural != "pods" and not foreground:
                return self._remove(plural, found)
            if "deletionTimestamp" in found["metadata"]:
                return found
            found["metadata"]["deletionTimestamp"] = now()
            if foreground:
                found["metadata"].setdefault("finalizers", []).append(FOREGROUND)
            return self._put(plural, found, "MODIFIED")

    def collect(self) -> None:
        """Does what garbage collector and kubelets do in a while."""
        with self.changed:
            uids = {one["metadata"]["uid"] for one in self.objects.values()}
            waiting = {one["metadata"]["uid"] for one in self.objects.values()
                       if FOREGROUND in one["metadata"].get("finalizers", [])}  # fmt: skip
            owned: set[str] = set()
            for (plural, name), item in list(self.objects.items()):
                owners = {one["uid"] for one in item["metadata"].get("ownerReferences", [])}
                owned |= owners
                if plural == "pods" and "deletionTimestamp" in item["metadata"]:
                    self._remove(plural, item)
                elif owners and (not owners & uids or owners & waiting):
                    self.delete(plural, name, {})
            for (plural, _), item in list(self.objects.items()):
                if item["metadata"]["uid"] in waiting - owned:
                    self._remove(plural, item)

    def add_line(self, uid: str, text: str) -> None:
        """Adds a line to the log of a pod; stamps have nine digits, less trailing zeros."""
        with self.changed:
            stamp = time.time_ns()
            whole = datetime.datetime.fromtimestamp(stamp // 10**9, datetime.UTC)
            fraction = f".{stamp % 10**9:09d}".rstrip("0").rstrip(".")
            line = (f"{whole:%Y-%m-%dT%H:%M:%S}{fraction}Z", text)
            self.logs.setdefault(uid, []).append(line)
            self.changed.notify_all()

    def _check(self, plural: str, item: Mapping[str, Any]) -> None:
        if plural == "leases":
            for field in ("renewTime", "acquireTime"):
                value = item.get("spec", {}).get(field)
                if value is not None and not MICRO_TIME.fullmatch(value):
                    raise RefusedError(400, "BadRequest", f'parsing time "{value}" as MicroTime')

    def _remove(self, plural: str, item: dict[str, Any]) -> dict[str, Any]:
        gone = self._put(plural, copy.deepcopy(item), "DELETED")
        del self.objects[plural, gone["metadata"]["name"]]
        return gone

    def _put(self, plural: str, item: dict[str, Any], event: str) -> dict[str, Any]:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.objects[plural, item["metadata"]["name"]] = item
        self.history.append((self.version, plural, event, copy.deepcopy(item)))
        self.changed.notify_all()
        return copy.deepcopy(item)


def merge(target: Any, patch: Any) -> Any:
    """Returns an object with a merge patch (RFC 7386) applied."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def apply_json_patch(target: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns an object with a JSON patch (RFC 6902: add, replace, remove, test) applied."""
    for step in patch:
        *path, last = [part.replace("~1", "/").replace("~0", "~")
                       for part in step["path"].split("/")[1:]]  # fmt: skip
        parent: Any = target
        try:
            for part in path:
                parent = parent[int(part) if isinstance(parent, list) else part]
            key: Any = last if isinstance(parent, dict) or last == "-" else int(last)
            if step["op"] == "add" and isinstance(parent, list):
                parent.insert(len(parent) if key == "-" else key, step["value"])
            elif step["op"] == "add":
                parent[key] = step["value"]
            elif step["op"] == "remove":
                del parent[key]
            elif step["op"] == "replace":
                parent[key], _ = step["value"], parent[key]
            elif parent[key] != step["value"]:
                raise KeyError(key)
        except (KeyError, IndexError, ValueError, TypeError):
            text = f"the server rejected our request due to an error in our request: {step}"
            raise RefusedError(422, "Invalid", text) from None
    return target


def _of(plural: str, name: str) -> dict[str, str]:
    group = KINDS[plural][1].rpartition("/")[0]
    return {"name": name, "kind": plural} | ({"group": group} if group else {})
