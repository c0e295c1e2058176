"""The log of worker 0, read again and again as its pods come and go."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from components.train.cluster.api import ClusterApi
from components.train.cluster.outcome import attempt_of, rank_of

_OVERLAP_SECONDS = 60.0
"""How much more than what is new is read: the clocks of launcher and node may differ."""


class WorkerLog:
    """Prints the log of worker 0, of one pod after another; no line twice."""

    def __init__(self, api: ClusterApi, show: Callable[[str], None]):
        """Prints nothing yet.

        Args:
          api: the connection.
          show: gets each line.
        """
        self._api = api
        self._show = show
        self._positions: dict[str, _Position] = {}
        self._whole: set[str] = set()

    def update(self, pods: Sequence[Mapping[str, Any]]) -> bool:
        """Prints what is new, as far as it can be read.

        Args:
          pods: of all workers.

        Returns:
          Whether that was all of the log of each pod that has started.
        """
        started = [
            pod
            for pod in sorted(pods, key=lambda pod: attempt_of(pod, default=0))
            if rank_of(pod) == 0 and pod.get("status", {}).get("phase") in _STARTED
        ]
        names = {pod["metadata"]["name"] for pod in started}
        for pod in started:
            name = pod["metadata"]["name"]
            position = self._positions.setdefault(name, _Position())
            if name not in self._whole and self._print(
                name, position, running=pod["status"]["phase"] == "Running"
            ):
                self._whole.add(name)
        return names <= self._whole

    def _print(self, name: str, position: _Position, *, running: bool) -> bool:
        """Prints a log as far as it can be read; returns whether that was all of it.

        An API server that loses the kubelet's side ends its answer as if all were well: it
        was all once the pod has ended and reading again brings nothing new.
        """
        position.begin()
        more = False
        try:
            response = self._api.open_log(name, since_seconds=position.age())
            lines = _LineReader(response)
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


_STARTED = ("Running", "Succeeded", "Failed")


class _Position:
    """How far a log was printed, by its lines' time stamps; several may have the same."""

    def __init__(self) -> None:
        self._last, self._printed, self._skipped = "", 0, 0
        self.rest = ""
        """What came after the last whole line when the log was read last."""

    def begin(self) -> None:
        """The log is about to be read again, from `age` on."""
        self._skipped = 0

    def age(self) -> int | None:
        """Returns within how many seconds all lines from the last one on were written.

        None if that can't be told: before the first line, or when its stamp is no time.
        """
        try:
            last = datetime.datetime.fromisoformat(self._last)
            seconds = (datetime.datetime.now(datetime.UTC) - last).total_seconds()
        except (ValueError, TypeError):
            return None
        return math.ceil(max(0.0, seconds) + _OVERLAP_SECONDS)

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


class _LineReader:
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
