"""Threads that follow a JobSet: its changes, its pods' ends, worker 0's log, and its lease."""

from __future__ import annotations

import contextlib
import datetime
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from components.train.cluster.api import _RAW, ClusterApi, watch_events
from components.train.cluster.outcome import rank_of
from model.errors import RestartableError

GONE = "DELETED"


class Mirror:
    """Keeps up with a list of objects: lists, watches, and lists again after a fault."""

    def __init__(
        self,
        api: ClusterApi,
        send: Callable[..., Any],
        *,
        what: str,
        events: queue.SimpleQueue[tuple[str, Any]],
    ):
        """Follows nothing yet.

        Args:
          api: the connection.
          send: sends a list or a watch.
          what: name of the objects in messages, and of the events.
          events: gets (what, object); (what, None) when one was deleted, and (what, error)
            when following has come to its end.
        """
        self._api = api
        self._send = send
        self._what = what
        self._events = events
        self._known: set[str] = set()

    def start(self) -> None:
        """Follows in a thread of its own until the connection's `stop` is set."""
        threading.Thread(target=self._follow, name=f"mirror-{self._what}", daemon=True).start()

    def _follow(self) -> None:
        try:
            while not self._api.stop.is_set():
                version = self._list()
                try:
                    self._watch(version)
                except (ApiException, urllib3.exceptions.HTTPError, OSError, ValueError, KeyError):
                    self._api.stop.wait(self._api.pace.first_wait)  # listed anew, as after 410
        except Exception as error:  # whatever it is: without us the launcher would wait for ever
            self._events.put((self._what, error))

    def _list(self) -> str:
        answer = self._api.call(lambda: self._send(**_RAW), f"list the {self._what}")
        found = {item["metadata"]["uid"] for item in answer["items"]}
        for item in answer["items"]:
            self._events.put((self._what, item))
        if self._known - found:
            self._events.put((self._what, None))
        self._known = found
        return str(answer["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> None:
        for kind, item in watch_events(self._send, version=version, seconds=self._api.pace.watch):
            if self._api.stop.is_set():
                return
            uid = item["metadata"]["uid"]
            self._events.put((self._what, item))
            if kind == GONE:
                self._known.discard(uid)
                self._events.put((self._what, None))
            else:
                self._known.add(uid)


class LogPrinter:
    """Prints the log of worker 0, of one pod after another; no line twice."""

    def __init__(self, api: ClusterApi, show: Callable[[str], None]):
        """Prints nothing yet.

        Args:
          api: the connection.
          show: gets each line.
        """
        self._api = api
        self._show = show
        self._pods: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: set[str] = set()
        self._running: set[str] = set()
        self._thread = threading.Thread(target=self._print_all, name="log", daemon=True)
        self._thread.start()

    def update(self, pod: Mapping[str, Any]) -> None:
        """Hears of a pod's state; its log is printed once it runs."""
        name, phase = pod["metadata"]["name"], pod.get("status", {}).get("phase")
        if rank_of(pod) != 0 or phase not in ("Running", "Succeeded", "Failed"):
            return
        if phase == "Running":
            self._running.add(name)
        else:
            self._running.discard(name)
        if name not in self._seen:
            self._seen.add(name)
            self._pods.put(name)

    def finish(self, seconds: float) -> None:
        """Prints what is left, for so long at most."""
        self._running.clear()
        self._pods.put(None)
        self._thread.join(seconds)

    def _print_all(self) -> None:
        while name := self._pods.get():
            position = _Position()
            while not self._print(name, position) and not self._api.stop.is_set():
                self._api.stop.wait(self._api.pace.first_wait)

    def _print(self, name: str, position: _Position) -> bool:
        """Prints a log as far as it can be read; returns whether that was all of it.

        An API server that loses the kubelet's side ends its answer as if all were well: it
        was all once the pod has ended and reading again brings nothing new.
        """
        running = name in self._running  # asked first: then all of its log is there
        position.begin()
        more = False
        try:
            response = self._api.open_log(name)
            lines = _Lines(response)
            try:
                for line in lines:
                    more |= self._show_new(line, position)
            finally:
                response.close()
        except ApiException as error:
            if error.status == 403:
                self._show(f"the workers' log can't be read: {error.reason}; see k8s/base")
            return error.status in (403, 404)  # 404: the pod is gone
        except (urllib3.exceptions.HTTPError, OSError):
            return False
        if running or more or lines.rest != position.rest:
            position.rest = lines.rest
            return False
        if lines.rest:
            self._show_new(lines.rest, position)
        return True

    def _show_new(self, line: str, position: _Position) -> bool:
        stamp, _, text = line.partition(" ")
        new = position.is_new(stamp)
        if new:
            self._show(text)
        return new


class _Position:
    """How far a log was printed, by its lines' time stamps; several may have the same."""

    def __init__(self) -> None:
        self._last, self._printed, self._skipped = "", 0, 0
        self.rest = ""
        """What came after the last whole line when the log was read last."""

    def begin(self) -> None:
        """The log is about to be read from its start again."""
        self._skipped = 0

    def is_new(self, stamp: str) -> bool:
        """Whether the next line was not printed so far."""
        if stamp == self._last and self._skipped < self._printed:
            self._skipped += 1
            return False
        if _as_time(stamp) < _as_time(self._last):
            return False
        if stamp != self._last:
            self._last, self._printed = stamp, 0
        self._printed += 1
        self._skipped = self._printed
        return True


def _as_time(stamp: str) -> tuple[str, str]:
    """Returns what orders RFC 3339 stamps of one zone whose fractions differ in length."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


class _Lines:
    """The whole lines of a stream, and the rest that came after the last of them."""

    def __init__(self, response: Any):
        self._response = response
        self.rest = ""

    def __iter__(self) -> Iterator[str]:
        rest = b""
        for block in self._response.stream(amt=None, decode_content=False):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", errors="replace")
        self.rest = rest.decode("utf-8", errors="replace")


class LeaseKeeper:
    """Renews the lease without which the workers end."""

    def __init__(
        self,
        api: ClusterApi,
        jobset: Mapping[str, Any],
        *,
        seconds: int,
        holder: str,
        events: queue.SimpleQueue[tuple[str, Any]],
    ):
        """Renews nothing yet.

        Args:
          api: the connection.
          jobset: whose lease it is; the lease has its name and is removed with it.
          seconds: how long the lease is good.
          holder: name of the launcher's pod.
          events: gets ("lease", error) if the lease can't be renewed whatever is waited for.
        """
        self._api = api
        self._name = jobset["metadata"]["name"]
        self._uid = jobset["metadata"]["uid"]
        self._seconds = seconds
        self._holder = holder
        self._events = events
        self._patience = seconds / 4
        self._stop = threading.Event()

    def __enter__(self) -> LeaseKeeper:
        threading.Thread(target=self._keep, name="lease", daemon=True).start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()

    def _keep(self) -> None:
        while not self._stop.is_set() and not self._api.stop.is_set():
            try:
                # A fault that passes is for the next time: the workers ask the same server.
                with contextlib.suppress(RestartableError, ApiException):
                    self._renew()
            except Exception as error:  # else all workers would end, and nobody say why
                self._events.put(("lease", error))
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
        owner = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "name": self._name,
            "uid": self._uid,
        }
        if found is None:
            metadata: dict[str, Any] = {"name": self._name, "ownerReferences": [owner]}
            spec["acquireTime"] = now
            self._api.create_lease(_lease(metadata, spec), patience=self._patience)
        else:
            metadata = found["metadata"] | {"ownerReferences": [owner]}
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
